"""The words of `tokenmill train-classifier`: its options, the parameters that they become, and the way back."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.source_names import is_local_path

if TYPE_CHECKING:
    from flows.classifier_parameters import LabelledData, TrainClassifierParameters
    from tasks.store import Store

_COLUMNS = ("text", "label", "positive", "negative", "source", "group", "name", "licence", "origin")
_LISTS = ("positive", "negative")
_FORM = "FILE[,text=C][,label=C][,positive=V|V][,negative=V|V][,source=C][,group=C][,name=N][,licence=L][,origin=O]"
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}@[0-9]+")


def add_options(command: argparse.ArgumentParser) -> None:
    """What a value may be is decided by the flow's parameters, in one place."""
    command.epilog = (
        "examples: `tokenmill train-classifier --name tone --data tweets.csv.gz --text tweet --label class --positive"
        " 0,1 --background 'pages/*.warc.gz'`; with `--name toxicity --unit piece --aggregation"
        " highest_english_sentence` one that the toxicity rule takes. Stopped, the same command goes on with what is"
        " finished"
    )
    command.add_argument("--name", required=True, metavar="N", help="of the classifier, in the registry")
    command.add_argument(
        "--data",
        required=True,
        action="append",
        type=_data,
        metavar=_FORM,
        help="CSV, JSONL or Parquet, plain, .gz or .zst, by path, glob or address; may be repeated, each with columns"
        " and labels of its own, else with those of the options below",
    )
    command.add_argument("--text", default="text", metavar="C", help="column of the texts (default: text)")
    command.add_argument("--label", default="label", metavar="C", help="column of the labels (default: label)")
    command.add_argument("--positive", type=_values, default=[], metavar="V,V", help="labels that make a positive")
    command.add_argument(
        "--negative", type=_values, default=[], metavar="V,V", help="labels that make a negative (default: all others)"
    )
    command.add_argument("--source", default="", metavar="C", help="column that says where each text is from")
    command.add_argument(
        "--group", default="", metavar="C", help="column of page, thread or author, which stay on one side of the split"
    )
    command.add_argument("--data-licence", default="unknown", metavar="L", help="of the labelled data, for the card")
    command.add_argument("--data-origin", default="", metavar="O", help="of the labelled data, for the card")
    command.add_argument(
        "--background",
        required=True,
        action="append",
        type=_background,
        metavar="S",
        help="ordinary pages, on which false alarms are counted: sources as for refresh, tables of texts, or a"
        " published version N@V; may be repeated",
    )
    command.add_argument("--background-text", default="text", metavar="C", help="column of such tables (default: text)")
    command.add_argument(
        "--pages", default=None, metavar="N", help="of sources that are no tables, a sample (default: 10000)"
    )
    command.add_argument("--background-licence", default="unknown", metavar="L", help="for the card")
    command.add_argument("--background-origin", default="", metavar="O", help="for the card")
    command.add_argument("--task", default="", metavar="TEXT", help="what it is for, in a sentence")
    command.add_argument(
        "--classes",
        type=_classes,
        default=["positive", "negative"],
        metavar="P,N",
        help="what the classifier calls the two (default: positive,negative)",
    )
    command.add_argument("--unit", default="document", metavar="U", help="a labelled text is a document or a piece")
    command.add_argument(
        "--aggregation",
        default="",
        metavar="A",
        help="how pieces' scores make a document's: highest_piece or highest_english_sentence",
    )
    command.add_argument(
        "--normaliser", default="words_and_marks", metavar="N", help="words_and_marks (default) or plain_line"
    )
    command.add_argument("--languages", type=_values, default=["en"], metavar="L,L", help="of the texts (default: en)")
    command.add_argument("--licence", default="unknown", metavar="L", help="of the classifier")
    command.add_argument("--origin", default="", metavar="O", help="of the classifier")
    command.add_argument("--trials", default=8, metavar="N", help="settings that are tried (default: 8)")
    command.add_argument("--minutes", default=10.0, metavar="M", help="after which no trial is begun (default: 10)")
    command.add_argument("--seed", default=1, metavar="S", help="of search, training and gate (default: 1)")
    command.add_argument(
        "--false-alarms", default=0.005, metavar="F", help="share of the background at most (default: 0.005)"
    )
    command.add_argument(
        "--metric",
        default="average_precision",
        metavar="F",
        help="what the gate compares: average_precision (default), or recall at each one's own threshold",
    )
    command.add_argument(
        "--max-fall",
        default=0.05,
        metavar="F",
        help="share of any slice's texts, at most, that it may get wrong beyond the champion (default: 0.05)",
    )
    command.add_argument(
        "--champion", default="by_gate", metavar="WHEN", help="by_gate (default), or never: it stays a candidate"
    )


RENAMED_IN: Mapping[tuple[str, str], dict[str, str]] = {
    ("train-classifier", "LabelledData"): {
        "file": "data",
        "name": "data",
        "licence": "data_licence",
        "origin": "data_origin",
    },
    ("train-classifier", "Background"): {
        "sources": "background",
        "text": "background_text",
        "licence": "background_licence",
        "origin": "background_origin",
    },
    ("train-classifier", "Purpose"): {"positive": "classes", "negative": "classes"},
}
"""By command and parameters, what their fields are called as options."""


def parameters_of(options: argparse.Namespace) -> TrainClassifierParameters:
    """What the options ask for. ValueError for a value that they cannot have."""
    from flows.classifier_parameters import (
        Background,
        Effort,
        Gate,
        LabelledData,
        Purpose,
        TrainClassifierParameters,
    )
    from tasks.store import checked_name

    checked_name(options.name, "classifier name")
    shared = {"text": options.text, "label": options.label, "positive": options.positive, "negative": options.negative}
    shared |= {
        "source": options.source,
        "group": options.group,
        "licence": options.data_licence,
        "origin": options.data_origin,
    }
    background: dict[str, Any] = {"sources": options.background, "text": options.background_text}
    background |= {"licence": options.background_licence, "origin": options.background_origin}
    if options.pages is not None:
        background["pages"] = options.pages
    positive, negative = options.classes
    purpose = {name: getattr(options, name) for name in Purpose.model_fields if hasattr(options, name)}
    purpose |= {"positive": positive, "negative": negative}
    return TrainClassifierParameters(
        name=options.name,
        data=[LabelledData.model_validate(shared | each) for each in options.data],
        background=Background.model_validate(background),
        purpose=Purpose.model_validate(purpose),
        effort=Effort.model_validate({name: getattr(options, name) for name in Effort.model_fields}),
        gate=Gate.model_validate({name: getattr(options, name) for name in Gate.model_fields}),
        dry_run=options.dry_run,
    )


def train_classifier_command(store: Store, parameters: TrainClassifierParameters) -> str:
    """`tokenmill train-classifier ...` with these parameters: goes on where a run of it was stopped."""
    from flows.classifier_parameters import TrainClassifierParameters

    words = ["tokenmill", "train-classifier", "--store", str(store.root), "--name", parameters.name]
    words += [f"--data={_data_words(data)}" for data in parameters.data]
    words += [f"--background={source}" for source in parameters.background.sources]
    plain = _values_of(TrainClassifierParameters())
    words += [f"{option}={value}" for option, value in _values_of(parameters).items() if value != plain[option]]
    return shlex.join(words)


def _values_of(parameters: TrainClassifierParameters) -> dict[str, str]:
    """By option, all but the sources."""
    background, purpose = parameters.background, parameters.purpose
    values = {
        "--background-text": background.text,
        "--pages": background.pages,
        "--background-licence": background.licence,
        "--background-origin": background.origin,
        "--task": purpose.task,
        "--classes": f"{purpose.positive},{purpose.negative}",
        "--unit": purpose.unit,
        "--aggregation": purpose.aggregation,
        "--normaliser": purpose.normaliser,
        "--languages": ",".join(purpose.languages),
        "--licence": purpose.licence,
        "--origin": purpose.origin,
    }
    for group in (parameters.effort, parameters.gate):
        values |= {f"--{name.replace('_', '-')}": value for name, value in group}
    return {option: str(value) for option, value in values.items()}


def _data_words(data: LabelledData) -> str:
    """What `--data` takes."""
    values = {name: getattr(data, name) for name in _COLUMNS}
    values |= {name: "|".join(values[name]) for name in _LISTS}
    return ",".join([data.file, *(f"{name}={value}" for name, value in values.items() if value)])


def _data(text: str) -> dict[str, Any]:
    """A table with what is said of it; a comma that no name of ours follows belongs to what stands before it."""
    file, *settings = re.split(rf",(?=(?:{'|'.join(_COLUMNS)})=)", text)
    data: dict[str, Any] = {"file": _absolute(file)}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name in data:
            raise argparse.ArgumentTypeError(f"{text!r} says {name} twice")
        data[name] = value.split("|") if name in _LISTS else value
    return data


def _background(text: str) -> str:
    return text if _VERSION.fullmatch(text) else _absolute(text)


def _absolute(text: str) -> str:
    """A local path made absolute, because drivers leave the current folder."""
    if not text or not is_local_path(text):
        return text
    return os.path.abspath(Path(text).expanduser())  # noqa: PTH100 - a glob must keep its pattern


def _values(text: str) -> list[str]:
    return [value.strip() for value in text.split(",") if value.strip()]


def _classes(text: str) -> list[str]:
    names = _values(text)
    if len(names) != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form POSITIVE,NEGATIVE")
    return names
