"""Quality as a fastText classifier sees it: does this read like text that somebody chose, or like a page as it comes?

After DCLM (Li et al. 2024, arXiv:2406.11794, section 4.4): a linear model on words and pairs of words tells good text
from what a crawl brings, a document gets the probability of "good", and the best tenth of a corpus is kept. Which text
counts as good is all that such a classifier knows, and it takes everything else for worse: poems, code and recipes, too
where there were none among its examples. The embedded one is described in `tasks/classifiers/embedded/quality/card.md`.

A share means the same with every model and every corpus, a score does not: other people's limits (.018112, DCLM's) are
for other people's models.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from tasks.checks import Check
from tasks.classifiers.bundle import embedded, load_bundle
from tasks.classifiers.fast_text import load_fast_text
from tasks.classifiers.normalise import normalised
from tasks.model_files import ModelName, model_files, model_path
from tasks.quality_share import rounded
from tasks.share_rule import ShareRule
from tasks.text_features import TextFeatures

EMBEDDED = "quality"


class Quality(ShareRule):
    """Drops a document whose quality is less than `min_score`, or keeps the best `keep_share` of a corpus; where
    neither is given, drops below the classifier's own threshold, which is what its card's figures are for.

    Reasons: quality, empty. A document in a language that the classifier has not been trained on passes, and is none of
    those that a share is taken of. Of a model that is one file nothing is known of languages: all are judged.
    """

    kind: Literal["quality"] = "quality"
    libraries: ClassVar[tuple[str, ...]] = ("fasttext-wheel",)

    model: ModelName = Field(
        "",
        description="The classifier: empty for the embedded one, name@version or name@alias of the registry, or a path"
        " or address with #sha256=...",
    )
    label: str = Field(
        "", description="Of a model that is one file: its label for good text, without __label__ (DCLM's: hq)."
    )

    def files(self) -> tuple[Path, ...]:
        return model_files(self.model, embedded(EMBEDDED))

    def limit(self, field: str) -> float:
        """Raises ValueError where no limit is given and the model, a single file, has no threshold of its own."""
        if field != "min_score" or self.min_score is not None:
            return super().limit(field)
        path = model_path(self.model, embedded(EMBEDDED))
        if not path.is_dir():
            raise ValueError(
                f"the model {self.model} is one file, of which no threshold is known: give quality.min_score or"
                " quality.keep_share (--set quality.keep_share=0.1)"
            )
        return rounded(load_bundle(path).classifier.threshold)

    def checks(self) -> tuple[Check, ...]:
        """Raises ValueError where the model is missing, judges no whole documents, or has no label that means good."""
        probability, languages = self._probability()

        def quality(features: TextFeatures) -> float | None:
            if languages and features.document.language not in ("", *languages):
                return None
            return rounded(probability(features.text))

        return (Check("quality", "min_score", "below", quality, "probability that the text is good"),)

    def _probability(self) -> tuple[Callable[[str], float], tuple[str, ...]]:
        """The score of a text, and the languages that it means something in; no languages: all."""
        path = model_path(self.model, embedded(EMBEDDED))
        if path.is_dir():
            bundle = load_bundle(path)
            if self.label:
                raise ValueError(f"quality.label={self.label!r} is for a model that is one file; {path} names its own")
            if bundle.classifier.unit != "document":
                raise ValueError(
                    f"the classifier {bundle.classifier.name} in {path} was trained on the unit"
                    f" {bundle.classifier.unit!r}, but quality is of whole documents: give quality.model one that was"
                    " trained with --unit document"
                )
            return (lambda text: bundle.probabilities([text])[0]), bundle.classifier.languages
        model = load_fast_text(path)
        if self.label not in model.labels:
            raise ValueError(
                f"the model {self.model} has the labels {', '.join(model.labels[:20])}: say which of them means good"
                " text (--set quality.label=...)"
            )
        return functools.partial(_probability_of, path, self.label), ()


def _probability_of(path: Path, label: str, text: str) -> float:
    return load_fast_text(path).probabilities(normalised("plain_line", [text]), label)[0]
