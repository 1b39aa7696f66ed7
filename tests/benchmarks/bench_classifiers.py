"""What a classifier costs as a rule of the pipeline, beside one bare batched prediction of the same pieces.

    python -m tests.benchmarks.bench_classifiers [--repeats 11]

The bare prediction is one call of the fastText library for all pieces of all documents, cut and normalised before the
clock starts. The rule cuts, normalises, predicts, aggregates and decides; the stage reads documents and writes them and
the ledger beside that (`rules_shard`, `language_shard`). CPU time on one core, in turns; the times are medians, the
shares of the bare speed medians of the turns' own. The goal is .8. Models are loaded once per process, which is
counted. The toxicity rule does not predict pieces whose score could not count; the bare prediction has all of them.
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
from tasks.document import Decision, Document
from tasks.filters.quality_classifier import Quality
from tasks.filters.toxicity import Toxicity
from tasks.filters.toxicity_pieces import split_into_pieces
from tasks.rule import Rule
from tasks.screen import DOCUMENTS_FILE, built, built_batch, rules_shard
from tasks.tables import TEXTS, TableWriter, text_row
from tests.benchmarks.language_speed import Turns, in_turns, language_speed
from tests.benchmarks.report import report
from tests.benchmarks.toxicity_texts import web_pages

GOAL = 0.8
GROUP = 64
"""Documents that a stage reads at a time, and gives together to a rule that takes many."""


def pieces_of(text: str) -> list[str]:
    return [text[start:end] for start, end in split_into_pieces(text)]


def whole(text: str) -> list[str]:
    return [text]


def rule_speed(rule: Rule, name: str, cut: Callable[[str], list[str]], texts: Sequence[str], repeats: int) -> Any:
    """CPU milliseconds a text of the bare prediction, the rule and its stage; the number of pieces; how often models
    were loaded."""
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
                rules_shard(folder, Path(out), stage=name, rules=(rule,))

        fasttext.load_model = counted
        try:
            batch, decide = built_batch(rule), built(rule)

            def rule_alone() -> list[Decision]:
                if batch is None:
                    return [decide(document) for document in documents]
                groups = (documents[start : start + GROUP] for start in range(0, len(documents), GROUP))
                return [decision for group in groups for decision in batch(group)]

            spent = in_turns(
                {
                    "predict": lambda: bare.predict(lines),
                    "rule": rule_alone,
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
    parser.add_argument("--repeats", type=int, default=11)
    repeats = parser.parse_args().repeats
    texts = [page.text for page in web_pages()]
    rows: list[list[object]] = []
    for name, rule, cut in (("toxicity", Toxicity(), pieces_of), ("quality", Quality(), whole)):
        turns, num_pieces, num_loads = rule_speed(rule, name, cut, texts, repeats)
        rows.append(_row(name, num_pieces, turns, num_loads))
    rows.append(_row("language", len(texts), language_speed(texts, repeats=repeats), "-"))
    columns = ["classifier", "pieces", "bare ms", "rule ms", "stage ms", "bare/rule", "bare/stage", "loads"]
    report("classifiers", columns, rows, {"pages": len(texts), "turns": repeats, "goal_of_the_stage": GOAL})


def _row(name: str, num_pieces: int, turns: Turns, num_loads: object) -> list[object]:
    """The times, and the shares of the bare prediction's speed that rule and stage have."""
    times = [turns.median(part) for part in ("predict", "rule", "stage")]
    return [name, num_pieces, *times, turns.speed("rule", "predict"), turns.speed("stage", "predict"), num_loads]


if __name__ == "__main__":
    main()
