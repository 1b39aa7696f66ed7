"""What a classifier costs as a rule of the pipeline, beside one bare batched prediction of the same pieces.

    python -m tests.benchmarks.bench_classifiers [--repeats 5]

The bare prediction is one call of the fastText library for all pieces of all documents, cut and normalised before the
clock starts. The rule cuts, normalises, predicts, aggregates and decides; the stage reads documents and writes them and
the ledger beside that (`rules_shard`, `language_shard`). CPU time on one core, in turns, the median. The goal is .8 of
the bare speed. Models are loaded once per process, which is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fasttext

from tasks.classifiers.bundle import embedded, load_bundle
from tasks.classifiers.normalise import normalised
from tasks.document import Document
from tasks.filters.quality_classifier import Quality
from tasks.filters.toxicity import Toxicity
from tasks.filters.toxicity_pieces import split_into_pieces
from tasks.rule import Rule
from tasks.screen import DOCUMENTS_FILE, built, rules_shard
from tasks.tables import TEXTS, TableWriter, text_row
from tests.benchmarks.language_speed import language_speed, times_ms
from tests.benchmarks.report import report
from tests.benchmarks.toxicity_texts import web_pages

GOAL = 0.8


def pieces_of(text: str) -> list[str]:
    return [text[start:end] for start, end in split_into_pieces(text)]


def whole(text: str) -> list[str]:
    return [text]


def rule_speed(rule: Rule, name: str, cut: Callable[[str], list[str]], texts: Sequence[str], repeats: int) -> Any:
    """CPU milliseconds a text of the bare prediction, the rule and its stage, and how often models were loaded."""
    bundle = load_bundle(embedded(name))
    documents = [Document(document_id=f"{number:032x}-0", text=text, source="web") for number, text in enumerate(texts)]
    lines = [line for text in texts for line in normalised(bundle.classifier.normaliser, cut(text))]
    num_loads = 0
    load = fasttext.load_model

    def counted(path: str) -> Any:
        nonlocal num_loads
        num_loads += 1
        return load(path)

    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        with contextlib.redirect_stderr(io.StringIO()):  # load_model() prints a notice about its return type
            bare = fasttext.load_model(str(bundle.model_path))
        with TableWriter(folder / DOCUMENTS_FILE, TEXTS) as table:
            for document in documents:
                table.write(text_row(document))

        def stage() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                rules_shard(folder, Path(out), stage="toxicity", rules=(rule,))

        fasttext.load_model = counted
        try:
            decide = built(rule)
            spent = times_ms(
                {
                    "predict": lambda: bare.predict(lines),
                    "rule": lambda: [decide(document) for document in documents],
                    "stage": stage,
                },
                len(texts),
                repeats,
            )
        finally:
            fasttext.load_model = load
    return spent, len(lines), num_loads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    texts = [page.text for page in web_pages()]
    rows: list[list[object]] = []
    for name, rule, cut in (("toxicity", Toxicity(), pieces_of), ("quality", Quality(), whole)):
        spent, num_pieces, num_loads = rule_speed(rule, name, cut, texts, repeats)
        rows.append([name, num_pieces, *spent.values(), *_shares(spent), num_loads])
    spent = language_speed(texts, repeats=repeats)
    rows.append(["language", len(texts), *spent.values(), *_shares(spent), "-"])
    columns = ["classifier", "pieces", "bare ms", "rule ms", "stage ms", "rule/bare", "stage/bare", "loads"]
    report("classifiers", columns, rows, {"pages": len(texts), "goal_of_the_stage": GOAL})


def _shares(spent: dict[str, float]) -> list[float]:
    """Of the bare prediction's speed."""
    return [spent["predict"] / spent["rule"], spent["predict"] / spent["stage"]]


if __name__ == "__main__":
    main()
