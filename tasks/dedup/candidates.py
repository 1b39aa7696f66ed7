"""Who shares a band with whom, among the distinct texts of one partition, and what they are compared by.

A text's signature, band keys and shingles are those of all documents that have it, so everything here is numbered by
text: twenty thousand copies of a page are one text.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from tasks.dedup.signature import Hashes, MinHash, bands

TEXTS_PER_BATCH = 8192


class Scratch:
    """64-bit numbers appended to a nameless file, then mapped: the system drops pages that nobody looks at.

    The file vanishes with the process, however that ends.
    """

    def __init__(self, directory: Path) -> None:
        self._file: BinaryIO = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - lives as long as this object
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, values: Hashes) -> None:
        self._file.write(values.astype("<u8").tobytes())
        self._length += values.size

    def mapped(self) -> Hashes:
        """All numbers so far, read-only."""
        self._file.flush()
        if not self._length:
            return np.empty(0, dtype=np.uint64)
        return np.frombuffer(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ), dtype="<u8")


class BandGroups:
    """For each text, the documents met so far that share a band with it.

    A group is a band key that two or more texts have. Memory: 16 bytes for each text and each of its bands that is
    shared, while grouping three times that, and 8 bytes for every text and band.
    """

    def __init__(self, signatures: Callable[[NDArray[np.int64]], Hashes], num_texts: int, config: MinHash) -> None:
        """`signatures` gives those of texts by number, of shape (texts, num_hashes)."""
        keys = np.empty((config.num_bands, num_texts), dtype=np.uint64)
        for first in range(0, num_texts, TEXTS_PER_BATCH):
            texts = np.arange(first, min(first + TEXTS_PER_BATCH, num_texts))
            keys[:, texts] = bands(signatures(texts), config).T
        groups_of_text, texts_of_group, num_groups = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
        for of_band in keys:
            _, groups, sizes = np.unique(of_band, return_inverse=True, return_counts=True)
            shared = sizes > 1
            numbers = np.cumsum(shared) - 1 + num_groups
            texts = np.flatnonzero(shared[groups])
            texts_of_group.append(texts)
            groups_of_text.append(numbers[groups[texts]])
            num_groups += int(shared.sum())
        texts, groups = np.concatenate(texts_of_group), np.concatenate(groups_of_text)
        order = np.argsort(texts, kind="stable")
        self._groups = groups[order]
        self._first_of_text = np.searchsorted(texts[order], np.arange(num_texts + 1))
        self._first_of_group = np.concatenate([[0], np.cumsum(np.bincount(groups, minlength=num_groups))])
        self._num_met = np.zeros(num_groups, dtype=np.int64)
        self._met = np.empty(len(groups), dtype=np.int64)

    def shares_any(self) -> NDArray[np.bool_]:
        """Per text whether any other text shares a band with it."""
        return self._first_of_text[1:] > self._first_of_text[:-1]

    def add(self, text: int, document: int) -> None:
        """A document with this text is met; of each text one at most."""
        groups = self._groups[self._first_of_text[text] : self._first_of_text[text + 1]]
        self._met[self._first_of_group[groups] + self._num_met[groups]] = document
        self._num_met[groups] += 1

    def met(self, text: int) -> NDArray[np.int64]:
        """The documents met that share a band with this text: in no order, and again for each band more."""
        groups = self._groups[self._first_of_text[text] : self._first_of_text[text + 1]]
        firsts, counts = self._first_of_group[groups], self._num_met[groups]
        parts = [self._met[first : first + count] for first, count in zip(firsts, counts, strict=True) if count]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def blocks(values: NDArray[np.int64], smallest: int = 8, largest: int = 1024) -> Iterable[NDArray[np.int64]]:
    """The distinct `values`, ascending, in slices that double in length: the first few decide, or all go by fast."""
    values, first, length = np.unique(values), 0, smallest
    while first < len(values):
        yield values[first : first + length]
        first, length = first + length, min(2 * length, largest)
