"""The command that does what a form has asked for: what a failed run shows as the way to go on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from flows.parameters import (
    CorpusShare,
    Curation,
    DiffParameters,
    Input,
    PipelineParameters,
    PretrainParameters,
    PreviewParameters,
    RefreshParameters,
)
from tasks.store import Store


def _sources(chosen: Input) -> list[str]:
    words = [word for source in (chosen.source, *chosen.more_sources) for word in ("--source", source)]
    return [*words, "--replace"] if chosen.replace else words


def _settings(settings: Sequence[str], prefix: str = "") -> list[str]:
    return [word for setting in settings for word in ("--set", f"{prefix}{setting}")]


def _wipe_out(curation: Curation) -> list[str]:
    return ["--allow-wipe-out"] if curation.allow_wipe_out else []


def _workers(workers: int) -> list[str]:
    return ["--workers", str(workers)] if workers else []


def refresh_command(store: Store, parameters: RefreshParameters) -> str:
    """`tokenmill refresh ...` with these parameters."""
    return shlex.join(
        [
            *("tokenmill", "refresh", "--store", str(store.root), "--name", parameters.name),
            *_sources(parameters.input),
            *("--profile", parameters.input.profile, "--recipe", parameters.curation.recipe),
            *_settings(parameters.curation.settings),
            *_wipe_out(parameters.curation),
            *_workers(parameters.execution.workers),
        ]
    )


def pipeline_command(store: Store, parameters: PipelineParameters) -> str:
    """`tokenmill pipeline ...` with these parameters; prompts, approvals, the model's name and the place of
    checkpoints are the form's alone."""
    return shlex.join(
        [
            *("tokenmill", "pipeline", "--store", str(store.root), "--name", parameters.name),
            *_sources(parameters.input),
            *("--input-profile", parameters.input.profile, "--curation", parameters.curation.recipe),
            *("--profile", parameters.training.profile),
            *(["--retrain-tokenizer"] if parameters.training.retrain_tokenizer else []),
            *("--min-new-tokens", str(parameters.consent.min_new_tokens)),
            *_settings(parameters.curation.settings, "curation."),
            *_wipe_out(parameters.curation),
            *_settings(parameters.training.settings, "training."),
            *_workers(parameters.execution.workers),
        ]
    )


def _share(share: CorpusShare) -> str:
    """What `--mix` takes."""
    limits = {name: getattr(share, name) for name in ("max_epochs", "max_tokens")}
    settings = {"weight": share.weight} | {name: limit for name, limit in limits.items() if limit}
    return ",".join([share.corpus, *(f"{name}={value}" for name, value in settings.items())])


def pretrain_command(store: Store, parameters: PretrainParameters) -> str:
    """`tokenmill pretrain ...` with these parameters."""
    training = parameters.training
    return shlex.join(
        [
            *("tokenmill", "pretrain", "--store", str(store.root), "--corpus", parameters.corpus),
            *(word for share in parameters.more_corpora for word in ("--mix", _share(share))),
            *("--recipe", training.profile),
            *(["--model", training.model] if training.model else []),
            *(["--retrain-tokenizer"] if training.retrain_tokenizer else []),
            *("--workers", str(parameters.workers)),
            *(["--min-workers", str(parameters.min_workers)] if parameters.min_workers else []),
            *(["--checkpoints", training.checkpoints] if training.checkpoints else []),
            *(["--resume-from", parameters.resume_from] if parameters.resume_from else []),
            *_settings(training.settings),
        ]
    )


def resume_skipping_command(store: Store, parameters: PretrainParameters, run_id: str) -> str:
    """`tokenmill pretrain ...` that goes on with the MLflow run `run_id`, and leaves out what made it diverge."""
    policy = "spikes.policy="
    settings = [setting for setting in parameters.training.settings if not setting.startswith(policy)]
    changed = {"settings": [*settings, f"{policy}skip"], "retrain_tokenizer": False}  # a resumed run keeps its own
    training = parameters.training.model_copy(update=changed)
    return pretrain_command(store, parameters.model_copy(update={"training": training, "resume_from": run_id}))


def preview_command(store: Store, parameters: PreviewParameters) -> str:
    """`tokenmill preview ...` with these parameters."""
    sources = (parameters.source, *parameters.more_sources)
    return shlex.join(
        [
            *("tokenmill", "preview", "--store", str(store.root)),
            *(word for source in sources for word in ("--source", source)),
            *("--recipe", parameters.rules.recipe, *_settings(parameters.rules.settings)),
            *("--pages", str(parameters.pages), "--seed", str(parameters.seed)),
            *_workers(parameters.workers),
        ]
    )


def diff_command(store: Store, before: str, after: str, parameters: DiffParameters) -> str:
    """`tokenmill diff ...` of the two versions that the parameters stand for."""
    samples = ("--samples", str(parameters.samples))
    return shlex.join(["tokenmill", "diff", "--store", str(store.root), *samples, before, after])
