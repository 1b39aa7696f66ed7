"""From a record's payload to the record: what becomes of it is decided here, once for every format."""

from __future__ import annotations

import codecs
import hashlib
from dataclasses import dataclass, replace
from typing import Literal

from tasks.document import Drop, Record
from tasks.read import identity
from tasks.read.framing import Frame
from tasks.read.http_response import (
    HTML_MEDIA_TYPES,
    BodyTooLarge,
    UnreadableBody,
    charset,
    looks_like_html,
    media_type,
    parse_response,
)
from tasks.read.limits import ReadLimits


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record stands and what stands beside its payload."""

    source: str
    source_file: str
    source_offset: int
    url: str = ""
    date: str = ""
    record_id: str = ""
    charset: str | None = None


def make_record(
    origin: Origin, kind: Literal["html", "text"], payload: bytes, limits: ReadLimits, problem: Drop | None = None
) -> Record:
    """The record of a payload; without a `problem` so far, too large, empty and undecodable ones get theirs here.

    Content of kind "text" is UTF-8: a text that its charset (UTF-8 where none is declared) does not fit is
    `unreadable` rather than repaired.
    """
    content = payload
    problem = problem or size_problem(len(payload), limits)
    if problem is None and kind == "text":
        try:
            content = _as_utf8(payload, origin.charset or "utf-8")
        except (LookupError, ValueError) as error:
            problem = Drop("unreadable", detail=f"the text is not what its charset says ({error})")
    return record_of_digest(origin, kind, hashlib.sha256(payload).hexdigest(), content, problem)


def record_of_digest(
    origin: Origin, kind: Literal["html", "text"], digest: str, content: bytes, problem: Drop | None
) -> Record:
    """The record of a payload with this SHA-256; with a `problem` it carries no content.

    Of the problem its reason and figure are part of the record's identity. Its detail is not: that may tell where in a
    file something stands, or be worded by a library.
    """
    verdict = "" if problem is None else f"{problem.reason} {problem.value}"
    return Record(
        base_id=identity.base_id(
            record_id=origin.record_id,
            payload_digest=digest,
            url=origin.url,
            date=origin.date,
            kind=kind,
            charset=origin.charset or "",
            verdict=verdict,
        ),
        payload_digest=digest,
        source=origin.source,
        source_file=origin.source_file,
        source_offset=origin.source_offset,
        url=origin.url,
        date=origin.date,
        kind=kind,
        content=b"" if problem is not None else content,
        charset=origin.charset,
        problem=problem,
    )


def damaged_record(origin: Origin, digest: str, problem: Drop) -> Record:
    """The record of a damaged region whose bytes have this SHA-256: nothing that stands in it is believed."""
    place = Origin(origin.source, origin.source_file, origin.source_offset)
    return record_of_digest(place, "html", digest, b"", problem)


def frame_problem(frame: Frame, limits: ReadLimits) -> Drop:
    """Why a damaged or over-long frame ends here."""
    if not frame.is_overlong:
        return Drop("damaged", detail=frame.detail)
    return Drop("decompression_bomb", float(frame.num_bytes), float(limits.max_record_bytes), frame.detail or None)


def size_problem(num_bytes: int, limits: ReadLimits) -> Drop | None:
    """`page_too_large` or `empty_page`, if either."""
    if num_bytes > limits.max_page_bytes:
        return Drop("page_too_large", float(num_bytes), float(limits.max_page_bytes))
    return None if num_bytes else Drop("empty_page", 0.0, 1.0)


def response_record(origin: Origin, block: bytes, limits: ReadLimits) -> Record:
    """The record of an HTTP response: an HTML page fetched with status 200, or the first reason why it is not one.

    The digest is of the decoded body where it decodes within the limit, else of the body as transferred.
    """
    try:
        response = parse_response(block)
    except UnreadableBody as error:
        return make_record(origin, "html", block, limits, Drop("unreadable", detail=str(error)))
    problem: Drop | None = None
    try:
        payload = response.decoded_body(limits.max_page_bytes)
    except BodyTooLarge as error:
        payload = response.body
        problem = Drop("page_too_large", float(error.num_bytes), float(limits.max_page_bytes))
    except UnreadableBody as error:
        payload = response.body
        problem = Drop("unreadable", detail=str(error))
    if response.status != 200:
        problem = Drop("http_status", float(response.status), 200.0)
    elif response.media_type:
        if response.media_type not in HTML_MEDIA_TYPES:
            problem = Drop("not_html", detail=response.media_type)
    elif problem is None and payload and not looks_like_html(payload):
        problem = Drop("not_html", detail="no Content-Type, and does not begin like a page")
    origin = replace(origin, charset=response.charset)
    return make_record(origin, "html", payload, limits, problem or _url_problem(origin, payload, limits))


def stored_record(
    origin: Origin, content_type: str, payload: bytes, limits: ReadLimits, *, is_conversion: bool
) -> Record:
    """The record of a WARC conversion or resource record, or of an ARC record that is no HTTP response."""
    declared = media_type(content_type)
    origin = replace(origin, charset=charset(content_type))
    problem = _url_problem(origin, payload, limits)
    if declared in HTML_MEDIA_TYPES:
        return make_record(origin, "html", payload, limits, problem)
    if declared != "text/plain" and not (is_conversion and not declared):
        problem = Drop("not_html", detail=declared or "no Content-Type")
    return make_record(origin, "text", payload, limits, problem)


def _url_problem(origin: Origin, payload: bytes, limits: ReadLimits) -> Drop | None:
    """`no_url`, unless the payload's size is a reason already."""
    return size_problem(len(payload), limits) or (None if origin.url else Drop("no_url"))


def _as_utf8(payload: bytes, declared: str) -> bytes:
    text = payload.decode(declared)
    return payload if codecs.lookup(declared).name == "utf-8" else text.encode()
