"""What an ablation would be, and what is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.ablate_parameters import AblateParameters
from flows.ablate_plan import check_ablate, dry_run_ablate
from tasks.store import Store
from tests.data.prose import write_jsonl


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("TOKENMILL_STORE", str(tmp_path / "store"))
    return Store.open(tmp_path / "store")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "pages.jsonl", 200)


def parameters(source: Path, **changes: Any) -> AblateParameters:
    plain: dict[str, Any] = {"pages": {"source": str(source)}, "recipe_a": {"recipe": "smoke"}}
    return AblateParameters.model_validate(plain | {"recipe_b": {"recipe": "smoke"}} | changes)


LOOSE = {"recipe": "smoke", "settings": ["quality_rules=[]"]}


def test_every_model_has_a_seed_of_its_own_and_the_same_tokens(store: Store, source: Path) -> None:
    plan = check_ablate(parameters(source, twins={"seeds": 3, "settings": ["seed=10"], "budget_tokens": 50_000}))
    assert [(letter, recipe.seed) for letter, recipe in plan.twins()] == [
        ("a", 10),
        ("b", 11),
        ("a", 12),
        ("b", 13),
        ("a", 14),
        ("b", 15),
    ]
    for tokens_per_epoch in (1000, 10**9):  # a recipe that keeps little trains on as much
        assert {recipe.num_steps(tokens_per_epoch) for _, recipe in plan.twins()} == {48}


def test_a_budget_is_in_the_place_of_every_other_limit(store: Store, source: Path) -> None:
    plan = check_ablate(parameters(source, twins={"profile": "small", "budget_tokens": 655_360}))
    assert (plan.training.epochs, plan.training.tokens_per_parameter) == (None, None)
    assert plan.training.num_steps(1000) == 10


def test_a_corpus_is_named_by_its_pages_and_its_recipe(store: Store, source: Path, tmp_path: Path) -> None:
    equal = check_ablate(parameters(source)).corpus_names(write=False)
    assert equal["a"] == equal["b"]
    other = check_ablate(parameters(source, recipe_b=LOOSE)).corpus_names(write=False)
    assert other["a"] == equal["a"] != other["b"]
    more = write_jsonl(tmp_path / "more.jsonl", 9)
    with_more = check_ablate(parameters(source, pages={"source": str(source), "more_sources": [str(more)]}))
    assert with_more.corpus_names(write=False)["a"] != equal["a"]


def test_the_same_question_finds_the_same_folder(store: Store, source: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"text": "some words"}) + "\n")
    changes: list[dict[str, Any]] = [
        {},
        {"twins": {"seeds": 4}},
        {"twins": {"budget_tokens": 7}},
        {"recipe_b": LOOSE},
        {"measure": {"pages": 11}},
        {"measure": {"held_out_fraction": 0.2}},
        {"measure": {"texts": [str(texts)]}},
    ]

    def folder(change: dict[str, Any]) -> Path:
        plan = check_ablate(parameters(source, **change))
        return plan.report_dir(plan.corpus_names(write=False))

    folders = [folder(change) for change in changes]
    assert len(set(folders)) == len(changes)
    assert [folder(change) for change in [*changes[1:], {"workers": 2}]] == [*folders[1:], folders[0]]
    named_otherwise = tmp_path / "named_otherwise.jsonl"
    named_otherwise.write_bytes(texts.read_bytes())
    assert folder({"measure": {"texts": [str(named_otherwise)]}}) != folders[-1], "the report shows its name"
    texts.write_text(json.dumps({"text": "other words"}) + "\n")
    assert folder(changes[-1]) != folders[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe_b": {"recipe": "smoke", "settings": ["min_wrds=3"]}}, "^recipe b: recipe smoke: .*min_wrds"),
        ({"twins": {"settings": ["total_tokens=9"]}}, "total_tokens is not the training's to set here"),
        ({"twins": {"settings": ["seed=1", "seed=2"]}}, "the setting seed is given twice"),
        ({"twins": {"settings": ["sed=1"]}}, "did you mean seed"),
        ({"measure": {"texts": ["/no/such.jsonl"]}}, "/no/such.jsonl"),
        ({"pages": {"source": "/no/such/folder"}}, "/no/such/folder"),
    ],
)
def test_refused_before_any_work(store: Store, source: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        check_ablate(parameters(source, **changes))
    assert "\n" not in str(refusal.value)
    assert not list(store.runs.glob("*"))


def test_a_table_of_texts_has_a_column_text(store: Store, source: Path, tmp_path: Path) -> None:
    table = tmp_path / "texts.jsonl"
    table.write_text('{"content": "some words"}\n')
    with pytest.raises(ValueError, match=r"texts\.jsonl, row 1: .*text"):
        check_ablate(parameters(source, measure={"texts": [str(table)]}))


def test_the_estimate_counts_every_model(store: Store, source: Path) -> None:
    asked = parameters(source, recipe_b=LOOSE, twins={"budget_tokens": 20_480, "seeds": 2})
    estimate = dry_run_ablate(check_ablate(asked), asked)
    assert (estimate["models"], estimate["tokens_each"], estimate["tokens_in_all"]) == (4, 20_480, 81_920)
    assert estimate["training_seconds"] > 0 and estimate["curation_seconds"] > 0
    assert not store.corpora.exists()
