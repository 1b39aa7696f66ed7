"""The forms: what an operator reads in them, and what they refuse before anything is submitted."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from prefect import flow
from pydantic import BaseModel, ValidationError

from flows.arguments import CURATIONS
from flows.classifier_parameters import TrainClassifierParameters
from flows.parameters import (
    Curation,
    DiffParameters,
    EvaluateParameters,
    Input,
    PipelineParameters,
    PretrainParameters,
    PreviewParameters,
    ReconcileParameters,
    RefreshParameters,
    Training,
)
from flows.takedown import TakedownParameters
from tasks.recipes.curation import CURATION_RECIPES

FORMS = (
    RefreshParameters,
    PretrainParameters,
    EvaluateParameters,
    PipelineParameters,
    ReconcileParameters,
    DiffParameters,
    PreviewParameters,
    TakedownParameters,
    TrainClassifierParameters,
)


def form_schema(model: type[BaseModel]) -> dict[str, Any]:
    """What Prefect's page draws the form from, and its server validates with."""

    def run(parameters: BaseModel) -> None:
        return None

    run.__annotations__ = {"parameters": model, "return": None}
    return flow(run).parameters.model_dump_for_openapi()


@pytest.mark.parametrize("model", FORMS)
def test_every_field_has_a_title_and_says_what_it_is(model: type[BaseModel]) -> None:
    schema = form_schema(model)
    for group, definition in schema["definitions"].items():
        assert definition["description"], group
        for name, field in definition["properties"].items():
            if "$ref" in field:  # a group: the page shows what the group says of itself
                continue
            assert field["title"][0].isupper() and field["description"], (group, name)
            assert field.get("type") != "object", f"{group}.{name} would be drawn as a JSON editor"
            assert "anyOf" not in field, f"{group}.{name} would be drawn as a switch between types"


@pytest.mark.parametrize("model", FORMS)
def test_the_defaults_are_valid_and_do_no_harm(model: type[BaseModel]) -> None:
    defaults = model().model_dump(mode="json")
    jsonschema.validate({"parameters": defaults}, form_schema(model))
    text = str(defaults)
    assert "'replace': True" not in text and "'champion': 'if_better'" not in text
    assert "'allow_wipe_out': True" not in text
    assert "'apply': True" not in text and "'purge': True" not in text and "'retrain_tokenizer': True" not in text


@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        (RefreshParameters, {"name": "../outside"}),
        (RefreshParameters, {"name": ""}),
        (RefreshParameters, {"input": {"source": ""}}),
        (RefreshParameters, {"input": {"more_sources": [""]}}),
        (RefreshParameters, {"input": {"profile": "huge"}}),
        (RefreshParameters, {"curation": {"recipe": "no-such-recipe"}}),
        (RefreshParameters, {"curation": {"settings": ["gopher_quality.min_words"]}}),
        (RefreshParameters, {"curation": {"settings": ["=30"]}}),
        (RefreshParameters, {"execution": {"workers": -1}}),
        (RefreshParameters, {"no_such_field": 1}),
        (PretrainParameters, {"training": {"profile": "base"}}),
        (PretrainParameters, {"training": {"model": "a/b"}}),
        (PretrainParameters, {"resume_from": "yesterday"}),
        (PretrainParameters, {"workers": 0}),
        (PretrainParameters, {"min_workers": -1}),
        (PretrainParameters, {"more_corpora": [{"weight": 2}]}),
        (PretrainParameters, {"more_corpora": [{"corpus": "a/b"}]}),
        (PretrainParameters, {"more_corpora": [{"corpus": "news", "weight": 0}]}),
        (PretrainParameters, {"more_corpora": [{"corpus": "news", "max_epochs": -0.5}]}),
        (PretrainParameters, {"more_corpora": [{"corpus": "news", "max_tokens": -1}]}),
        (PretrainParameters, {"training": {"checkpoints": "a/relative/folder"}}),
        (PretrainParameters, {"consent": {"min_new_tokens": -1}}),
        (EvaluateParameters, {"promotion": {"champion": "always"}}),
        (EvaluateParameters, {"scoring": {"prompts": [""]}}),
        (ReconcileParameters, {"min_age_minutes": -1}),
        (PreviewParameters, {"pages": 0}),
        (PreviewParameters, {"pages": 100_001}),
        (PreviewParameters, {"rules": {"recipe": "no-such-recipe"}}),
        (PreviewParameters, {"rules": {"allow_wipe_out": True}}),
        (PreviewParameters, {"source": ""}),
        (DiffParameters, {"before": "web@latest"}),
        (DiffParameters, {"after": ""}),
        (DiffParameters, {"samples": 101}),
        (TakedownParameters, {"name": "a/b"}),
        (TrainClassifierParameters, {"name": "Tone"}),
        (TrainClassifierParameters, {"data": [{"file": "a.csv", "positive": []}]}),
        (TrainClassifierParameters, {"data": [{"positive": ["1"]}]}),
        (TrainClassifierParameters, {"purpose": {"unit": "page"}}),
        (TrainClassifierParameters, {"effort": {"trials": 0}}),
        (TrainClassifierParameters, {"effort": {"minutes": 0}}),
        (TrainClassifierParameters, {"gate": {"false_alarms": 0}}),
        (TrainClassifierParameters, {"gate": {"false_alarms": 1}}),
        (TrainClassifierParameters, {"gate": {"champion": "if_better"}}),
        (TrainClassifierParameters, {"background": {"pages": 100_001}}),
        (TakedownParameters, {"urls": "https://example.org/"}),
    ],
    ids=str,
)
def test_what_one_field_can_say_is_refused_by_the_form_and_by_the_flow(
    model: type[BaseModel], wrong: dict[str, Any]
) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"parameters": wrong}, form_schema(model))
    with pytest.raises(ValidationError):
        model.model_validate(wrong)


def test_settings_are_overrides_by_key() -> None:
    assert Curation(settings=["a.b=1", "c==="]).overrides == {"a.b": "1", "c": "=="}
    assert Training().overrides == {}
    with pytest.raises(ValueError, match=r"a\.b is given twice"):
        _ = Training(settings=["a.b=1", "a.b=2"]).overrides


def test_nothing_in_a_form_can_be_changed_by_a_flow() -> None:
    with pytest.raises(ValidationError):
        Input().source = "elsewhere"  # type: ignore[misc]


def test_the_recipes_of_the_form_are_those_that_there_are() -> None:
    assert set(Curation.model_json_schema()["properties"]["recipe"]["enum"]) == set(CURATION_RECIPES)
    assert {name.strip() for name in CURATIONS.split(",")} == set(CURATION_RECIPES)
