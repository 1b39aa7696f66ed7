"""What a language rule costs beside the bare prediction of the same pieces, on one core."""

from __future__ import annotations

import hashlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.document import Document
from tasks.language import LanguageRule
from tasks.language_models import beginning, language_model
from tasks.language_shape import windows
from tasks.model_files import SINGLE_FILE, models_in
from tasks.screen import DOCUMENTS_FILE, language_shard
from tasks.tables import TEXTS, TableWriter, text_row


@dataclass(frozen=True)
class Turns:
    """CPU milliseconds a text of each function, turn by turn."""

    ms: dict[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.ms[name])

    def speed(self, name: str, reference: str) -> float:
        """Of the reference's speed, the median over the turns: the machine is as busy for both within one."""
        return statistics.median(ref / own for own, ref in zip(self.ms[name], self.ms[reference], strict=True))


def in_turns(functions: dict[str, Callable[[], Any]], num_texts: int, repeats: int) -> Turns:
    """Each function once a turn."""
    spent: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.process_time()
            function()
            spent[name].append((time.process_time() - start) / num_texts * 1000)
    return Turns(spent)


def language_speed(texts: Sequence[str], model: Path | None = None, repeats: int = 5) -> Turns:
    """CPU milliseconds a text of bare prediction in one call, of the rule, and of its stage with reading and writing.

    All look at the same pieces: the beginning of each text, and its windows where the rule asks for them (of texts in a
    wanted language). `model` is a fastText model; None: the embedded one.
    """
    documents = [Document(document_id=f"{number}", text=text, source="web") for number, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = ""
        if model is not None:
            sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
            (folder / "models" / sha256).mkdir(parents=True)
            shutil.copyfile(model, folder / "models" / sha256 / SINGLE_FILE)
            reference = f"{model.resolve()}#sha256={sha256}"
        rule = LanguageRule(model=reference, min_score=0.5)
        (folder / "in").mkdir()
        with TableWriter(folder / "in" / DOCUMENTS_FILE, TEXTS) as table:
            for document in documents:
                table.write(text_row(document))
        with models_in(folder / "models"):
            loaded, decide = language_model(reference), rule.build_identified()
        lines = [
            piece.replace("\n", " ")
            for document in documents
            for piece in (
                beginning(document.text),
                *(windows(document.text) if decide(document)[0].language in rule.languages else ()),
            )
        ]

        def stage() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                language_shard(folder / "in", Path(out), language=rule, models=folder / "models")

        return in_turns(
            {
                "predict": lambda: loaded.identify(lines),
                "rule": lambda: [decide(document) for document in documents],
                "stage": stage,
            },
            len(texts),
            repeats,
        )


def speed_facts(texts: Sequence[str], lid: Path | None, repeats: int) -> dict[str, str]:
    """The rule and its stage against bare prediction, as shares of its speed."""
    facts = {}
    for name, model in (("embedded", None), *([("fasttext", lid)] if lid else [])):
        spent = language_speed(texts, model, repeats)
        shares = {part: round(spent.speed(part, "predict"), 2) for part in ("rule", "stage")}
        facts[f"speed_{name}"] = f"{spent.median('predict'):.2f} ms a text; of its speed {shares}"
    return facts
