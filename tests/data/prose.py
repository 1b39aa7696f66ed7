"""Small sources written here: seeded English prose that ordinary rules keep, as rows, pages and WARC files."""

from __future__ import annotations

import gzip
import json
import random
import uuid
from pathlib import Path

_NOUNS = """
harbour baker neighbour clerk surveyor train pilot council gardener library carpenter ferry lantern map letter
sky basket bridge song timetable seed clock boat page recipe report station market lake winter road forest
window kitchen teacher mountain river garden village painter story chair morning storm island school
""".split()
_ADJECTIVES = """
old quiet patient broken green distant careful cold narrow famous wooden early bright heavy gentle hidden
simple northern golden empty curious tired honest sudden steep local unusual warm small modern
""".split()
_VERBS = """
remembered carried repaired described followed painted measured borrowed discovered explained arranged watched
protected questioned counted lifted crossed returned noticed visited copied answered opened cleaned
""".split()
_PREPOSITIONS = "near behind beside before after with without under beyond inside along toward".split()
_JOINTS = ("because", "although", "and then", "so that", "while", "until", "before", "and that")


def prose(seed: int | str, num_sentences: int = 24) -> str:
    """Paragraphs of sentences that do not repeat; the same for the same seed."""
    chance = random.Random(seed)

    def thing() -> str:
        determiner = chance.choice(("the", "a", "every", "that", "this", "one", "our", "their"))
        return f"{determiner} {chance.choice(_ADJECTIVES)} {chance.choice(_NOUNS)}"

    def clause() -> str:
        return f"{thing()} {chance.choice(_VERBS)} {thing()} {chance.choice(_PREPOSITIONS)} {thing()}"

    sentences = []
    for _ in range(num_sentences):
        text = f"{clause()} {chance.choice(_JOINTS)} {clause()} to be of use."
        sentences.append(text[0].upper() + text[1:])
    return "\n".join(" ".join(sentences[start : start + 4]) for start in range(0, num_sentences, 4))


def page(text: str, title: str = "A page") -> bytes:
    """An HTML page around the paragraphs of `text`, with navigation and a footer."""
    paragraphs = "".join(f"<p>{line}</p>" for line in text.splitlines())
    return (
        f"<html><head><title>{title}</title></head><body><nav><a href='/'>Home</a> <a href='/all'>All pages</a></nav>"
        f"<main><article><h1>{title}</h1>{paragraphs}</article></main>"
        "<footer>All rights reserved</footer></body></html>"
    ).encode()


def warc_record(url: str, body: bytes, date: str = "2024-05-01T12:00:00Z") -> bytes:
    """One WARC response with a 200 and HTML, not compressed."""
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, url)}>\r\n"
        f"WARC-Date: {date}\r\nWARC-Target-URI: {url}\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(http)}\r\n\r\n"
    )
    return head.encode() + http + b"\r\n\r\n"


def corpus_members(num_pages: int) -> list[bytes]:
    """Gzip members of a small crawl: prose, every tenth page a near copy, every eleventh an exact one, some short."""
    members = []
    for index in range(num_pages):
        text = prose(index)
        if index % 10 == 9:
            text = prose(index - 1) + "\nThis page was copied on another day."
        if index % 11 == 10:
            text = prose(index - 1)
        if index % 13 == 12:
            text = prose(index, 2)
        body = page(text, f"Page {index}")
        members.append(gzip.compress(warc_record(f"https://site{index % 3}.example/{index}.html", body), mtime=0))
    return members


def write_warc(path: Path, num_pages: int) -> Path:
    """A .warc.gz, one gzip member a record."""
    path.write_bytes(b"".join(corpus_members(num_pages)))
    return path


def write_jsonl(path: Path, num_rows: int) -> Path:
    """Rows of texts."""
    rows = [
        {"text": prose(index), "url": f"https://rows.example/{index}", "date": "2024-01-02T00:00:00Z"}
        for index in range(num_rows)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
