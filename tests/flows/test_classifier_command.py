"""The options of `train-classifier`, what they become, and the command that a stopped run shows."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.arguments import option_of, parser
from flows.classifier_command import parameters_of, train_classifier_command
from flows.classifier_parameters import (
    Background,
    Effort,
    Gate,
    LabelledData,
    Purpose,
    TrainClassifierParameters,
)
from flows.user_error import user_line
from tasks.store import Store

_WORD = st.text(st.characters(categories=["L", "N"], include_characters=" -.'\""), min_size=1, max_size=12).map(
    lambda word: word.strip() or "x"
)
_LICENCE = st.sampled_from(["MIT", "CC BY 4.0, for research; ask first", "unknown", "name, text and label"])
_DATA = st.builds(
    LabelledData,
    file=st.sampled_from(["/data/a.csv.gz", "/data/b, c.jsonl", "s3://bucket/*.parquet", "https://example.org/d.csv"]),
    text=_WORD,
    label=_WORD,
    positive=st.lists(_WORD, min_size=1, max_size=3),
    negative=st.lists(_WORD, max_size=2),
    source=st.one_of(st.just(""), _WORD),
    group=st.one_of(st.just(""), _WORD),
    name=st.sampled_from(["", "tweets"]),
    licence=_LICENCE,
    origin=st.one_of(st.just(""), _WORD),
)
_PARAMETERS = st.builds(
    TrainClassifierParameters,
    name=st.sampled_from(["toxicity", "tone-2"]),
    data=st.lists(_DATA, min_size=1, max_size=2),
    background=st.builds(
        Background,
        sources=st.lists(
            st.sampled_from(["/pages/*.warc.gz", "docs@3", "environment-docs:50"]), min_size=1, max_size=2
        ),
        text=_WORD,
        pages=st.integers(1, 100_000),
        licence=_LICENCE,
        origin=st.one_of(st.just(""), _WORD),
    ),
    purpose=st.builds(
        Purpose,
        task=st.one_of(st.just(""), _WORD),
        positive=st.just("toxic"),
        unit=st.sampled_from(["document", "piece"]),
        aggregation=st.sampled_from(["", "mean"]),
        normaliser=st.sampled_from(["words_and_marks", "plain_line"]),
        languages=st.sampled_from([["en"], ["de", "fr"]]),
        licence=_LICENCE,
    ),
    effort=st.builds(
        Effort,
        trials=st.integers(1, 1000),
        minutes=st.floats(0.01, 1000, allow_nan=False),
        seed=st.integers(0, 2**31 - 1),
    ),
    gate=st.builds(
        Gate,
        false_alarms=st.floats(0.0001, 0.5, exclude_max=True),
        metric=st.sampled_from(["recall", "average_precision"]),
        max_fall=st.floats(0, 0.5),
        champion=st.sampled_from(["by_gate", "never"]),
    ),
)


@given(_PARAMETERS)
def test_the_command_of_a_form_asks_for_what_the_form_asked_for(asked: TrainClassifierParameters) -> None:
    words = shlex.split(train_classifier_command(Store(Path("/somewhere/store")), asked))
    assert words[:2] == ["tokenmill", "train-classifier"]
    assert parameters_of(parser().parse_args(words[1:])) == asked


def words(*more: str) -> list[str]:
    return ["train-classifier", "--name", "toxicity", *more]


def test_one_table_with_its_columns_as_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = words("--data", "tweets.csv.gz", "--text", "tweet", "--label", "class", "--positive", "0,1")
    options = parser().parse_args([*given, "--background", "pages/*.warc.gz", "--background", "docs@2"])
    asked = parameters_of(options)
    assert asked == TrainClassifierParameters(
        name="toxicity",
        data=[
            LabelledData(file=str(tmp_path / "tweets.csv.gz"), text="tweet", label="class", positive=["0", "1"]),
        ],
        background=Background(sources=[f"{tmp_path}/pages/*.warc.gz", "docs@2"]),
    )
    assert asked.data[0].shown_name == "tweets"


def test_what_a_table_says_itself_goes_before_the_options() -> None:
    tables = ("--data", "/a.csv,text=comment,positive=yes|maybe", "--data", "/b.csv", "--positive", "1")
    asked = parameters_of(parser().parse_args(words(*tables, "--text", "body", "--background", "docs@1")))
    assert [(data.text, data.positive) for data in asked.data] == [("comment", ["yes", "maybe"]), ("body", ["1"])]


@pytest.mark.parametrize(
    ("more", "option"),
    [
        (["--data", "/a.csv"], "--positive"),
        (["--data", "/a.csv", "--positive", "1", "--trials", "0"], "--trials"),
        (["--data", "/a.csv", "--positive", "1", "--minutes", "soon"], "--minutes"),
        (["--data", "/a.csv", "--positive", "1", "--false-alarms", "0.5"], "--false-alarms"),
        (["--data", "/a.csv,positive=1,name=(a)"], "--data"),
        (["--data", "/a.csv", "--positive", "1|2"], "--positive"),
        (["--data", "/a.csv", "--positive", "1", "--champion", "always"], "--champion"),
        (["--data", "/a.csv", "--positive", "1", "--unit", "page"], "--unit"),
        (["--data", "/a.csv", "--positive", "1", "--pages", "0"], "--pages"),
        (["--data", "/a.csv", "--positive", "1", "--classes", "a b,c"], "--classes"),
    ],
)
def test_a_value_that_cannot_be_is_one_line_that_names_its_option(more: list[str], option: str) -> None:
    options = parser().parse_args(words(*more, "--background", "docs@1"))
    with pytest.raises(ValidationError) as refused:
        parameters_of(options)
    line = user_line(refused.value, lambda model, field: option_of(options, model, field))
    assert line is not None and line.startswith(f"{option}: ") and "\n" not in line


def test_a_name_that_the_registry_cannot_hold_is_refused_in_words() -> None:
    more = ["--data", "/a.csv", "--positive", "1", "--name", "No Name", "--background", "docs@1"]
    with pytest.raises(ValueError, match="'No Name' is no valid classifier name: use up to 64 letters, digits"):
        parameters_of(parser().parse_args(words(*more)))


@pytest.mark.parametrize("more", [["--data", "/a.csv,text=x,text=y"], ["--classes", "toxic"]])
def test_what_no_option_can_mean_is_refused_by_the_parser(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(words("--data", "/a.csv", "--background", "docs@1", *more))
    assert f"argument {more[0]}" in capsys.readouterr().err
