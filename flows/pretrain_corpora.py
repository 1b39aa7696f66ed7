"""The corpora of a pretraining: resolved to published versions, with their parts in the mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.parameters import CorpusShare, PretrainParameters
from tasks.held_out_copies import num_held_out_copies
from tasks.manifest import MANIFEST
from tasks.planned_mixture import CorpusFacts, counted_tokens
from tasks.store import Store


@dataclass(frozen=True)
class PlannedCorpus:
    """One corpus version, and how much is drawn of it."""

    folder: Path  # where it lies, or will lie when it is fetched
    manifest: Mapping[str, Any]
    share: CorpusShare

    @property
    def reference(self) -> str:
        return f"{self.manifest['name']}@{self.manifest['version']}"

    @property
    def digest(self) -> str:
        return str(self.manifest["digest"])

    @property
    def estimated_tokens(self) -> int:
        """ValueError for a version of an earlier program, which did not say."""
        if "estimated_tokens" not in self.manifest:
            raise ValueError(
                f"corpus {self.reference} does not say how many tokens it has, which a dry run, an approval and a least"
                " number of new tokens need: refresh it"
            )
        return int(self.manifest["estimated_tokens"])

    @property
    def pinned(self) -> CorpusShare:
        """The same share of this very version."""
        return self.share.model_copy(update={"corpus": self.reference})

    @property
    def identity(self) -> dict[str, Any]:
        """As a run's record has it."""
        share = self.share.model_dump(exclude={"corpus"})
        return {"corpus": self.reference, "corpus_digest": self.digest, **share}

    def facts(self, store: Store, *, tokenizer_sha256: str = "", held_out_fraction: float = 0.0) -> CorpusFacts:
        """What planning takes of it; its tokens are counted where this store has shards of that tokenizer and split."""
        found = sorted(store.tokens.glob(f"{self.digest[:16]}-*"))
        shards = [folder for folder in found if (folder / MANIFEST).is_file()]
        return CorpusFacts(
            reference=self.reference,
            estimated_tokens=self.estimated_tokens,
            documents=self.manifest["documents_kept"],
            token_shards=tuple(folder.name for folder in shards),
            counted=counted_tokens(shards, tokenizer_sha256=tokenizer_sha256, held_out_fraction=held_out_fraction),
            weight=self.share.weight,
            max_epochs=self.share.max_epochs or None,
            max_tokens=self.share.max_tokens or None,
        )


def planned_corpora(store: Store, parameters: PretrainParameters) -> tuple[PlannedCorpus, ...]:
    """The main corpus and those mixed with it. ValueError in one line for what is not there, twice, or too small."""
    found: list[PlannedCorpus] = []
    for share in (CorpusShare(corpus=parameters.corpus), *parameters.more_corpora):
        folder, manifest = store.version_folder(share.corpus), store.corpus_manifest(share.corpus)
        corpus = PlannedCorpus(folder, manifest, share)
        if manifest["documents_kept"] < 2:
            raise ValueError(
                f"corpus {corpus.reference} holds {manifest['documents_kept']} documents; it takes one to train on and"
                " one to hold out: name another version, or refresh with other rules"
            )
        for other in found:
            if other.manifest["name"] == manifest["name"]:
                raise ValueError(
                    f"corpus {manifest['name']!r} is named twice ({other.reference} and {corpus.reference}): name it"
                    " once, with one weight"
                )
            if other.digest == corpus.digest:
                raise ValueError(
                    f"corpora {other.reference} and {corpus.reference} hold the same documents: name one of them"
                )
        found.append(corpus)
    return tuple(found)


def held_out_copies(corpora: Sequence[PlannedCorpus], held_out_fraction: float) -> dict[str, int]:
    """Documents of each further corpus that are trained on and have exactly the text of one that measures the model.

    Corpora that only the store's remote has are left out: they are counted when the run has fetched them.
    """
    main, *others = corpora
    if not main.folder.is_dir():
        return {}
    return {
        other.reference: num_held_out_copies(main.folder, other.folder, held_out_fraction)
        for other in others
        if other.folder.is_dir()
    }


def copies_warning(copies: Mapping[str, int]) -> str:
    """What a person should know of them in one line; empty where there are none."""
    found = [f"{number:,} of {reference}" for reference, number in copies.items() if number]
    if not found:
        return ""
    return (
        f"{' and '.join(found)} documents in training have the text of one that is held out: the figures on held-out"
        " text will be better than they should be"
    )
