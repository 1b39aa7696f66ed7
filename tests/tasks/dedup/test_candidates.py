from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dedup import candidates
from tasks.dedup.candidates import BandGroups, Scratch, blocks
from tasks.dedup.signature import MinHash

MINHASH = MinHash(num_bands=3, rows_per_band=1)


@given(
    signatures=st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), max_size=20),
    met=st.data(),
)
def test_met_are_those_that_share_a_band(signatures: list[list[int]], met: st.DataObject) -> None:
    array = np.array(signatures, dtype=np.uint64).reshape(len(signatures), 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "TEXTS_PER_BATCH", 4)
        groups = BandGroups(lambda texts: array[texts], len(signatures), MINHASH)

    def share(one: int, other: int) -> bool:
        return any(left == right for left, right in zip(signatures[one], signatures[other], strict=True))

    texts = range(len(signatures))
    expected = [any(share(text, other) for other in texts if other != text) for text in texts]
    assert groups.shares_any().tolist() == expected

    added: list[int] = []
    for text in met.draw(st.permutations(texts)):
        assert {*groups.met(text).tolist()} == {1000 + place for place, other in enumerate(added) if share(text, other)}
        if met.draw(st.booleans()):
            groups.add(text, 1000 + len(added))
            added.append(text)


@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=5), max_size=5))
def test_scratch_gives_back_what_was_appended(parts: list[list[int]]) -> None:
    scratch = Scratch(Path(tempfile.gettempdir()))
    for number, part in enumerate(parts):
        assert len(scratch) == sum(map(len, parts[:number]))
        scratch.append(np.array(part, dtype=np.uint64))
    assert scratch.mapped().tolist() == [value for part in parts for value in part]


def test_scratch_leaves_no_name_behind(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    scratch.append(np.ones(3, dtype=np.uint64))
    mapped = scratch.mapped()
    assert list(tmp_path.iterdir()) == []
    assert not mapped.flags.writeable


@given(st.sets(st.integers(0, 10_000)), st.integers(1, 3))
def test_blocks_are_the_distinct_values_in_order(values: set[int], times: int) -> None:
    parts = list(blocks(np.array([*values] * times, dtype=np.int64)))
    assert [value for part in parts for value in part] == sorted(values)


def test_blocks_double() -> None:
    lengths = [len(part) for part in blocks(np.arange(5000))]
    assert lengths == [8, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024, 912]
