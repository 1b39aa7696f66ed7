"""One page to its main text: decoding, limits, extraction. What `tasks.extract.Extractor` runs in its own process.

Started as `python -P -m tasks.extract_worker <Extraction as JSON>` with a socket as standard input. Each request and
each answer is two frames, a frame being its length in 4 bytes (big-endian) and that many bytes:

    request: charset of the HTTP header (empty if unknown), HTML
    answer:  Drop as JSON (empty if none), text as UTF-8

The first message is an empty answer: the libraries are loaded. The process ends when the socket does.
"""

from __future__ import annotations

import codecs
import json
import logging
import math
import re
import resource
import signal
import socket
import sys
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import trafilatura
from trafilatura.settings import Extractor as TrafilaturaOptions
from trafilatura.utils import detect_encoding, load_html

from tasks.document import Drop
from tasks.extract import Extraction, receive_frame, send_frames

# `dedup=False`: with it, trafilatura remembers paragraphs of earlier pages and leaves them out of later ones.
# All else as trafilatura has it: of its settings these have the highest word F1 (see `tasks.extract`).
OPTIONS = TrafilaturaOptions(output_format="txt", comments=False, tables=True, dedup=False)

MAX_REPLACED_SHARE = 0.25
"""Of a text's characters. Random bytes as UTF-8 come to .4 and more; prose of the wrong encoding stays below .1."""

_META_CHARSET = re.compile(
    rb"""<meta[^>]{0,512}?charset\s*=\s*["']?\s*([\w:.+-]+)|<\?xml[^>]{0,200}?encoding=["']([\w.-]+)""", re.I
)
_META_PRESCAN_BYTES = 4096  # the HTML standard asks for 1024; real pages put scripts first
_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_WHAT_BROWSERS_READ = {  # https://encoding.spec.whatwg.org/#names-and-labels
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
}
_NEVER = frozenset({"utf-7", "unicode_escape", "raw_unicode_escape", "idna", "punycode", "undefined"})


def decode_html(html: bytes, charset: str | None) -> str | Drop:
    """The page as text, by the first of: byte order mark, HTTP header, <meta>, detection by content.

    A declaration that does not fit the bytes is passed over. `Drop("bad_charset")` where more than
    `MAX_REPLACED_SHARE` of the characters cannot be read in any of them.
    """
    for mark, codec in _BYTE_ORDER_MARKS.items():
        if html.startswith(mark):
            return _judged(html.decode(codec, "replace"))
    meta = _META_CHARSET.search(html[:_META_PRESCAN_BYTES])
    declared_in_page = (meta[1] or meta[2]).decode("ascii", "replace") if meta else None
    if declared_in_page is not None and declared_in_page.lower().startswith("utf-16"):
        declared_in_page = "utf-8"  # what could be read as ASCII up to here is not UTF-16 (HTML standard, 13.2.3.2)
    for codec in filter(None, map(_known_codec, (charset, declared_in_page))):
        # A single-byte charset fits any bytes, but bytes fit UTF-8 by intention only.
        if _is_single_byte(codec) and (text := _strictly(html, "utf-8")) is not None:
            return text
        if (text := _strictly(html, codec)) is not None:
            return text
        # one cut or stray byte is no reason to guess
        text = html.decode(codec, "replace")
        if text.count("\ufffd") <= len(text) // 1000:
            return text
    for guess in detect_encoding(html):
        if (text := _strictly(html, guess)) is not None:
            return text
    return _judged(html.decode("utf-8", "replace"))


def _judged(text: str) -> str | Drop:
    share = text.count("\ufffd") / max(1, len(text))
    return text if share <= MAX_REPLACED_SHARE else Drop("bad_charset", share, MAX_REPLACED_SHARE)


def _strictly(html: bytes, codec: str) -> str | None:
    try:
        return html.decode(codec)
    except (UnicodeDecodeError, LookupError):  # LookupError: detection names codecs that Python does not have
        return None


@lru_cache(maxsize=256)
def _known_codec(label: str | None) -> str | None:
    """Python's name for the codec that browsers use for a declared label; None for what is no text encoding."""
    try:
        name = codecs.lookup((label or "").strip(" \"'").lower()).name
        "".encode(name)  # bytes-to-bytes codecs such as `zlib` refuse
    except (LookupError, ValueError):  # ValueError: a NUL in the label
        return None
    return None if name in _NEVER else _WHAT_BROWSERS_READ.get(name, name)


@lru_cache(maxsize=256)
def _is_single_byte(codec: str) -> bool:
    upper = bytes(range(128, 256)).decode(codec, "replace")
    return len(upper) == 128 and upper.count("\ufffd") < 64  # UTF-8 and ISO-2022-JP have no meaning for single ones


def extract_page(html: bytes, charset: str | None, limits: Extraction) -> str | Drop:
    """The main text of a page, or why there is none. Deterministic, and independent of pages seen before.

    An exception of the libraries is about this page, and recorded as `Drop("extraction_error")`.
    """
    try:
        decoded = decode_html(html, charset)
        if isinstance(decoded, Drop):
            return decoded
        tree = load_html(decoded)
        if tree is None:
            return Drop("no_content", detail="not HTML")
        if (excess := _excess(tree, limits)) is not None:
            return excess
        text = extract_tree(tree)
        text.encode("utf-8")  # what cannot be written later must not leave here
    except Exception as error:
        return Drop("extraction_error", detail=f"{type(error).__name__}: {error}"[:500])
    return text if text else Drop("no_content")


def extract_tree(tree: Any) -> str:
    """trafilatura's main text of a parsed page; empty where it finds none."""
    return (trafilatura.extract(tree, options=OPTIONS) or "").strip()


def _excess(tree: Any, limits: Extraction) -> Drop | None:
    level, depth, num_nodes = [tree], 0, 0
    while level:
        depth, num_nodes = depth + 1, num_nodes + len(level)
        if depth > limits.max_depth:
            return Drop("too_deep", depth, limits.max_depth)
        if num_nodes > limits.max_nodes:
            return Drop("too_many_nodes", num_nodes, limits.max_nodes)
        level = [child for element in level for child in element]
    return None


def main(limits: Extraction) -> None:
    """Serve pages until the other side of standard input is closed."""
    # Ctrl-C is the parent's to handle; this process ends when the parent closes the socket or dies.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for library in ("trafilatura", "justext", "htmldate", "courlan", "charset_normalizer"):
        logging.getLogger(library).setLevel(logging.CRITICAL)  # what they say of a page is in the answer
    _limit_memory(limits.max_memory_bytes)
    with socket.socket(fileno=0) as connection:
        send_frames(connection, b"", b"")
        while (charset := receive_frame(connection)) is not None:
            html = receive_frame(connection)
            if html is None:
                return
            # If the parent is gone it cannot stop a page that never returns; the default action of SIGALRM is to die.
            signal.alarm(math.ceil(limits.backstop_s * 2 + 30))
            result = extract_page(html, charset.decode("utf-8", "replace") or None, limits)
            signal.alarm(0)
            if isinstance(result, Drop):
                send_frames(connection, json.dumps(asdict(result)).encode(), b"")
            else:
                send_frames(connection, b"", result.encode())


def _limit_memory(max_memory_bytes: int) -> None:
    """Let the process grow by so much over what its libraries have mapped by now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + max_memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    main(Extraction.model_validate_json(sys.argv[1]))
