"""The registered model's options: what MLflow hands on is what the generator is asked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.models.utils import _enforce_params_schema

from infra.served_model import Continuation
from infra.served_options import generation_options, served_options
from model.sampling import Sampling
from tasks.generation import TextGenerator
from tests.infra.small_model import small_model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))[0]


@pytest.fixture(scope="module")
def generator(files: Path) -> TextGenerator:
    return TextGenerator.load(files, files.parent.parent / "tokenizer.json")


@pytest.fixture(scope="module")
def served(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Continuation:
    together = tmp_path_factory.mktemp("files")
    for file in (*files.iterdir(), files.parent.parent / "tokenizer.json"):
        (together / file.name).write_bytes(file.read_bytes())
    model = Continuation()
    model.load_context(SimpleNamespace(artifacts={"files": str(together)}))
    return model


def handed_on(params: dict[str, Any]) -> dict[str, Any]:
    """What `predict` gets from MLflow, which fills in the defaults of the signature."""
    filled: dict[str, Any] = _enforce_params_schema(params, served_options(64))
    return filled


def test_the_defaults_of_the_signature_are_those_of_the_generator() -> None:
    options = generation_options(handed_on({}))
    stop = options.pop("stop")
    assert list(stop) == [] and Sampling(**options) == Sampling(max_new_tokens=32)
    assert {each.name for each in served_options(64).params} == {*options, "stop"}


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"top_k": 0}, {"top_k": None}),
        ({"top_k": None}, {"top_k": None}),
        ({"top_k": 1}, {"top_k": 1}),
        ({"top_p": 1.0}, {"top_p": None}),
        ({"top_p": None}, {"top_p": None}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"temperature": None, "seed": 3}, {"seed": 3}),
        ({"temperature": 0.0}, {"temperature": 0.0}),
        ({}, {}),
    ],
)
def test_none_and_0_mean_what_they_say(params: dict[str, Any], expected: dict[str, Any]) -> None:
    assert generation_options(params) == expected


def test_prompts_are_continued_together_with_all_options(served: Continuation, generator: TextGenerator) -> None:
    params = {"max_new_tokens": 12, "seed": 3, "top_k": 0, "top_p": 0.9, "repetition_penalty": 1.2, "temperature": 0.7}
    prompts = ["The", "A walk", "In"]
    options = generation_options(params)
    expected = [generator.continuation(prompt, **options) for prompt in prompts]
    assert served.predict(None, prompts, handed_on(params)) == expected
    stop = expected[0][3:5]
    stopped = served.predict(None, ["The"], handed_on({**params, "stop": [stop]}))
    assert stopped == [expected[0][: expected[0].index(stop)]]
    assert served.predict(None, ["The"], handed_on({})) == [generator.continuation("The", max_new_tokens=32)]


def test_what_can_not_work_is_refused(served: Continuation) -> None:
    for wrong in ({"top_p": 0.0}, {"temperature": -1.0}, {"max_new_tokens": 0}, {"stop": [""]}):
        with pytest.raises(MlflowException) as refused:
            served.predict(None, ["The"], handed_on({"max_new_tokens": 4, **wrong}))
        assert refused.value.get_http_status_code() == 400 and next(iter(wrong)).split("_")[0] in str(refused.value)
    with pytest.raises(MlflowException, match="a prompt is empty"):
        served.predict(None, ["The", ""], None)
