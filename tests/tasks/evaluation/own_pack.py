"""A pack of four small tasks in a folder, one of each kind; its rows are made here."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.data.prose import prose

ROWS: Mapping[str, list[dict[str, Any]]] = {
    "choices": [
        {
            "query": f" Question: what did the {word} do?\n",
            "choices": [f"it {a} the {b}" for a, b in zip(("saw", "lost", "sold"), words, strict=True)],
            "gold": number % 3,
        }
        for number, (word, words) in enumerate(
            zip(
                ("baker", "ferry", "clock", "garden", "letter", "teacher"),
                (
                    ("map", "sky", "boat"),
                    ("old quiet lamp", "page", "seed"),
                    ("road", "station by the lake", "song"),
                    ("é 漢字", "a", "report of the surveyor"),
                    ("window", "winter", "forest"),
                    ("story", "chair", "river"),
                ),
                strict=True,
            )
        )
    ],
    "words": [
        {"context": "The clerk painted the door of the", "continuation": "library"},
        {"context": prose(1, 6), "continuation": "lantern"},
    ],
    "pairs": [
        {"right": f"The {noun}s were open.", "wrong": f"The {noun}s was open."}
        for noun in ("door", "book", "shop", "road", "gate", "eye")
    ],
    "texts": [{"text": prose(number, number + 1)} for number in range(4)] + [{"text": " \n漢字 no"}],
}
KINDS = {"choices": "multiple_choice", "words": "last_word", "pairs": "minimal_pairs", "texts": "perplexity"}
MAIN = {"choices": "acc_norm", "words": "acc", "pairs": "acc", "texts": "bits_per_byte"}
KEYS: Mapping[str, dict[str, str]] = {
    "words": {"word": "continuation"},
    "pairs": {"good": "right", "bad": "wrong"},
}


def jsonl(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as a file holds them."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write_file(folder: Path, name: str, content: bytes) -> dict[str, str]:
    """A file of a pack, compressed where its name says so, and how the pack describes it."""
    stored = gzip.compress(content, mtime=0) if name.endswith(".gz") else content
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(stored)
    return {"path": name, "sha256": hashlib.sha256(stored).hexdigest()}


def described(folder: Path, **changes: Any) -> dict[str, Any]:
    """Write the files; returns the pack as its YAML has it, each task with what `changes` has under its name."""
    tasks = [
        {
            "name": name,
            "kind": KINDS[name],
            "files": [write_file(folder, f"{name}.jsonl" + (".gz" if name == "words" else ""), jsonl(rows))],
            "keys": KEYS.get(name, {}),
            "main_metric": MAIN[name],
            "chance": {"choices": 1 / 3, "pairs": 0.5}.get(name, 0.0),
            **({"prompt_end": "\nAnswer:"} if name == "choices" else {}),
            **changes.get(name, {}),
        }
        for name, rows in ROWS.items()
    ]
    return {"name": "own", "version": "1", "tasks": tasks}


def write_pack(folder: Path, **changes: Any) -> Path:
    """The pack's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pack.yaml").write_text(yaml.safe_dump(described(folder, **changes), allow_unicode=True))
    return folder
