"""The corpora of a planned run: how much would be drawn of each, before any of them is tokenised.

The same arithmetic as the loader's (`tasks.mixture`), on estimated sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.mixture import Mixture, MixtureSource, integer_weights


@dataclass(frozen=True, kw_only=True)
class CorpusFacts:
    """What is known of a corpus version without reading it, and its part in a mixture."""

    reference: str  # name@version
    estimated_tokens: int
    documents: int
    token_shards: tuple[str, ...] = ()  # those that were made of it before
    weight: float = 1.0
    max_epochs: float | None = None
    max_tokens: int | None = None

    def train_tokens(self, held_out_fraction: float) -> int:
        """In one pass over what is not held out."""
        return int(self.estimated_tokens * (1 - held_out_fraction))

    def source(self, tokens_dir: Path) -> MixtureSource:
        """For training, with its token shards."""
        return MixtureSource(
            corpus=self.reference,
            tokens_dir=tokens_dir,
            weight=self.weight,
            max_epochs=self.max_epochs,
            max_tokens=self.max_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class PlannedShare:
    """What a run would be trained on of one corpus."""

    corpus: str
    weight: float
    tokens: int
    epochs: float


class PlannedMixture:
    """Corpora by weight and caps. ValueError for weights that are too fine, and for caps that leave no batch."""

    def __init__(self, corpora: Sequence[CorpusFacts], *, held_out_fraction: float, seq_len: int) -> None:
        self._corpora, self._seq_len = tuple(corpora), seq_len
        self._windows = [max(1, corpus.train_tokens(held_out_fraction) // seq_len) for corpus in corpora]
        self.tokens_per_epoch = sum(corpus.train_tokens(held_out_fraction) for corpus in corpora)
        caps = [
            corpus.source(Path()).max_sequences(windows, seq_len)
            for corpus, windows in zip(self._corpora, self._windows, strict=True)
        ]
        self._mixture = Mixture(integer_weights([corpus.weight for corpus in corpora]), caps)

    def num_steps(self, wanted_steps: int, batch_tokens: int) -> int:
        """As many of the wanted steps as the caps allow, at least 1."""
        total = self._mixture.num_sequences
        if total is None:
            return wanted_steps
        allowed = total // (batch_tokens // self._seq_len)
        if not allowed:
            raise ValueError(
                f"max_epochs and max_tokens leave {total} sequences of {self._seq_len} in all, not one batch of "
                f"{batch_tokens} tokens: raise them, or use a smaller global_batch_tokens"
            )
        return min(wanted_steps, allowed)

    def shares(self, tokens: int) -> tuple[PlannedShare, ...]:
        """Of a run of so many tokens."""
        counts = self._mixture.counts(tokens // self._seq_len)
        return tuple(
            PlannedShare(
                corpus=corpus.reference,
                weight=corpus.weight,
                tokens=count * self._seq_len,
                epochs=round(count / windows, 2),
            )
            for corpus, count, windows in zip(self._corpora, counts, self._windows, strict=True)
        )
