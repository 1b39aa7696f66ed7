"""The command that a failed run shows asks for what its form has asked for."""

from __future__ import annotations

import shlex
from pathlib import Path

from flows.arguments import parser
from flows.command_line import diff_command, pipeline_command, pretrain_command
from flows.parameters import DiffParameters, PipelineParameters, PretrainParameters, Training
from tasks.store import Store


def test_retraining_is_repeated(tmp_path: Path) -> None:
    store, again = Store.open(tmp_path), Training(retrain_tokenizer=True)
    pretrain = pretrain_command(store, "web@2", PretrainParameters(training=again))
    pipeline = pipeline_command(store, PipelineParameters(training=again))
    for command in (pretrain, pipeline):
        assert parser().parse_args(shlex.split(command)[1:]).retrain_tokenizer
    plain = pretrain_command(store, "web@2", PretrainParameters())
    assert not parser().parse_args(shlex.split(plain)[1:]).retrain_tokenizer


def test_a_difference_is_asked_for_by_its_two_versions(tmp_path: Path) -> None:
    command = diff_command(Store.open(tmp_path), "web@1", "web@2", DiffParameters(samples=7))
    options = parser().parse_args(shlex.split(command)[1:])
    assert (options.first, options.second, options.samples) == ("web@1", "web@2", 7)
