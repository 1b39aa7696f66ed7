"""Rows of JSONL and Parquet: a text, and what may stand beside it.

The text is the column `text`, else `content`; `url` and the first of `date`, `timestamp`, `crawl_date` that can be
read as a date are taken along. A column `id` has no part in a row's identity: ids of other corpora mean positions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime
from typing import Any

from tasks.document import Drop, Record
from tasks.read.framing import Frame
from tasks.read.identity import iso_date, parse_date
from tasks.read.limits import ReadLimits
from tasks.read.payload import Origin, damaged_record, frame_problem, make_record, record_of_digest

TEXT_COLUMNS = ("text", "content")
DATE_COLUMNS = ("date", "timestamp", "crawl_date")


def line_record(frame: Frame, source: str, source_file: str, limits: ReadLimits) -> Record:
    """The record of a JSONL line, or of a damaged region."""
    origin = Origin(source, source_file, frame.offset)
    if frame.kind == "damaged":
        return damaged_record(origin, frame.digest, frame_problem(frame, limits))
    if frame.is_overlong:
        return record_of_digest(origin, "text", frame.digest, b"", frame_problem(frame, limits))
    try:
        row = json.loads(frame.block)
    except (ValueError, RecursionError) as error:
        return make_record(origin, "text", frame.block, limits, Drop("unreadable", detail=f"not JSON: {error}"))
    if not isinstance(row, dict):
        return make_record(origin, "text", frame.block, limits, Drop("unreadable", detail="not a JSON object"))
    return row_record(row, frame.block, origin, limits)


def row_record(row: Mapping[str, Any], raw: bytes, origin: Origin, limits: ReadLimits) -> Record:
    """The record of one row; `raw` stands for its payload where it has no text."""
    url = row.get("url")
    origin = replace(
        origin,
        url=url.strip().encode("utf-8", "replace").decode() if isinstance(url, str) else "",
        date=next(filter(None, (_date(row.get(name)) for name in DATE_COLUMNS)), ""),
        charset="utf-8",
    )
    text = next((value for name in TEXT_COLUMNS if (value := row.get(name)) is not None), None)
    if isinstance(text, str):
        try:
            text = text.encode()
        except UnicodeEncodeError as error:
            return make_record(origin, "text", raw, limits, Drop("unreadable", detail=f"half a character: {error}"))
    if not isinstance(text, bytes):
        return make_record(origin, "text", raw, limits, Drop("unreadable", detail="no text in `text` or `content`"))
    return make_record(origin, "text", text, limits)


def _date(value: object) -> str:
    if isinstance(value, datetime):
        return iso_date(value)
    if isinstance(value, date):
        return iso_date(datetime(value.year, value.month, value.day))
    return parse_date(value) if isinstance(value, str) else ""
