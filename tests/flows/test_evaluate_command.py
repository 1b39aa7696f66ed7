"""The command that a failed evaluation shows asks for what its form has asked for."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from flows.arguments import option_of, parser
from flows.evaluate_command import evaluate_command, parameters_of
from flows.parameters import EvaluateParameters, Promotion, Scoring
from flows.user_error import user_line
from tasks.store import Store


def parsed(*words: str) -> EvaluateParameters:
    return parameters_of(parser().parse_args(["evaluate", "--model", "web@2", *words]))


@pytest.mark.parametrize(
    "asked",
    [
        EvaluateParameters(model="web@2"),
        EvaluateParameters(model="web@2", scoring=Scoring(tasks=[])),
        EvaluateParameters(
            model="web@2",
            compare_with="web@1",
            scoring=Scoring(
                profile="full",
                tasks=["academic=/data/eval:piqa,arc_easy", "basics"],
                limit=500,
                contamination=True,
                workers=4,
            ),
            promotion=Promotion(champion="ask", metric="academic/piqa", guarded=["bits_per_byte=0.01", "basics"]),
        ),
    ],
)
def test_the_way_back(tmp_path: Path, asked: EvaluateParameters) -> None:
    words = shlex.split(evaluate_command(Store.open(tmp_path), asked))
    assert words[:2] == ["tokenmill", "evaluate"]
    assert parameters_of(parser().parse_args(words[1:])) == asked


def test_places_are_made_absolute_and_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    scoring = parsed("--tasks", "mine:one", "--tasks", "basics", "--tasks", "academic=eval").scoring
    assert scoring.tasks == [f"{tmp_path}/mine:one", "basics", f"academic={tmp_path}/eval"]
    assert parsed().scoring.tasks == ["basics"] and parsed("--tasks", "none").scoring.tasks == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "-1"], "--limit: Input should be greater than or equal to 0"),
        (["--champion", "always"], "--champion: there is no 'always'; there is 'never', 'if_better' or 'ask'"),
        (["--workers", "0"], "--workers: Input should be greater than or equal to 1"),
        (["--guard", ""], "--guard: String should have at least 1 character"),
    ],
)
def test_values_that_cannot_be_are_said_by_their_option(words: list[str], said: str) -> None:
    options = parser().parse_args(["evaluate", "--model", "web@2", *words])
    with pytest.raises(ValueError) as refused:
        parameters_of(options)
    assert user_line(refused.value, lambda model, field: option_of(options, model, field)) == said
