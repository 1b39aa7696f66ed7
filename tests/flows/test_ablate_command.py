"""The options of `ablate`, what they become, and the command that a stopped run shows."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.ablate_command import ablate_command, parameters_of
from flows.ablate_parameters import AblateParameters, Measure, Pages, Twins
from flows.arguments import option_of, parser
from flows.parameters import Rules
from flows.user_error import user_line
from tasks.store import Store

_RULES = st.builds(
    Rules,
    recipe=st.sampled_from(["fineweb", "gopher", "smoke"]),
    settings=st.lists(
        st.sampled_from(["quality_rules=[]", "language.min_score=0.3", 'language.languages=["de", "fr"]']), unique=True
    ),
)
_PARAMETERS = st.builds(
    AblateParameters,
    pages=st.builds(
        Pages,
        source=st.sampled_from(["/crawl/*.warc.gz", "s3://bucket/a b", "environment-docs:50"]),
        more_sources=st.lists(st.sampled_from(["/more", "https://example.org/list.txt"]), unique=True),
    ),
    recipe_a=_RULES,
    recipe_b=_RULES,
    twins=st.builds(
        Twins,
        profile=st.sampled_from(["smoke", "small"]),
        settings=st.lists(st.sampled_from(["seed=7", "learning_rate=0.001"]), unique=True),
        budget_tokens=st.integers(1, 10**9),
        seeds=st.integers(2, 100),
    ),
    measure=st.builds(
        Measure,
        held_out_fraction=st.floats(0.01, 0.5),
        pages=st.integers(10, 1000),
        texts=st.lists(st.sampled_from(["/texts/a.jsonl", "s3://bucket/b, c.parquet"]), unique=True),
        tasks=st.lists(st.sampled_from(["basics", "academic:piqa,boolq"]), unique=True),
    ),
    workers=st.integers(0, 9),
)


@given(_PARAMETERS)
def test_the_command_goes_on_with_what_the_form_asked_for(parameters: AblateParameters) -> None:
    words = shlex.split(ablate_command(Store(Path("/store")), parameters))
    assert words[0] == "tokenmill"
    assert parameters_of(parser().parse_args(words[1:])) == parameters


def test_nothing_said_is_the_form_as_it_opens() -> None:
    assert parameters_of(parser().parse_args(["ablate"])) == AblateParameters()


def test_files_are_those_of_the_folder_that_they_are_named_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    given_ = parameters_of(parser().parse_args(["ablate", "--source", "*.warc.gz", "--text", "t.jsonl"]))
    assert given_.pages.source == f"{tmp_path}/*.warc.gz"
    assert given_.measure.texts == [f"{tmp_path}/t.jsonl"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--seeds", "1"], "--seeds: Input should be greater than or equal to 2"),
        (["--budget-tokens", "0"], "--budget-tokens: Input should be greater than or equal to 1"),
        (["--held-out", "0.6"], "--held-out: Input should be less than or equal to 0.5"),
        (["--pages", "9"], "--pages: Input should be greater than or equal to 10"),
        (["--profile", "tiny"], "--profile: there is no 'tiny'; there is 'smoke', 'small' or 'full'"),
        (["--recipe-b", "best"], "recipe: there is no 'best'; there is "),
    ],
)
def test_a_value_that_can_not_be_is_refused_by_the_name_of_its_option(words: list[str], line: str) -> None:
    options = parser().parse_args(["ablate", *words])
    with pytest.raises(ValidationError) as refusal:
        parameters_of(options)
    assert str(user_line(refusal.value, lambda model, field: option_of(options, model, field))).startswith(line)


@pytest.mark.parametrize("option", ["--set", "--set-a", "--set-b"])
def test_a_setting_has_a_key_and_a_value(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["ablate", option, "min_words"])
    assert "is not of the form key=value" in capsys.readouterr().err
