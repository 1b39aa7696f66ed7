"""Two corpus versions of the same pages, as two recipes would leave them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.store import Store
from tests.data.prose import prose

FRACTION = 0.3


@dataclass(frozen=True)
class Page:
    """A document of a version; its id comes from its URL, as that of a record from its content."""

    url: str
    text: str

    @property
    def document_id(self) -> str:
        return f"{hashlib.sha256(self.url.encode()).hexdigest()[:32]}-0"


def url(number: int) -> str:
    return f"https://pages.example/{number}"


def pages(numbers: range) -> dict[str, str]:
    """Texts by URL."""
    return {url(number): prose(number, 8) for number in numbers}


def make_version(store: Store, name: str, texts: Mapping[str, str]) -> tuple[Path, str]:
    """A version with these texts by URL, in two buckets; its folder and digest."""
    folder = store.corpora / name / "1"
    (folder / "documents").mkdir(parents=True)
    found = sorted((Page(url, text) for url, text in texts.items()), key=lambda page: page.document_id)
    for bucket in range(2):
        of_bucket = [page for page in found if int(page.document_id[0], 16) % 2 == bucket]
        columns = {
            "document_id": [page.document_id for page in of_bucket],
            "cluster_id": [page.document_id for page in of_bucket],
            "url": [page.url for page in of_bucket],
            "source": ["test"] * len(of_bucket),
            "text": [page.text for page in of_bucket],
        }
        schema = pa.schema([(column, pa.string()) for column in columns])
        pq.write_table(pa.table(columns, schema=schema), folder / "documents" / f"bucket-{bucket:03d}.parquet")
    return folder, hashlib.sha256(json.dumps(sorted(texts.items())).encode()).hexdigest()
