"""The corpora of a planned run: how much would be drawn of each, before any of them is tokenised.

The same arithmetic as the loader's (`tasks.mixture`), on counted sizes where a corpus was tokenised before, else on
estimated ones.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.mixture import Mixture, MixtureSource, integer_weights
from tasks.pack import FORMAT_VERSION, MANIFEST, SPLITS
from tasks.version_facts import BYTES_PER_TOKEN

_BYTES_PER_TOKEN_OF = ((259, 1.0), (512, 1.89), (1024, 2.42), (2048, 2.92), (4096, 3.39), (8192, 3.78), (16_384, 4.07))
_LARGEST = (50_257, 4.4)
"""By vocabulary size: a tokenizer of this project on the text that it was trained on, measured on 3.4 MB of Debian's
documentation in several languages; the largest is GPT-2's on web text (`tasks.version_facts`)."""

CLEARLY_SMALLER = 2
"""An estimated corpus is refused where even so many times as many tokens would not make one batch."""


def bytes_per_token(vocab_size: int) -> float:
    """About: between the measured vocabularies along the logarithm of their size, beyond the largest as that one."""
    sizes, known = zip(*_BYTES_PER_TOKEN_OF, _LARGEST, strict=True)
    if vocab_size >= sizes[-1]:
        return float(known[-1])
    above = max(1, bisect.bisect_right(sizes, vocab_size))
    share = math.log(vocab_size / sizes[above - 1]) / math.log(sizes[above] / sizes[above - 1])
    return float(known[above - 1] + max(0.0, share) * (known[above] - known[above - 1]))


@dataclass(frozen=True, kw_only=True)
class CountedTokens:
    """Of a corpus version's token shards."""

    train: int
    held_out: int


def counted_tokens(folders: Iterable[Path], *, tokenizer_sha256: str, held_out_fraction: float) -> CountedTokens | None:
    """Of those complete folders of token shards that this tokenizer and split made; None where there is none."""
    for folder in folders:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if (
            manifest["format_version"] == FORMAT_VERSION
            and manifest["tokenizer_sha256"] == tokenizer_sha256
            and manifest["held_out"]["fraction"] == held_out_fraction
        ):
            counts = {name: sum(bucket[name]["num_tokens"] for bucket in manifest["buckets"]) for name in SPLITS}
            return CountedTokens(**counts)
    return None


@dataclass(frozen=True, kw_only=True)
class CorpusFacts:
    """What is known of a corpus version without reading it, and its part in a mixture."""

    reference: str  # name@version
    estimated_tokens: int  # at `tasks.version_facts.BYTES_PER_TOKEN`
    documents: int
    token_shards: tuple[str, ...] = ()  # those that were made of it before, with whatever tokenizer
    counted: CountedTokens | None = None  # of those made with the tokenizer of the run
    weight: float = 1.0
    max_epochs: float | None = None
    max_tokens: int | None = None

    def tokens(self, vocab_size: int) -> int:
        """In all: those counted, or about."""
        if self.counted is not None:
            return self.counted.train + self.counted.held_out
        return int(self.estimated_tokens * BYTES_PER_TOKEN / bytes_per_token(vocab_size))

    def train_tokens(self, held_out_fraction: float, vocab_size: int) -> int:
        """In one pass over what is not held out."""
        if self.counted is not None:
            return self.counted.train
        return int(self.tokens(vocab_size) * (1 - held_out_fraction))

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

    def __init__(
        self, corpora: Sequence[CorpusFacts], *, held_out_fraction: float, seq_len: int, vocab_size: int
    ) -> None:
        self._corpora, self._seq_len = tuple(corpora), seq_len
        self._tokens = [corpus.train_tokens(held_out_fraction, vocab_size) for corpus in corpora]
        self._windows = [max(1, (tokens - 1) // seq_len) for tokens in self._tokens]
        self.tokens_per_epoch = sum(self._windows) * seq_len
        caps = [
            corpus.source(Path()).max_sequences(windows, seq_len)
            for corpus, windows in zip(self._corpora, self._windows, strict=True)
        ]
        self._weights = integer_weights([corpus.weight for corpus in corpora])
        self._mixture = Mixture(self._weights, caps)

    def check_batch(self, batch_tokens: int, num_shares: int = 1) -> None:
        """ValueError for a corpus of less than its part of one batch, with the largest batch in `num_shares` equal
        shares that it allows. Of an estimated one only where it is clearly less."""
        batch_sequences, total = batch_tokens // self._seq_len, sum(self._weights)
        allowed, problem = batch_sequences, ""
        for corpus, tokens, weight in zip(self._corpora, self._tokens, self._weights, strict=True):
            windows, needed = max(0, tokens - 1) // self._seq_len, -(-batch_sequences * weight // total)
            if windows * (1 if corpus.counted else CLEARLY_SMALLER) >= needed:
                continue
            allowed = min(allowed, windows * total // weight)
            problem = problem or (
                f"corpus {corpus.reference} has {'' if corpus.counted else 'about '}{tokens:,} tokens to train on, "
                f"{windows:,} sequences of {self._seq_len}; one batch needs {needed:,} of it"
            )
        if not problem:
            return
        fits = allowed // num_shares * num_shares * self._seq_len
        change = f"it fits with global_batch_tokens={fits}" if fits else "use a smaller seq_len"
        raise ValueError(f"{problem}: {change}, or use a larger corpus")

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
