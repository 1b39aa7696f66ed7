"""An index of the n-grams of examples, and the places of a text where one of them stands.

Every run of `ngram_words` words of a passage is looked for; a passage of fewer words, but at least `min_words`, as a
whole. GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix C) has 13 and 8 for these, the first being lowered to the
5th percentile of a benchmark's lengths, at least 8; here each passage has its own length. What is shorter is not
looked for: a few common words stand anywhere.

The words of a text become numbers and every run of n a hash of 64 bits, with numpy. A hash only rules out: where the
index has one too, the words are compared. Memory: some 30 bytes for each different n-gram, and each different word.
"""

from __future__ import annotations

import functools
import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from tasks.decontamination.sought import Sought
from tasks.decontamination.words import MIN_WORDS, NGRAM_WORDS, word_spans, words_of

MAX_EXAMPLES = 100
"""Of one task pack or file that share an n-gram, those of equal words counted once; one of more is what they are asked
with, and says nothing of any."""

_BASE = np.uint64(0x9E3779B97F4A7C15)
"""Of the polynomial hash modulo 2^64, as in tasks.n_grams."""
_OF_LENGTH = 0xD1B54A32D192ED03
"""Times n is added to the hash of n words, so that n-grams of all lengths have their place in one table."""
_FILTER_BITS_PER_NGRAM = 16  # a byte each: of the places without a match, every 16th is looked up in the table


@dataclass(frozen=True, slots=True)
class Found:
    """A stretch of a text that is also one of an example: n-grams that overlap or follow each other."""

    example: int
    """Its number in `ExampleIndex.examples`."""
    start_chars: int
    end_chars: int
    first_word: int
    num_words: int
    ngrams: tuple[int, ...]
    """Their numbers in the index, ascending, each once."""


class ExampleIndex:
    """The n-grams of some examples. Equal for the same examples in any order but for numbers."""

    def __init__(self, sought: Iterable[Sought], *, ngram_words: int = NGRAM_WORDS, min_words: int = MIN_WORDS) -> None:
        assert 1 <= min_words <= ngram_words
        self.examples: list[tuple[str, str]] = []
        """Task and example id, by number."""
        self._numbers: dict[str, int] = {}  # of the words, from 1
        words = array("i")
        starts, lengths, owners = array("q"), array("q"), array("i")
        different: dict[bytes, int] = {}
        contents = array("q")  # of each example; those of equal words have one
        for number, example in enumerate(sought):
            self.examples.append((example.task, example.example_id))
            content = hashlib.sha256()
            for passage in dict.fromkeys(example.passages):
                of_passage = words_of(passage)
                if len(of_passage) >= min_words:
                    starts.append(len(words))
                    lengths.append(len(of_passage))
                    owners.append(number)
                    words.extend([self._numbers.setdefault(word, len(self._numbers) + 1) for word in of_passage])
                    content.update(words[starts[-1] :].tobytes() + bytes(words.itemsize))  # no word has the number 0
            contents.append(different.setdefault(content.digest(), len(different)))
        self._contents = _as_array(contents)
        self._words: NDArray[np.int32] = np.frombuffer(words, np.int32) if words else np.empty(0, np.int32)
        runs = _Runs.of_passages(_as_array(starts), _as_array(lengths), _as_array(owners), ngram_words)
        self._lengths = np.unique(runs.lengths).tolist()
        self._build_table(runs)

    @property
    def num_ngrams(self) -> int:
        return len(self._hashes)

    @functools.cached_property
    def is_searched(self) -> NDArray[np.bool_]:
        """Of each example whether anything of it is looked for: it is long enough, and not shared by many."""
        searched = np.zeros(len(self.examples), np.bool_)
        searched[self._owners] = True
        return searched

    def num_searched(self) -> dict[str, tuple[int, int]]:
        """By pack or file: its examples, and those of which anything is looked for."""
        found: dict[str, tuple[int, int]] = {}
        for (task, _), is_searched in zip(self.examples, self.is_searched.tolist(), strict=True):
            examples, searched = found.get(_set_of(task), (0, 0))
            found[_set_of(task)] = examples + 1, searched + is_searched
        return found

    def owners(self, ngram: int) -> list[int]:
        """The numbers of the examples that have the n-gram, ascending."""
        of_ngram: list[int] = self._owners[self._offsets[ngram] : self._offsets[ngram + 1]].tolist()
        return of_ngram

    def fractions(self, is_found: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Of each example, the share of its different n-grams that are found; 0 where nothing is looked for.

        `is_found` says of each n-gram, by number, whether it is.
        """
        num_owners, num_examples = np.diff(self._offsets), len(self.examples)
        found = np.bincount(self._owners[np.repeat(is_found, num_owners)], minlength=num_examples)
        of_fraction: NDArray[np.float64] = found / np.maximum(np.bincount(self._owners, minlength=num_examples), 1)
        return of_fraction

    def find(self, text: str) -> tuple[Found, ...]:
        """Where examples stand in a text, by example and place."""
        words = words_of(text)
        numbers = np.fromiter(map(self._numbers.get, words, repeat(0)), np.int32, len(words))
        starts, ngrams = self._matches(numbers)
        return self._stretches(text, starts, ngrams) if len(starts) else ()

    def _build_table(self, runs: _Runs) -> None:
        """One row for each different n-gram, in the order of hashes, and the examples that have it.

        The numbers that words are hashed by are drawn anew until no two different n-grams have one hash.
        """
        for seed in range(1000):
            generator = np.random.Generator(np.random.PCG64(seed))
            self._word_hashes = generator.integers(0, 1 << 64, len(self._numbers) + 1, np.uint64)
            hashes = np.empty(len(runs.positions), np.uint64)
            for length, of_length in _run_hashes(self._word_hashes[self._words], self._lengths):
                chosen = runs.lengths == length
                hashes[chosen] = of_length[runs.positions[chosen]]
            self._hashes, first, row = np.unique(hashes, return_index=True, return_inverse=True)
            self._positions, self._ngram_words = runs.positions[first], runs.lengths[first]
            same_length = runs.lengths == self._ngram_words[row]
            if same_length.all() and self._same_words(self._words, runs.positions, row).all():
                break
        else:
            raise AssertionError("1,000 draws in a row, each with two n-grams of one hash")
        self._keep_telling(row, runs.owners)
        bits = max(10, int(len(self._hashes) * _FILTER_BITS_PER_NGRAM).bit_length())
        self._filter_shift = np.uint64(64 - bits)
        self._filter = np.zeros(1 << bits, np.bool_)
        self._filter[self._hashes >> self._filter_shift] = True

    def _keep_telling(self, row: NDArray[np.int64], owners: NDArray[np.int64]) -> None:
        """The owners of each n-gram; without the n-grams that have too many of one pack or file."""
        num_examples = max(1, len(self.examples))
        row, owners = np.divmod(np.unique(row * num_examples + owners), num_examples)
        sets = {name: number for number, name in enumerate(sorted({_set_of(task) for task, _ in self.examples}))}
        set_of = np.array([sets[_set_of(task)] for task, _ in self.examples], np.int64)
        num_contents = len(self._contents) + 1
        content_of_ngram = (row * max(1, len(sets)) + set_of[owners]) * num_contents + self._contents[owners]
        ngram_in_set, counts = np.unique(np.unique(content_of_ngram) // num_contents, return_counts=True)
        keeps = np.ones(len(self._hashes), np.bool_)
        keeps[ngram_in_set[counts > MAX_EXAMPLES] // max(1, len(sets))] = False
        self._hashes, self._positions = self._hashes[keeps], self._positions[keeps]
        self._ngram_words = self._ngram_words[keeps]
        num_owners = np.bincount(row, minlength=len(keeps))[keeps]
        self._offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(num_owners)))
        self._owners = owners[keeps[row]]

    def _same_words(
        self, words: NDArray[np.int32], positions: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Whether the words from each position on are the n-gram of that row. They are there in full."""
        same = np.ones(len(positions), np.bool_)
        known, lengths = self._positions[rows], self._ngram_words[rows]
        for offset in range(max(self._lengths, default=0)):
            within = np.flatnonzero(same & (lengths > offset))
            same[within] = words[positions[within] + offset] == self._words[known[within] + offset]
        return same

    def _matches(self, numbers: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First word and n-gram of every place where one stands."""
        starts, ngrams = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for length, hashes in _run_hashes(self._word_hashes[numbers], self._lengths):
            places = np.flatnonzero(self._filter[hashes >> self._filter_shift])
            if not places.size:
                continue
            rows = np.searchsorted(self._hashes, hashes[places])
            inside = rows < len(self._hashes)
            places, rows = places[inside], rows[inside]
            equal = (self._hashes[rows] == hashes[places]) & (self._ngram_words[rows] == length)
            if equal.any():
                places, rows = places[equal], rows[equal]
                same = self._same_words(numbers, places, rows)
                starts.append(places[same])
                ngrams.append(rows[same])
        return np.concatenate(starts), np.concatenate(ngrams)

    def _stretches(self, text: str, starts: NDArray[np.int64], ngrams: NDArray[np.int64]) -> tuple[Found, ...]:
        """Matches joined for each example that has them."""
        num_owners = self._offsets[ngrams + 1] - self._offsets[ngrams]
        match = np.repeat(np.arange(len(starts)), num_owners)
        owners = self._owners[_ranges(self._offsets[ngrams], num_owners)]
        order = np.lexsort((starts[match], owners))
        match, owners = match[order], owners[order]
        begins, ends = starts[match], starts[match] + self._ngram_words[ngrams[match]]
        span = int(ends.max()) + 1  # keeps examples apart: nothing of one reaches into the next one's places
        reached = np.maximum.accumulate(ends + owners * span)
        is_first = np.ones(len(match), np.bool_)
        is_first[1:] = begins[1:] + owners[1:] * span > reached[:-1]
        firsts = np.flatnonzero(is_first)
        lasts = np.append(firsts[1:], len(match))
        spans = word_spans(text)
        found = []
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
            begin, end = int(begins[first]), int(ends[first:last].max())
            of_stretch = tuple(np.unique(ngrams[match[first:last]]).tolist())
            found.append(Found(int(owners[first]), spans[begin][0], spans[end - 1][1], begin, end - begin, of_stretch))
        return tuple(found)


@dataclass(frozen=True)
class _Runs:
    """Every run of words that is looked for: where it begins, how long it is, whose it is."""

    positions: NDArray[np.int64]
    lengths: NDArray[np.int64]
    owners: NDArray[np.int64]

    @classmethod
    def of_passages(
        cls, starts: NDArray[np.int64], lengths: NDArray[np.int64], owners: NDArray[np.int64], ngram_words: int
    ) -> _Runs:
        run_words = np.minimum(lengths, ngram_words)
        num_runs = lengths - run_words + 1
        return cls(_ranges(starts, num_runs), np.repeat(run_words, num_runs), np.repeat(owners, num_runs))


def _run_hashes(values: NDArray[np.uint64], lengths: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """For each of the lengths, ascending: the hashes of all runs of so many values."""
    hashes = values
    for length in range(1, max(lengths, default=0) + 1):
        if length > 1:
            hashes = hashes[:-1] * _BASE + values[length - 1 :]
        if length in lengths:
            yield length, hashes + np.uint64(_OF_LENGTH * length % (1 << 64))


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """start, start + 1, ... of each length, one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def _as_array(values: array[int]) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def _set_of(task: str) -> str:
    return task.partition("/")[0]
