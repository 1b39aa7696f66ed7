"""MinHash signatures: a fixed number of hashes per text, equal in about as many places as two texts are similar.

    text -> words -> shingles (runs of `shingle_words` words), each hashed to 64 bits -> signature -> band keys

The share of equal entries in two signatures estimates the Jaccard similarity of the two texts' sets of shingles
(Broder, "On the resemblance and containment of documents", 1997). Texts are candidates when all rows of one band are
equal, which happens with probability `1 - (1 - s^rows)^bands` at similarity `s` (Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", section 3.4).

Every hash here is fixed by this file and the configuration alone: the same text has the same signature in every
process, on every machine and under every numpy. What may move it is the Unicode version of the Python that runs
(`unicodedata.unidata_version`), for characters that one version knows and the other does not.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tasks.rule import Configuration

Hashes = NDArray[np.uint64]

SHINGLES_PER_CHUNK = 1 << 15
"""Shingles that pass through all permutations together: 256 KiB, so that they stay in a core's second-level cache."""

WORDS_AT_HAND = 1 << 17
CHARS_AT_HAND = 64
"""How many words' hashes are kept, some 16 MB (500 web pages have 31,000 different words), and of what length: what
is longer is no word that comes again, and may be megabytes of digits."""

GOLDEN_GAMMA = 0x9E3779B97F4A7C15
"""2^64 / golden ratio, odd: the step of SplitMix64 (Steele, Lea and Flood, 2014)."""

SHINGLE_MULTIPLIER = np.uint64(0xD1342543DE82EF95)
"""A multiplier for linear generators modulo 2^64 with a good spectrum (Steele and Vigna, 2021)."""

# Letters of Thai, Lao, Myanmar, Khmer, kana and Han: written without spaces, so that a "word" would be a sentence.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]"
)


class MinHash(Configuration):
    """How texts become signatures. The defaults are FineWeb's (Penedo et al. 2024, arXiv:2406.17557)."""

    num_bands: int = Field(14, ge=1, le=128, description="Bands of the signature; more find more pairs (FineWeb: 14)")
    rows_per_band: int = Field(8, ge=1, le=64, description="Hashes in a band; more demand more similarity (FineWeb: 8)")
    shingle_words: int = Field(5, ge=1, le=64, description="Words in a shingle (FineWeb: 5)")
    seed: int = Field(1, ge=0, lt=2**32, description="Chooses the permutations (datatrove: 1)")

    @property
    def num_hashes(self) -> int:
        """Entries of a signature."""
        return self.num_bands * self.rows_per_band

    def match_probability(self, similarity: float) -> float:
        """Probability that two texts whose shingle sets have this Jaccard similarity share at least one band."""
        return float(1 - (1 - similarity**self.rows_per_band) ** self.num_bands)


class _Fold(dict[int, str]):
    """What a code point turns into; filled on demand, as `str.translate` asks for it."""

    def __missing__(self, code_point: int) -> str:
        folded = unicodedata.normalize("NFKD", chr(code_point)).casefold()
        self[code_point] = "".join(map(self._character, folded))
        return self[code_point]

    @staticmethod
    def _character(character: str) -> str:
        category = unicodedata.category(character)
        if category in ("Mn", "Me", "Cf"):
            return ""
        if category[0] == "L" and UNSPACED.match(character):
            return f" {character} "
        return character if category[0] in "LN" or category == "Mc" else " "


_FOLD = _Fold()


def words(text: str) -> list[str]:
    """The words of a text, in the form in which texts are compared. Every character is

    - decomposed (NFKD) and case-folded: full-width letters, ligatures and capitals are spelling, not content;
    - dropped if it is an accent (Mn, Me) or invisible (Cf: soft hyphen, joiner, direction mark): copies lose them;
    - a word of its own if it is a letter of a script without spaces (compare Unicode's annex 29);
    - otherwise kept if it is a letter, a digit or a spacing vowel sign (Mc), and a space if it is anything else.

    Numbers are **kept**: unlike in datatrove's default, where all numbers become one symbol, two tables or listings
    that differ in their figures differ here. A sign, a decimal point or a currency symbol is a space like other
    punctuation, so `3.5` is the two words `3 5`, which is still neither `35` nor `3.6`.
    """
    return text.translate(_FOLD).split()


class WordHashes(dict[str, int]):
    """64-bit BLAKE2b of a word. Words met lately are at hand; as most words have been met, few are hashed."""

    def __missing__(self, word: str) -> int:
        value = _hash_bytes(word, b"word")
        if len(word) <= CHARS_AT_HAND:
            if len(self) >= WORDS_AT_HAND:
                self.clear()
            self[word] = value
        return value


def _hash_bytes(text: str, use: bytes) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=use).digest(), "little")


def mix(values: Hashes) -> Hashes:
    """SplitMix64's finaliser: a bijection on 64 bits in which every input bit moves every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _combine(columns: Sequence[Hashes]) -> Hashes:
    """One hash per position out of the hashes that stand there in each column, in order; also says how many."""
    combined = np.full_like(columns[0], len(columns))
    for column in columns:
        combined = (combined + column) * SHINGLE_MULTIPLIER
    return mix(combined)


def permutations(config: MinHash) -> tuple[Hashes, Hashes]:
    """Factors (odd) and summands of the bijections `factor * shingle + summand` modulo 2^64, one per hash."""
    stream = mix(np.array([config.seed], dtype=np.uint64)) + np.uint64(GOLDEN_GAMMA) * np.arange(
        1, 2 * config.num_hashes + 1, dtype=np.uint64
    )
    values = mix(stream)
    return values[::2] | np.uint64(1), values[1::2]


def shingles(text: str, config: MinHash, word_hashes: WordHashes | None = None) -> Hashes:
    """The hashed shingles of a text in their order, repetitions included; at least one.

    A text of fewer than `shingle_words` words has one shingle: all its words. A text without any word has one
    shingle made of the text itself, so that it resembles exactly equal texts and no others.
    """
    lookup = WordHashes() if word_hashes is None else word_hashes
    found = words(text)
    if not found:
        return np.array([_hash_bytes(text, b"wordless text")], dtype=np.uint64)
    hashes = np.fromiter(map(lookup.__getitem__, found), dtype=np.uint64, count=len(found))
    width = min(config.shingle_words, len(found))
    num_shingles = len(found) - width + 1
    return _combine([hashes[offset : offset + num_shingles] for offset in range(width)])


def signatures(texts: Sequence[str], config: MinHash, word_hashes: WordHashes | None = None) -> Hashes:
    """Signatures of shape (texts, num_hashes): per permutation the smallest value that any shingle of a text takes.

    `word_hashes` may serve several calls. Memory beyond it and the result: a chunk of shingles, or the longest text's.
    """
    factors, summands = permutations(config)
    lookup = WordHashes() if word_hashes is None else word_hashes
    result = np.empty((len(texts), config.num_hashes), dtype=np.uint64)
    chunk: list[Hashes] = []
    num_pending = 0
    for row, text in enumerate(texts):
        chunk.append(shingles(text, config, lookup))
        num_pending += len(chunk[-1])
        if num_pending >= SHINGLES_PER_CHUNK or row == len(texts) - 1:
            _minima(chunk, factors, summands, out=result[row + 1 - len(chunk) : row + 1])
            chunk, num_pending = [], 0
    return result


def _minima(chunk: Sequence[Hashes], factors: Hashes, summands: Hashes, out: Hashes) -> None:
    values = np.concatenate(chunk)
    starts = np.cumsum([0] + [len(of_text) for of_text in chunk[:-1]])
    permuted = np.empty_like(values)
    for index, (factor, summand) in enumerate(zip(factors, summands, strict=True)):
        np.multiply(values, factor, out=permuted)
        np.add(permuted, summand, out=permuted)
        out[:, index] = np.minimum.reduceat(permuted, starts)


def bands(signatures: Hashes, config: MinHash) -> Hashes:
    """Band keys of shape (texts, num_bands): one 64-bit hash of the rows of each band."""
    rows = signatures.reshape(len(signatures), config.num_bands, config.rows_per_band)
    return _combine([rows[:, :, row] for row in range(config.rows_per_band)])


def estimated_jaccard(left: Hashes, right: Hashes) -> NDArray[np.float64]:
    """Share of equal entries of signatures of shape (texts, num_hashes), pair by pair: (texts,), within [0, 1].

    Unbiased; its standard deviation at similarity `s` is `sqrt(s (1 - s) / num_hashes)`.
    """
    return np.asarray((left == right).mean(axis=1, dtype=np.float64))
