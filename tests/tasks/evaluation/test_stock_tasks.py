"""A stock task from its pack is asked word for word as the harness asks it; here from a folder, without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from lm_eval.tasks import TaskManager

from tasks.evaluation.harness import PackConfigurableTask
from tasks.evaluation.stock_tasks import write_stock_pack
from tasks.evaluation.task_pack import load_pack

ROWS = [
    {"question": f"what is {number} and one? ", "options": [f"it is {number + 1}", f" {number} "], "right": number % 2}
    for number in range(6)
]
CHOICES = {
    "task": "sums",
    "output_type": "multiple_choice",
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_target": "right",
    "doc_to_choice": "options",
    "num_fewshot": 2,
    "metric_list": [
        {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
    ],
}
WORDS = {
    "task": "Words",
    "output_type": "loglikelihood",
    "doc_to_text": "{{question}}",
    "doc_to_target": " {{options[0]}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture
def manager(tmp_path: Path) -> TaskManager:
    """Knows the tasks of a folder alone."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "tasks").mkdir()
    data = {
        "dataset_path": "json",
        "test_split": "train",
        "dataset_kwargs": {"data_files": str(tmp_path / "rows.jsonl")},
    }
    variants: list[dict[str, Any]] = [
        CHOICES,
        WORDS,
        {**CHOICES, "task": "glued", "target_delimiter": ""},
        {**CHOICES, "task": "letters", "doc_to_choice": ["A", "B"], "doc_to_target": "{{['A', 'B'][right]}}"},
        {**CHOICES, "task": "strange", "doc_to_choice": ["A", "B"], "doc_to_target": "C{{right}}"},
        {**WORDS, "task": "blank", "doc_to_target": "  "},
        {**WORDS, "task": "writes", "output_type": "generate_until"},
        {**CHOICES, "task": "absent", "dataset_kwargs": {"data_files": str(tmp_path / "absent.jsonl")}},
    ]
    for variant in variants:
        (tmp_path / "tasks" / f"{variant['task']}.yaml").write_text(yaml.safe_dump(data | variant))
    return TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)


def test_asks_what_the_harness_asks(tmp_path: Path, manager: TaskManager, monkeypatch: pytest.MonkeyPatch):
    cache = tmp_path / "home"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    pack = load_pack(write_stock_pack(["sums", "Words"], tmp_path / "pack", manager=manager))
    assert not cache.exists()
    assert cache == datasets.config.HF_DATASETS_CACHE
    assert [(task.name, task.kind, task.main_metric, task.chance) for task in pack.tasks] == [
        ("sums", "multiple_choice", "acc_norm", 0.5),
        ("words", "last_word", "acc", 0.0),
    ]
    for name, task in zip(("sums", "Words"), pack.tasks, strict=True):
        stock = manager.load([name])["tasks"][name]
        stock.set_fewshot_seed(seed=1234)
        stock.build_all_requests()
        ours = PackConfigurableTask(task, task.choose(None), {})
        ours.build_all_requests()
        assert [request.args for request in ours.instances] == [request.args for request in stock.instances]
        assert len(ours.instances) == len(ROWS) * (2 if name == "sums" else 1)
        if name == "sums":
            assert ours.instances[0].args[0].count("Q: ") == 3
            assert [row["target"] for row in ours.eval_docs] == [row["right"] for row in ROWS]


def test_a_right_choice_that_is_said_as_its_text_is_its_number(tmp_path: Path, manager: TaskManager):
    (task,) = load_pack(write_stock_pack(["letters"], tmp_path / "pack", manager=manager)).tasks
    assert [example.row["gold"] for example in task.examples()] == [row["right"] for row in ROWS]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("strange", r"strange has 'C0' for the right one of \['A', 'B'\]"),
        ("blank", r"blank\.jsonl, line 1: word is empty"),
        ("sum", "the harness has no task 'sum'; it has sums"),
        ("glued", "glued is not one prompt with choices that follow after a space"),
        ("writes", r"writes lets the model write \(generate_until\)"),
        ("absent", "the data of absent can't be fetched: .*absent.jsonl"),
    ],
)
def test_what_can_not_be_a_pack_is_refused(tmp_path: Path, manager: TaskManager, name: str, problem: str):
    with pytest.raises(ValueError, match=problem):
        write_stock_pack([name], tmp_path / "pack", manager=manager)
    assert not (tmp_path / "pack" / "pack.yaml").exists()
