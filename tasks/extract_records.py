"""From records to documents: every record gets its id, the reader's verdict and the URL filter are applied, and the
main text is taken out of what is left. The most expensive stage by far."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.document import Document, Drop, ShardReport
from tasks.extract import Extraction, Extractor
from tasks.read.shard import RECORDS_FILE
from tasks.screen import ShardOutput, built
from tasks.tables import clean, read_rows, record_problem

if TYPE_CHECKING:
    from tasks.url_filter import UrlFilter


@dataclass(frozen=True)
class RecordShard:
    """A shard of records, and (row, occurrence) of those whose id an earlier record has."""

    directory: Path
    occurrences: tuple[tuple[int, int], ...]


@functools.lru_cache(maxsize=2)
def _extractor(extraction: Extraction) -> Extractor:
    return Extractor(extraction)  # one warm child for each worker process, whatever the number of shards


def extract_shard(shard: RecordShard, directory: Path, *, url_filter: UrlFilter, extraction: Extraction) -> ShardReport:
    """Give every record its id; apply the reader's verdict and the URL filter; extract the text of what is left."""
    occurrences = dict(shard.occurrences)
    judge_url = built(url_filter)
    extractor = _extractor(extraction)
    with ShardOutput(directory, "extract") as output:
        for index, row in enumerate(read_rows(shard.directory / RECORDS_FILE)):
            document = Document(
                document_id=f"{row['base_id']}-{occurrences.get(index, 0)}",
                text="",
                source=row["source"],
                url=row["url"],
                date=row["date"],
                source_file=row["source_file"],
                source_offset=row["source_offset"],
            )
            problem = record_problem(row)
            if problem is not None:
                output.drop(document, problem, stage="read")
                continue
            verdict = judge_url(document)
            if isinstance(verdict, Drop):
                output.drop(document, verdict, stage="url_filter")
                continue
            if row["kind"] == "text":
                text: str | Drop = row["content"].decode("utf-8", "replace")
            else:
                text = extractor.extract(row["content"], row["charset"])
            if isinstance(text, str) and not text.strip():
                text = Drop("no_content")
            if isinstance(text, Drop):
                output.drop(document, text)
            else:
                output.keep(replace(document, text=clean(text)))
        return output.report()
