"""Which corpora a training used, as its record and its model's tags tell it: one, or a mixture of several.

Both say `corpus`, `corpus_digest` and `tokens` of the main corpus, whose held-out text measures the model. Where there
are more, they say `more_corpora` (each with corpus, corpus_digest, weight and caps) and `more_tokens` (paths, in the
same order) as well: as JSON values in a record, as their text in tags.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DRAWN_TAG = "drawn_tokens"


@dataclass(frozen=True, kw_only=True)
class TrainedCorpus:
    """One corpus version of a training; empty where the training does not say."""

    corpus: str = ""  # name@version
    digest: str = ""
    tokens: str = ""  # path of its token shards
    is_main: bool = True

    @property
    def tokens_name(self) -> str:
        """Of the folder of its shards, which also fits a store that was moved since."""
        return Path(self.tokens).name if self.tokens else ""


def trained_corpora(facts: Mapping[str, Any]) -> tuple[TrainedCorpus, ...]:
    """Of a run's record, or of a model version's tags, whichever program wrote them; the main corpus first."""
    main = TrainedCorpus(
        corpus=str(facts.get("corpus", "")),
        digest=str(facts.get("corpus_digest", "")),
        tokens=str(facts.get("tokens", "")),
    )
    more, folders = _list(facts.get("more_corpora")), _list(facts.get("more_tokens"))
    folders += [""] * (len(more) - len(folders))
    return (
        main,
        *(
            TrainedCorpus(corpus=each["corpus"], digest=each["corpus_digest"], tokens=folder, is_main=False)
            for each, folder in zip(more, folders, strict=True)
        ),
    )


def mixture_tags(
    more_corpora: Sequence[Mapping[str, Any]], more_tokens: Sequence[Path], drawn_tokens: Mapping[str, int]
) -> dict[str, str]:
    """What the tags of a model of several corpora say besides; `drawn_tokens` by name@version, the main one too."""
    values = {
        "more_corpora": list(more_corpora),
        "more_tokens": [str(folder) for folder in more_tokens],
        DRAWN_TAG: dict(drawn_tokens),
    }
    return {name: json.dumps(value) for name, value in values.items()}


def _list(value: Any) -> list[Any]:
    return list(json.loads(value) if isinstance(value, str) else value or ())
