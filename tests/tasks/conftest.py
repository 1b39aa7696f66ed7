"""Documents and real texts for the tests of filters and formatters."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.document import Document

SHARED_DATA = Path(__file__).resolve().parents[2] / "../shared/data"


@pytest.fixture
def document() -> Callable[..., Document]:
    """Makes a document of a text."""

    def make(text: str, **facts: str) -> Document:
        return Document(document_id="0" * 32 + "-0", text=text, source="test", **facts)

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real data; skips the test where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared data is not here")
    return SHARED_DATA


@pytest.fixture(scope="session")
def page_texts(shared_data: Path) -> list[str]:
    """Hand-made main content of 500 real pages; a few are empty."""
    with gzip.open(shared_data / "web" / "pages.gold.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line)["main_content"] for line in file]
