"""Train the toxicity classifier: labelled tweets and comments against ordinary text, as a small fastText model.

    python -m tasks.filters.train_toxicity --data DIR --out FILE.ftz

`DIR` holds the labelled text (layout below; sources and licences in `toxicity.md`). The same data, seed and library
give the same file, byte for byte: one thread, fixed seed, examples in a fixed order.

    toxicity/davidson.csv.gz            tweets; class 0 hate, 1 offensive, 2 neither
    toxicity/toxic_spans_train.csv.gz   comments with the character offsets of what is toxic in them
    web/pages.gold.jsonl.gz             ordinary web pages; those with an odd URL hash are held out
    text/wikitext2_valid.txt.gz         encyclopedia articles

Comments are labelled by the piece: a piece is toxic when it holds a toxic offset, and ordinary otherwise, which teaches
the classifier that the register of an angry comment is not in itself toxic. Ordinary web text outweighs the rest on
purpose: trained on tweets and comments alone, such a model calls two of three ordinary pages toxic.
"""

from __future__ import annotations

import argparse
import ast
import csv
import gzip
import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fasttext

from tasks.filters.toxicity import TOXIC_LABEL, as_classifier_input, split_into_pieces

ORDINARY_LABEL = "__label__ordinary"

# In the labelled tweets some groups are mostly named by those who insult them, and a classifier learns that naming them
# is toxic. Ordinary sentences that name them are the remedy of Dixon et al. 2018, "Measuring and mitigating unintended
# bias in text classification".
GROUPS = (
    "gay", "lesbian", "bisexual", "transgender", "queer", "straight", "black", "white", "asian", "latino", "hispanic",
    "african", "arab", "jewish", "muslim", "christian", "hindu", "buddhist", "catholic", "atheist", "indian",
    "chinese", "mexican", "american", "immigrant", "refugee", "deaf", "blind", "disabled", "autistic", "female",
    "male", "old", "young",
)  # fmt: skip
GROUP_SENTENCES = (
    "I am a {} person.",
    "She is a {} woman who works as a nurse.",
    "The {} community met on Sunday.",
    "He grew up in a {} family.",
    "{} people live here.",
    "a {} man and his friends",
    "My neighbours are {} and very kind.",
    "We talked about {} rights.",
    "The first {} president of the club",
    "as a {} woman i am proud",
    "the history of {} people in this country",
    "{} students are welcome",
    "they are {}",
    "My friend is {}.",
    "the {} actor won a prize",
    "{} culture and art",
    "being {} is normal",
    "a {} couple got married",
    "{} kids play football",
    "a book on {} life",
)


@dataclass(frozen=True)
class Training:
    """fastText's parameters, chosen by two-fold cross-validation over the even pages (`toxicity.md`)."""

    dim: int = 16
    epoch: int = 3
    lr: float = 0.3
    word_ngrams: int = 2
    min_subword_chars: int = 3
    max_subword_chars: int = 5
    bucket: int = 200_000
    min_count: int = 2
    cutoff: int = 30_000  # features kept when quantising: what bounds the size of the file
    seed: int = 1


@dataclass(frozen=True)
class Example:
    """One labelled piece of text."""

    text: str
    toxic: bool


def is_held_out(url: str) -> bool:
    """Whether a page serves to measure false alarms and must not be trained on: the URL's SHA-256 is odd."""
    return hashlib.sha256(url.encode("utf-8", "replace")).digest()[-1] % 2 == 1


def tweets(path: Path) -> Iterator[Example]:
    """Davidson et al. 2017: hate (0) and offensive (1) against neither (2)."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield Example(row["tweet"], toxic=row["class"] in ("0", "1"))


def comments(path: Path) -> Iterator[tuple[str, frozenset[int]]]:
    """SemEval-2021 task 5: each comment with the offsets of its toxic characters."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["text"], frozenset(ast.literal_eval(row["spans"]))


def comment_pieces(text: str, toxic_offsets: frozenset[int]) -> Iterator[Example]:
    """The comment's pieces, each toxic where it holds a toxic offset.

    A comment without any offset yields nothing: its annotators disagreed on the span, not on whether it is toxic.
    """
    if not toxic_offsets:
        return
    position = 0
    for piece in split_into_pieces(text):
        start = text.index(piece, position)
        position = start + len(piece)
        yield Example(piece, toxic=not toxic_offsets.isdisjoint(range(start, position)))


def pages(path: Path, *, held_out: bool) -> Iterator[str]:
    """Main content of the ordinary pages, of one of the two halves."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            page = json.loads(line)
            if is_held_out(page["url"]) == held_out:
                yield page["main_content"]


def training_examples(data: Path) -> Iterator[Example]:
    """Every example the model is trained on, in a fixed order."""
    for sentence in GROUP_SENTENCES:
        yield from (Example(sentence.format(group), toxic=False) for group in GROUPS)
    yield from tweets(data / "toxicity" / "davidson.csv.gz")
    for text, toxic_offsets in comments(data / "toxicity" / "toxic_spans_train.csv.gz"):
        yield from comment_pieces(text, toxic_offsets)
    for text in pages(data / "web" / "pages.gold.jsonl.gz", held_out=False):
        yield from (Example(piece, toxic=False) for piece in split_into_pieces(text))
    with gzip.open(data / "text" / "wikitext2_valid.txt.gz", "rt", encoding="utf-8") as file:
        yield from (Example(piece, toxic=False) for piece in split_into_pieces(file.read()))


def train(examples: Iterator[Example], out: Path, training: Training) -> int:
    """Train on `examples`, quantise, and write the model to `out`. Returns the number of examples used.

    Examples that are nothing but links, names and marks without meaning to the classifier are left out.
    """
    lines = set()
    for example in examples:
        classifier_input = as_classifier_input(example.text)
        if classifier_input:
            lines.add(f"{TOXIC_LABEL if example.toxic else ORDINARY_LABEL} {classifier_input}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "examples.txt"
        # fastText reads in file order: sorting by hash mixes the sources, the same way each time.
        mixed = sorted(lines, key=lambda line: hashlib.sha256(line.encode()).digest())
        path.write_text("".join(f"{line}\n" for line in mixed), encoding="utf-8")
        model = fasttext.train_supervised(
            input=str(path),
            dim=training.dim,
            epoch=training.epoch,
            lr=training.lr,
            wordNgrams=training.word_ngrams,
            minn=training.min_subword_chars,
            maxn=training.max_subword_chars,
            bucket=training.bucket,
            minCount=training.min_count,
            seed=training.seed,
            thread=1,  # several threads race on the weights, and no two runs agree
            verbose=0,
        )
        model.quantize(
            input=str(path),
            cutoff=training.cutoff,
            retrain=True,
            qnorm=True,
            epoch=training.epoch,
            lr=training.lr,
            thread=1,
            verbose=0,
        )
    model.save_model(str(out))
    return len(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the toxicity classifier.")
    parser.add_argument("--data", type=Path, required=True, help="folder with toxicity/, web/ and text/")
    parser.add_argument("--out", type=Path, required=True, help="the model file to write (.ftz)")
    options = parser.parse_args(arguments)
    if not options.data.is_dir():
        parser.error(f"--data {options.data}: no such folder")
    num_examples = train(training_examples(options.data), options.out, Training())
    print(f"{options.out}: {num_examples:,} examples, {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
