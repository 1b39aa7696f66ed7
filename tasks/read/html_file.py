"""An HTML file is one record: its bytes. It has no URL and no date."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

from tasks.document import Record
from tasks.read.limits import ReadLimits
from tasks.read.payload import Origin, make_record, record_of_digest, size_problem
from tasks.read.raw_file import BLOCK_BYTES


def html_file_record(handle: BinaryIO, source: str, source_file: str, limits: ReadLimits) -> Record:
    """The record of an HTML file; of one that is too large the digest is taken without holding it."""
    origin = Origin(source, source_file, 0)
    content = handle.read(limits.max_page_bytes + 1)
    if len(content) <= limits.max_page_bytes:
        return make_record(origin, "html", content, limits)
    hasher = hashlib.sha256(content)
    num_bytes = len(content)
    while piece := handle.read(BLOCK_BYTES):
        hasher.update(piece)
        num_bytes += len(piece)
    return record_of_digest(origin, "html", hasher.hexdigest(), b"", size_problem(num_bytes, limits))
