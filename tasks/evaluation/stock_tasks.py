"""Tasks that come with lm-evaluation-harness, made packs: fetched once, where there is a network, and offline after it.

What the harness would ask is written out row by row, with its solved examples and white space, and asked again from
the pack word for word. So a stock task gets what every pack has: a version, hashes, ids to compare models by, and the
search for its text in a corpus. Tasks that let the model write, or that have a prompt for each choice, are no such
rows.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import yaml
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from tasks.atomic import write_file
from tasks.evaluation.task_pack import PACK_FILE, PackTask, TaskEntry

FEWSHOT_SEED = 1234
"""The harness' own."""

_KINDS = {"multiple_choice": "multiple_choice", "loglikelihood": "last_word", "loglikelihood_rolling": "perplexity"}


def write_stock_pack(names: Sequence[str], folder: Path, *, manager: TaskManager | None = None) -> Path:
    """Write stock tasks, or groups of them, as the pack `harness` into `folder`; returns that.

    Raises ValueError for a name that the harness does not know, for data that can't be fetched, and for a task that is
    not made of rows that a pack can hold. `manager` None knows all that come with the harness, and takes ten seconds.
    """
    known = TaskManager() if manager is None else manager
    for name in names:
        if name not in known.all_tasks:
            close = difflib.get_close_matches(name, known.all_tasks, n=5)
            raise ValueError(f"the harness has no task {name!r}" + (f"; it has {', '.join(close)}" if close else ""))
    with tempfile.TemporaryDirectory(prefix="tokenmill-stock-") as cache, _datasets_cached_in(Path(cache)):
        try:
            loaded = known.load(list(names))["tasks"]
        except OSError as error:  # what datasets and the hub raise, for no network too
            reason = " ".join(str(error).split())
            raise ValueError(f"the data of {', '.join(names)} can't be fetched: {reason}") from error
        folder.mkdir(parents=True, exist_ok=True)
        entries = [_written(name, task, folder) for name, task in loaded.items()]
    for entry in entries:  # what is no example is refused before there is a pack
        for _ in PackTask(TaskEntry.model_validate(entry), folder).examples():
            pass
    version = importlib.metadata.version("lm-eval")
    description = {
        "name": "harness",
        "version": version,
        "description": f"Tasks of lm-evaluation-harness {version}, as it asks them",
        "licence": "each set's own",
        "tasks": entries,
    }
    write_file(folder / PACK_FILE, yaml.safe_dump(description, sort_keys=False, allow_unicode=True).encode())
    return folder


@contextmanager
def _datasets_cached_in(folder: Path) -> Iterator[None]:
    """Nothing is left in the user's home: the rows are in the pack."""
    before = datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH
    datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH = folder, folder / "downloads"
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH = before


def _written(name: str, task: ConfigurableTask, folder: Path) -> dict[str, Any]:
    """Write a task's rows; returns its entry in the pack."""
    output_type = task.get_config("output_type")
    if output_type not in _KINDS:
        raise ValueError(f"{name} lets the model write ({output_type}); a pack holds tasks that score given texts")
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    rows = [_row(name, task, doc) for doc in task.eval_docs]
    file = f"{name.lower()}.jsonl"
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    write_file(folder / file, content)
    kind = _KINDS[output_type]
    multiple_choice = kind == "multiple_choice"
    return {
        "name": name.lower(),
        "kind": kind,
        "description": f"{name} of lm-evaluation-harness, version {task.VERSION}",
        "files": [{"path": file, "sha256": hashlib.sha256(content).hexdigest()}],
        "exact": True,
        "chance": statistics.fmean(1 / len(row["choices"]) for row in rows) if multiple_choice else 0.0,
        "main_metric": (
            ("acc_norm" if "acc_norm" in task.aggregation() else "acc")
            if multiple_choice
            else ("acc" if kind == "last_word" else "bits_per_byte")
        ),
        "origin": str(task.get_config("dataset_path") or "lm-evaluation-harness"),
    }


def _row(name: str, task: ConfigurableTask, doc: dict[str, Any]) -> dict[str, Any]:
    """What is asked of one document."""
    context = task.fewshot_context(doc, num_fewshot=task.get_config("num_fewshot") or 0)
    asked = task.construct_requests(doc, context, metadata=(name, 0, 1))
    texts = [request.args for request in (asked if isinstance(asked, list) else [asked])]
    if task.get_config("output_type") == "loglikelihood_rolling":
        return {"text": texts[0][0]}
    contexts, continuations = {context for context, _ in texts}, [continuation for _, continuation in texts]
    if len(contexts) > 1 or "" in contexts or not all(text.startswith(" ") for text in continuations):
        raise ValueError(f"{name} is not one prompt with choices that follow after a space; a pack can't hold it")
    (prompt,) = contexts
    if task.get_config("output_type") == "loglikelihood":
        return {"context": prompt, "word": continuations[0][1:]}
    return {"query": prompt, "choices": [text[1:] for text in continuations], "gold": _gold(name, task, doc)}


def _gold(name: str, task: ConfigurableTask, doc: dict[str, Any]) -> int:
    """The number of the right choice, which a task may say as its text (`ConfigurableTask.process_results`)."""
    target, choices = task.doc_to_target(doc), task.doc_to_choice(doc)
    if isinstance(target, str) and target in choices:
        return int(choices.index(target))
    if not isinstance(target, int):
        raise ValueError(f"{name} has {target!r} for the right one of {choices}; a pack's rows have one of the choices")
    return target
