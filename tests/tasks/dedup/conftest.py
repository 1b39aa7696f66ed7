"""Files of documents and of the index, for the tests of every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.tables import TEXTS

Row = tuple[str, str, str, str]  # (document_id, url, date, text)


def _write_texts(rows: Sequence[Row], path: Path) -> Path:
    """A Parquet file of documents as the stages write them, in the order given."""
    fields = dict.fromkeys(TEXTS.names)
    documents = [
        {**fields, "document_id": id_, "url": url, "date": date, "text": text, "source": "s"}
        for id_, url, date, text in rows
    ]
    pq.write_table(pa.Table.from_pylist(documents, schema=TEXTS), path)
    return path


@pytest.fixture(scope="session")
def write_texts() -> Callable[[Sequence[Row], Path], Path]:
    return _write_texts
