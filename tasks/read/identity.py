"""What a record is called and when it was fetched: a function of its content, never of where it was found."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

BASE_ID_DIGITS = 32


def from_record_id(record_id: str) -> str:
    """Base id of a record with a WARC-Record-ID; angle brackets do not count."""
    return _base_id("warc-record-id", record_id.strip().strip("<>"))


def from_content(payload_digest: str, url: str = "", date: str = "") -> str:
    """Base id of a record without one: of URL, date and payload where it has both, else of the payload."""
    if url and date:
        return _base_id("url-date-payload", url, date, payload_digest)
    return _base_id("payload", payload_digest)


def from_damage(digest: str) -> str:
    """Base id of a damaged region with this SHA-256."""
    return _base_id("damaged", digest)


def _base_id(case: str, *parts: str) -> str:
    text = "\0".join((case, *(part.replace("\0", "") for part in parts)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:BASE_ID_DIGITS]


def iso_date(moment: datetime) -> str:
    """`YYYY-MM-DDTHH:MM:SSZ`; a moment without time zone is taken as UTC."""
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:  # year 1 or 9999 and an offset that leaves the calendar
        return ""
    return moment.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def parse_date(text: str) -> str:
    """An ISO 8601 date or 14 digits (`YYYYMMDDhhmmss`, further ones ignored) as `iso_date` writes it; else empty."""
    text = text.strip()
    try:
        if text[:14].isdecimal() and len(text) >= 14:
            return iso_date(datetime.strptime(text[:14], "%Y%m%d%H%M%S"))
        return iso_date(datetime.fromisoformat(text))
    except ValueError:
        return ""
