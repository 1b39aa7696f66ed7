from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tasks.dedup.config import Deduplication
from tasks.dedup.signature import MinHash


def test_defaults() -> None:
    assert Deduplication().model_dump() == {
        "minhash": MinHash().model_dump(),
        "min_jaccard": 0.7,
        "order": "earliest",
        "canonical_url": True,
        "min_paragraph_chars": 0,
    }


@pytest.mark.parametrize("accepted", [{"min_jaccard": 0}, {"min_jaccard": 1}, {"order": "longest"}])
def test_accepts(accepted: dict[str, Any]) -> None:
    assert Deduplication(**accepted).model_dump(include=set(accepted)) == accepted


@pytest.mark.parametrize(
    "refused",
    [
        {"min_jaccard": -0.01},
        {"min_jaccard": 1.01},
        {"min_jaccard": float("nan")},
        {"order": "newest"},
        {"min_paragraph_chars": -1},
        {"minhash": {"num_bands": 0}},
        {"threshold": 0.8},
    ],
)
def test_refuses(refused: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(refused))):
        Deduplication(**refused)
