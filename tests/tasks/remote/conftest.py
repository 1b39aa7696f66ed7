"""A real S3 endpoint (moto), and two machines with stores of their own that share it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.store import Store
from tests.tasks.s3_server import s3_server


@pytest.fixture(scope="module", autouse=True)
def bucket() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def address(bucket: str) -> str:
    """A remote of this test's own."""
    return f"{bucket}/{uuid.uuid4().hex}"


@pytest.fixture
def machine_a(tmp_path: Path, address: str) -> Store:
    return Store.open(tmp_path / "a", address)


@pytest.fixture
def machine_b(tmp_path: Path, address: str) -> Store:
    return Store.open(tmp_path / "b", address)
