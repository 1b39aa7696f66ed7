"""WARC and ARC: from a frame to the record. FastWARC parses the WARC heads."""

from __future__ import annotations

import hashlib
import io
from typing import Any

from fastwarc.warc import ArchiveIterator, WarcRecordType

from tasks.document import Drop, Record
from tasks.read.archive_layout import ArcLayout
from tasks.read.framing import Frame
from tasks.read.identity import iso_date, parse_date
from tasks.read.limits import MAX_HEAD_BYTES, ReadLimits
from tasks.read.payload import (
    Origin,
    damaged_record,
    frame_problem,
    record_of_digest,
    response_record,
    stored_record,
)

_RECORD_TYPES = (WarcRecordType.response, WarcRecordType.resource, WarcRecordType.conversion)


def warc_record(frame: Frame, source: str, source_file: str, limits: ReadLimits) -> Record:
    """The record of a WARC frame that is a record or damaged."""
    if frame.kind == "damaged":
        return _damaged(frame, source, source_file, limits)
    parsed = _parse_warc_head(frame)
    if parsed is None:
        digest = hashlib.sha256(frame.head + frame.block).hexdigest()
        origin = Origin(source, source_file, frame.offset)
        return damaged_record(origin, digest, Drop("damaged", detail="FastWARC does not find a record in it"))
    fields = {name.lower(): value for name, value in parsed.headers.items()}
    date = iso_date(parsed.record_date) if parsed.record_date else parse_date(fields.get("warc-date", ""))
    origin = Origin(
        source,
        source_file,
        frame.offset,
        url=_bare(fields.get("warc-target-uri", "")),
        date=date,
        record_id=_bare(fields.get("warc-record-id", "")),
    )
    if frame.is_overlong:
        return record_of_digest(origin, "html", frame.digest, b"", frame_problem(frame, limits))
    if parsed.record_type == WarcRecordType.response and (parsed.is_http or frame.block.startswith(b"HTTP/")):
        return response_record(origin, frame.block, limits)
    is_conversion = parsed.record_type == WarcRecordType.conversion
    return stored_record(origin, fields.get("content-type", ""), frame.block, limits, is_conversion=is_conversion)


def _parse_warc_head(frame: Frame) -> Any | None:
    """FastWARC's record, or None where it sees none or another one than the framing did."""
    try:
        # quirks mode reads heads with bare line feeds; what else it forgives, the framing has refused already
        parsed = next(
            ArchiveIterator(
                io.BytesIO(frame.head),
                parse_http=False,
                quirks_mode=True,
                stream_detect=False,
                max_header_len=MAX_HEAD_BYTES,
            ),
            None,
        )
    except OSError:  # what FastWARC raises for a head it cannot parse; nothing is read from outside here
        return None
    if parsed is None or parsed.record_type not in _RECORD_TYPES:
        return None
    return parsed if parsed.content_length == frame.num_bytes - len(frame.head) else None


def arc_record(frame: Frame, source: str, source_file: str, limits: ReadLimits) -> Record:
    """The record of an ARC frame that is a record or damaged."""
    if frame.kind == "damaged":
        return _damaged(frame, source, source_file, limits)
    fields = ArcLayout().fields(frame.head)
    origin = Origin(source, source_file, frame.offset, url=fields.url, date=parse_date(fields.date))
    if frame.is_overlong:
        return record_of_digest(origin, "html", frame.digest, b"", frame_problem(frame, limits))
    if fields.url.lower().startswith(("http:", "https:")):
        return response_record(origin, frame.block, limits)
    return stored_record(origin, fields.media_type, frame.block, limits, is_conversion=False)


def _damaged(frame: Frame, source: str, source_file: str, limits: ReadLimits) -> Record:
    return damaged_record(Origin(source, source_file, frame.offset), frame.digest, frame_problem(frame, limits))


def _bare(value: str) -> str:
    return value.strip().removeprefix("<").removesuffix(">").strip()
