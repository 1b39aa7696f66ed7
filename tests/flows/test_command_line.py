"""The command that a failed run shows asks for what its form has asked for."""

from __future__ import annotations

import shlex
from pathlib import Path

from flows.arguments import parser
from flows.command_line import (
    diff_command,
    pipeline_command,
    pretrain_command,
    preview_command,
    refresh_command,
    resume_skipping_command,
)
from flows.parameters import (
    CorpusShare,
    Curation,
    DiffParameters,
    PipelineParameters,
    PretrainParameters,
    PreviewParameters,
    RefreshParameters,
    Rules,
    Training,
)
from tasks.store import Store


def test_retraining_is_repeated(tmp_path: Path) -> None:
    store, again = Store.open(tmp_path), Training(retrain_tokenizer=True)
    pretrain = pretrain_command(store, PretrainParameters(training=again))
    pipeline = pipeline_command(store, PipelineParameters(training=again))
    for command in (pretrain, pipeline):
        assert parser().parse_args(shlex.split(command)[1:]).retrain_tokenizer
    plain = pretrain_command(store, PretrainParameters())
    assert not parser().parse_args(shlex.split(plain)[1:]).retrain_tokenizer


def test_after_a_divergence_the_run_itself_goes_on_and_skips(tmp_path: Path) -> None:
    settings = ["spikes.policy=rollback", "seed=3"]
    asked = PretrainParameters(corpus="web@3", training=Training(settings=settings, retrain_tokenizer=True), workers=2)
    words = shlex.split(resume_skipping_command(Store.open(tmp_path), asked, "ab" * 16))
    options = parser().parse_args(words[1:])
    assert (options.resume_from, options.corpus, options.workers) == ("ab" * 16, "web@3", 2)
    assert options.settings == ["seed=3", "spikes.policy=skip"] and not options.retrain_tokenizer


def test_a_mixture_is_asked_for_with_its_weights_and_caps(tmp_path: Path) -> None:
    shares = [CorpusShare(corpus="news@2", weight=0.5, max_epochs=4), CorpusShare(corpus="books@1", max_tokens=10**9)]
    asked = PretrainParameters(corpus="docs@3", more_corpora=shares, workers=4, min_workers=2)
    options = parser().parse_args(shlex.split(pretrain_command(Store.open(tmp_path), asked))[1:])
    assert [CorpusShare.model_validate(share) for share in options.mix] == shares
    assert (options.corpus, options.workers, options.min_workers) == ("docs@3", 4, 2)
    plain = parser().parse_args(shlex.split(pretrain_command(Store.open(tmp_path), PretrainParameters()))[1:])
    assert (plain.mix, plain.min_workers, plain.checkpoints) == ([], 0, "")


def test_the_place_of_checkpoints_is_asked_for_again(tmp_path: Path) -> None:
    for place in ("/checkpoints", "s3://bucket/prefix"):
        asked = PretrainParameters(training=Training(checkpoints=place))
        options = parser().parse_args(shlex.split(pretrain_command(Store.open(tmp_path), asked))[1:])
        assert options.checkpoints == place


def test_an_allowed_wipe_out_is_asked_for_again(tmp_path: Path) -> None:
    store, allowed = Store.open(tmp_path), Curation(allow_wipe_out=True)
    refresh = refresh_command(store, RefreshParameters(curation=allowed))
    pipeline = pipeline_command(store, PipelineParameters(curation=allowed))
    for command in (refresh, pipeline):
        assert parser().parse_args(shlex.split(command)[1:]).allow_wipe_out
    plain = refresh_command(store, RefreshParameters())
    assert not parser().parse_args(shlex.split(plain)[1:]).allow_wipe_out


def test_a_preview_is_asked_for_with_its_sample(tmp_path: Path) -> None:
    rules = Rules(recipe="gopher", settings=["gopher_quality.min_words=30"])
    chosen = PreviewParameters(source="/crawl", more_sources=["/more"], rules=rules, pages=50, seed=3, workers=2)
    options = parser().parse_args(shlex.split(preview_command(Store.open(tmp_path), chosen))[1:])
    assert (options.source, options.recipe, options.settings) == (["/crawl", "/more"], "gopher", rules.settings)
    assert (options.pages, options.seed, options.workers) == (50, 3, 2)


def test_a_difference_is_asked_for_by_its_two_versions(tmp_path: Path) -> None:
    command = diff_command(Store.open(tmp_path), "web@1", "web@2", DiffParameters(samples=7))
    options = parser().parse_args(shlex.split(command)[1:])
    assert (options.first, options.second, options.samples) == ("web@1", "web@2", 7)
