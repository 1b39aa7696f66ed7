"""Keys: what two documents must have in common to be candidates. One 64-bit number per band, text and URL.

All levels share one space of keys. Each level's hashes go through a bijection of their own, so that keys of different
levels are as unrelated as random numbers: among `n` different keys some `n^2 / 2^65` pairs are equal by chance, two
among eight thousand million. A key only proposes a pair; what is equal is looked up before a document is removed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.dedup.signature import GOLDEN_GAMMA, Hashes, MinHash, bands, mix

KEY = np.dtype([("key", "<u8"), ("row", "<u4")])
"""An entry of a key run: `row` counts within the bucket's index file."""

_URL_LEVEL = 1  # after the text's, before the bands'


def row_keys(
    signatures: Hashes,
    text_hashes: Hashes,
    url_hashes: Hashes,
    has_url: NDArray[np.bool_],
    config: MinHash,
    first_row: int = 0,
) -> NDArray[np.void]:
    """The keys of some rows, of dtype `KEY`, row by row: one of the text, one of the URL if any, one of each band.

    `signatures` has the shape (rows, num_hashes), all others (rows,): 64 bits of the hash of a row's text and of its
    URL. `first_row` is the number of the first of these rows.
    """
    hashes = np.column_stack([text_hashes, url_hashes, bands(signatures, config)])
    present = np.ones(hashes.shape, dtype=bool)
    present[:, _URL_LEVEL] = has_url
    level_tags = np.arange(1, hashes.shape[1] + 1, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA)
    keys = np.empty(np.count_nonzero(present), dtype=KEY)
    keys["key"] = mix(hashes + level_tags)[present]
    keys["row"] = np.nonzero(present)[0] + first_row
    return keys


def sorted_run(keys: NDArray[np.void]) -> NDArray[np.void]:
    """Keys whose rows ascend, sorted by (key, row). Holds them twice (12 bytes a key), and their order (8)."""
    return keys[np.argsort(keys["key"], kind="stable")]
