"""A wrong value is told of by the option that it was given with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from pydantic import ValidationError

from flows.arguments import option_of, parser
from flows.parameters import Curation, Input, PretrainParameters, Training
from flows.user_error import user_line

PRETRAIN = ["pretrain", "--corpus", "web"]


@pytest.mark.parametrize(
    ("words", "make", "line"),
    [
        (
            PRETRAIN,
            lambda: PretrainParameters(resume_from="123"),
            "--resume-from: '123' is no id of an MLflow run: take the 32 characters of it from the run's page",
        ),
        (
            PRETRAIN,
            lambda: PretrainParameters.model_validate({"more_corpora": [{"corpus": "news", "weight": "0"}]}),
            "--mix weight: Input should be greater than 0",
        ),
        (PRETRAIN, lambda: PretrainParameters(min_workers=9_999), "--min-workers: Input should be less than"),
        (PRETRAIN, lambda: _training("huge"), "--recipe: there is no 'huge'; there is"),
        (["plan", "--corpus", "web"], lambda: _training("huge"), "--recipe: there is no 'huge'"),
        (["pipeline"], lambda: _training("huge"), "--profile: there is no 'huge'"),
        (["pipeline"], lambda: Input.model_validate({"profile": "huge"}), "--input-profile: there is no 'huge'"),
        (["pipeline"], lambda: Curation.model_validate({"recipe": "huge"}), "--curation: there is no 'huge'"),
        (PRETRAIN, lambda: Training(settings=["total"]), "--set: "),
        (["corpora"], lambda: _training("huge"), "profile: there is no 'huge'"),
    ],
)
def test_a_field_is_called_by_its_option(words: list[str], make: Callable[[], Any], line: str) -> None:
    with pytest.raises(ValidationError) as refused:
        make()
    told = user_line(refused.value, partial(option_of, parser().parse_args(words)))
    assert told is not None and told.startswith(line)


def test_a_form_calls_it_by_its_field() -> None:
    with pytest.raises(ValidationError) as refused:
        _training("huge")
    assert str(user_line(refused.value)).startswith("profile: there is no 'huge'")


def _training(profile: str) -> Training:
    return Training.model_validate({"profile": profile})
