"""Documents made from the paragraphs of real pages, as many as are wanted, with duplicates whose number is known.

A document is six passages of 25 consecutive words, each cut at random from one stream of all paragraphs of the
annotated web pages in the shared data: 150 words, so that what a document costs can be compared between sizes. 25 words
are the mean of those pages' paragraphs. What two documents have in common by chance is too little to make them
candidates, at a million as well: near-duplicates are the planned ones at every size.

70 % of the documents are originals. 10 % are exact copies of an original and 20 % near ones, in which one run of words,
2 to 18 of the 150, is replaced by words from elsewhere: true Jaccard about .92 to .74 with the original. How many
copies one original has follows Zipf's law with exponent 2.2, at most `MAX_COPIES`. Everything is a function of the seed
and the number of documents: whoever makes a part of them, in whatever process, makes the same.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.tables import TEXTS, PartWriter

WEB_PAGES = Path(__file__).resolve().parents[2] / "../shared/data/web/pages.gold.jsonl.gz"

PASSAGES = 6
PASSAGE_WORDS = 25
DUPLICATE_SHARE = 0.3
EXACT_OF_DUPLICATES = 1 / 3
ZIPF_EXPONENT = 2.2
MAX_COPIES = 10_000
REPLACED_SHARE = (0.01, 0.12)
DOCUMENTS_PER_BATCH = 1024

ORIGINAL, EXACT, NEAR = 0, 1, 2


def web_texts() -> list[str]:
    """The main contents of the annotated pages."""
    if not WEB_PAGES.exists():
        raise SystemExit(f"no {WEB_PAGES}: the benchmark's texts are made from those pages")
    with gzip.open(WEB_PAGES, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["main_content"] for line in lines]


@dataclass(frozen=True)
class MadeTexts:
    """The plan of `num_documents` documents, by their number: arrays of about 60 bytes a document."""

    words: list[str]
    ids: list[str]
    original: NDArray[np.int64]  # number of the document that this one is a copy of, or its own
    kind: NDArray[np.int8]
    passages: NDArray[np.int32]  # (documents, PASSAGES): where in `words` each passage starts
    replaced: NDArray[np.int32]  # (documents, 3): where in the text, how many words, and where their like is in `words`
    minutes: NDArray[np.int32]  # age

    @classmethod
    def plan(cls, num_documents: int, seed: int = 1) -> MadeTexts:
        words = [word for text in web_texts() for word in text.split()]
        chance = np.random.Generator(np.random.PCG64(seed))
        original, kind = planned_copies(num_documents, chance)
        num_words = PASSAGES * PASSAGE_WORDS
        lengths = np.ceil(chance.uniform(*REPLACED_SHARE, num_documents) * num_words).astype(np.int32)
        starts = chance.integers(0, num_words - lengths + 1, dtype=np.int32)
        elsewhere = chance.integers(0, len(words) - num_words, num_documents, dtype=np.int32)
        return cls(
            words=words,
            ids=[f"{hashlib.sha256(f'{seed}:{n}'.encode()).hexdigest()[:32]}-0" for n in range(num_documents)],
            original=original,
            kind=kind,
            passages=chance.integers(0, len(words) - PASSAGE_WORDS, (num_documents, PASSAGES), dtype=np.int32),
            replaced=np.stack([starts, lengths, elsewhere], axis=1),
            minutes=chance.integers(0, 525_600, num_documents, dtype=np.int32),
        )

    def text(self, number: int) -> str:
        found = [
            word
            for start in self.passages[self.original[number]].tolist()
            for word in self.words[start : start + PASSAGE_WORDS]
        ]
        if self.kind[number] == NEAR:
            start, length, elsewhere = self.replaced[number].tolist()
            found[start : start + length] = self.words[elsewhere : elsewhere + length]
        return "\n".join(" ".join(found[at : at + PASSAGE_WORDS]) for at in range(0, len(found), PASSAGE_WORDS))

    def row(self, number: int) -> dict[str, Any]:
        """In the columns `TEXTS`."""
        day, minute = divmod(int(self.minutes[number]), 1440)
        date = f"{np.datetime64('2025-01-01') + day}T{minute // 60:02d}:{minute % 60:02d}:00Z"
        url = f"https://site-{number % 9973}.example/{self.ids[number][:12]}"
        return {
            "document_id": self.ids[number],
            "url": url,
            "date": date,
            "text": self.text(number),
            "language": "en",
            "language_score": 1.0,
            "source": "made",
            "source_file": "made",
            "source_offset": number,
        }

    def write_bucket(self, index: int, num_buckets: int, path: Path) -> int:
        """Write the documents of one bucket by id, as gathering leaves them; how many they are."""
        width = 65536 // num_buckets  # as `tasks.publish.Bucket.bounds`: the id's leading 16 bits
        numbers = [number for number, id_ in enumerate(self.ids) if int(id_[:4], 16) // width == index]
        numbers.sort(key=self.ids.__getitem__)
        with PartWriter(path, TEXTS) as writer:
            for first in range(0, len(numbers), DOCUMENTS_PER_BATCH):
                rows = [self.row(number) for number in numbers[first : first + DOCUMENTS_PER_BATCH]]
                writer.write(pa.Table.from_pylist(rows, schema=TEXTS))
        return len(numbers)


def planned_copies(num_documents: int, chance: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Of every document, the number of its original and its kind; copies stand anywhere, after no particular order."""
    num_copies = round(num_documents * DUPLICATE_SHARE)
    sizes: list[int] = []
    left = num_copies
    while left > 0:
        size = int(min(chance.zipf(ZIPF_EXPONENT), MAX_COPIES, left))
        sizes.append(size)
        left -= size
    places = chance.permutation(num_documents)
    original, kind = places.copy(), np.zeros(num_documents, dtype=np.int8)
    original[:num_copies] = np.repeat(places[num_copies : num_copies + len(sizes)], sizes)
    kind[:num_copies] = np.where(chance.random(num_copies) < EXACT_OF_DUPLICATES, EXACT, NEAR)
    by_number = np.argsort(places)
    return original[by_number], kind[by_number]
