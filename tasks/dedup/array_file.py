"""Arrays in `.npy` files that are larger than memory: appended to piece by piece, read by memory-mapped ranges."""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray


class ArrayWriter:
    """Writes an array of unknown length piece by piece along its first axis; complete when its block has ended.

    The header is written anew at the end: NumPy leaves room in it for the first axis to grow.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], *row_shape: int) -> None:
        self._file = path.open("wb")
        self._dtype, self._row_shape = dtype, row_shape
        self.num_rows = 0
        self._start = self._write_header()

    def _write_header(self) -> int:
        """Write the header for the rows there are now; where the rows begin."""
        self._file.seek(0)
        shape = (self.num_rows, *self._row_shape)
        header = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(self._file, header)
        return self._file.tell()

    def write(self, piece: NDArray[Any]) -> None:
        assert piece.dtype == self._dtype and piece.shape[1:] == self._row_shape
        self._file.write(np.ascontiguousarray(piece).tobytes())
        self.num_rows += len(piece)

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            start = self._write_header()
            assert start == self._start
        self._file.close()


def open_array(path: Path) -> NDArray[Any]:
    """The array in a file, memory-mapped: only what is looked at is read."""
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def sorted_range(column: NDArray[Any], first: int, last: int) -> slice:
    """Where the values `first` up to, not including, `last` stand in an ascending memory-mapped column.

    Looks at some `log2(len)` values; `np.searchsorted` would copy a column that is not contiguous.
    """
    start = bisect_left(column, first)
    return slice(start, bisect_left(column, last, lo=start))
