"""What a pretraining would be: resolved and checked, and nothing done yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.approvals import check_approvable
from flows.parameters import PretrainParameters
from flows.pretrain_corpora import PlannedCorpus, held_out_copies, planned_corpora
from infra.earlier_run import find_earlier_run
from infra.ray_map import check_cluster, trains_here
from infra.registry import model_references
from infra.settings import current_store
from tasks.checkpoints import checkpoint_step, latest_checkpoint, read_state
from tasks.checkpoints.places import place
from tasks.manifest import code_version, fingerprint, library_versions, read_manifest
from tasks.plan import TrainingPlan, training_plan
from tasks.recipes.pretraining import PretrainRecipe, resolve_pretrain_recipe, resume_differences
from tasks.store import RUN_RECORD, Store, checked_name
from tasks.tokenization import tokenizer_line
from tasks.tokenizer_generations import TokenizerChoice, TokenizerLine
from tasks.training import CHECKPOINTS

TOKENS_TAG = "corpus_estimated_tokens"


@dataclass(frozen=True)
class PretrainPlan:
    """One training run: on what, with what, under which name, and where."""

    store: Store
    corpora: tuple[PlannedCorpus, ...]  # the main one first
    recipe: PretrainRecipe
    workers: int
    min_workers: int  # 0: as many as `workers`
    model: str  # name in the registry
    tokenizer: TokenizerChoice
    run_dir: Path
    earlier: Mapping[str, Any]  # RUN_RECORD of a run that was begun in this folder before; empty for a new one
    checkpoints: str  # folder or URL of this run's; empty: in its folder

    @property
    def main(self) -> PlannedCorpus:
        """The corpus that is evaluated on."""
        return self.corpora[0]

    @property
    def reference(self) -> str:
        """All that is trained on: `docs@3`, or of a mixture `docs@3 + news@1`."""
        return " + ".join(corpus.reference for corpus in self.corpora)

    @property
    def name(self) -> str:
        return f"pretrain {self.reference} {self.recipe.name}"

    @property
    def num_workers(self) -> int | tuple[int, int]:
        """Their number, or the fewest and the most."""
        return (self.min_workers, self.workers) if self.min_workers else self.workers

    @property
    def checkpoints_root(self) -> str:
        """The place in which `checkpoints` is the run's own folder; empty where that is."""
        return self.checkpoints.rpartition("/")[0]

    @property
    def checkpoints_location(self) -> str:
        """Where they are, as a path or URL."""
        return self.checkpoints or str(self.run_dir / CHECKPOINTS)

    @property
    def lock(self) -> str:
        return f"run-{self.run_dir.name}"

    def training_plan(self, *, probe: bool, price_per_device_hour: float | None = None) -> TrainingPlan:
        """What the run takes (`tasks.plan`); ValueError where it does not fit. Without `probe` nothing is run."""
        sha256, fraction = self._tokenizer_sha256, self.recipe.held_out_fraction
        main, *more = [
            corpus.facts(self.store, tokenizer_sha256=sha256, held_out_fraction=fraction) for corpus in self.corpora
        ]
        given: dict[str, Any] = {"more": more, "folder": self.run_dir, "keeps_checkpoints_there": not self.checkpoints}
        if self.min_workers:  # each has more to do, and where weights are divided more to hold
            training_plan(self.recipe, main, workers=self.min_workers, probe=False, **given)
        return training_plan(
            self.recipe,
            main,
            workers=self.workers,
            price_per_device_hour=price_per_device_hour,
            probe=probe,
            **given,
        )

    @property
    def _tokenizer_sha256(self) -> str:
        """Of the tokenizer that the run is packed with; empty where it is not in this store yet."""
        line = tokenizer_line(self.store, self.main.manifest, self.recipe)
        made = read_manifest(line.folder / str(self.tokenizer.generation))
        return str(made.get("sha256", "")) if made else ""

    @property
    def can_be_judged(self) -> bool:
        """Whether this machine knows what the training takes: it is the one that trains, and the corpora say their
        tokens, which versions of earlier programs do not."""
        return trains_here() and all("estimated_tokens" in corpus.manifest for corpus in self.corpora)

    def held_out_copies(self) -> dict[str, int]:
        """By further corpus: documents to train on with the text of one that measures the model."""
        return held_out_copies(self.corpora, self.recipe.held_out_fraction)

    def pinned(self, parameters: PretrainParameters) -> PretrainParameters:
        """The parameters with the versions that their corpora stand for."""
        more = [corpus.pinned for corpus in self.corpora[1:]]
        return parameters.model_copy(update={"corpus": self.main.reference, "more_corpora": more})

    def estimate(self) -> dict[str, Any]:
        """The plan without probe steps, as a plain mapping."""
        return self.training_plan(probe=False).as_json()

    def seen_again(self) -> PretrainPlan:
        """With what its folder holds by now: while this run waited, another may have done the same training."""
        return _with_checkpoints(replace(self, earlier=_run_file(self.run_dir)), self.checkpoints_root)

    @property
    def identity(self) -> dict[str, Any]:
        """What RUN_RECORD says from the beginning, and what a run that is resumed is held against."""
        more = [corpus.identity for corpus in self.corpora[1:]]
        return {
            "corpus": self.main.reference,
            "corpus_digest": self.main.digest,
            **({"more_corpora": more} if more else {}),
            **({"checkpoints": self.checkpoints} if self.checkpoints else {}),
            "model": self.model,
            "recipe": self.recipe.model_dump(mode="json"),
            "tokenizer_generation": self.tokenizer.generation,
        }


def plan_pretrain(parameters: PretrainParameters) -> PretrainPlan:
    """Resolve the parameters; ValueError in one line for what can be refused before any work."""
    recipe = resolve_pretrain_recipe(parameters.training.profile, parameters.training.overrides)
    check_cluster()
    store = current_store()
    store.check_remote()
    corpora = planned_corpora(store, parameters)
    main, *more = corpora
    _check_places(parameters, recipe)
    if parameters.min_workers > parameters.workers:
        raise ValueError(
            f"at least {parameters.min_workers} workers and at most {parameters.workers} can't both be: lower the"
            " former, or raise the latter"
        )
    model = checked_name(parameters.training.model or f"{main.manifest['name']}-{recipe.name}"[:64], "model name")
    identity = {
        "corpus": main.digest,
        "recipe": recipe,
        "workers": parameters.workers,
        "code": code_version("tasks", "model"),
        "libraries": library_versions(("torch", "tokenizers", "numpy")),
        # a run is one model of one corpus version under one name
        "corpus_name": main.reference,
        "model": model,
        # what there is only sometimes leaves the folders of the runs without it where they are
        **({"more_corpora": [corpus.identity for corpus in more]} if more else {}),
        **({"min_workers": parameters.min_workers} if parameters.min_workers else {}),
    }
    line = tokenizer_line(store, main.manifest, recipe)
    retrain = parameters.training.retrain_tokenizer
    run_dir, tokenizer = _run_with_its_tokenizer(store, line, identity, retrain=retrain)
    plan = PretrainPlan(
        store=store,
        corpora=corpora,
        recipe=recipe,
        workers=parameters.workers,
        min_workers=parameters.min_workers,
        model=model,
        tokenizer=tokenizer,
        run_dir=run_dir,
        earlier=_run_file(run_dir),
        checkpoints="",
    )
    if recipe.decay_from and not plan.earlier:  # of a run that was begun it is in the run's own checkpoints
        read_state(recipe.decay_from)
    if not parameters.resume_from:
        return _with_checkpoints(plan, parameters.training.checkpoints)
    if retrain:
        raise ValueError("a resumed run keeps its tokenizer: leave out resume_from, or the retraining of the tokenizer")
    return _with_checkpoints(_resumed(plan, line, parameters.resume_from), parameters.training.checkpoints)


def _check_places(parameters: PretrainParameters, recipe: PretrainRecipe) -> None:
    """ValueError for places of checkpoints that can be none."""
    if parameters.training.checkpoints:
        place(parameters.training.checkpoints)
    if recipe.decay_from and "://" not in recipe.decay_from and not Path(recipe.decay_from).is_absolute():
        raise ValueError(f"decay_from {recipe.decay_from!r} is no absolute path: give one, or a URL")


def _with_checkpoints(plan: PretrainPlan, wanted: str) -> PretrainPlan:
    """The run's own folder in the wanted place; a run that was begun keeps the place that it was begun with."""
    location = f"{wanted.rstrip('/')}/{plan.run_dir.name}" if wanted else ""
    if plan.earlier and "outcome" not in plan.earlier:
        begun = plan.earlier.get("checkpoints", "")
        if location and location != begun:
            where = begun.rpartition("/")[0] or "its own folder, the default"
            raise ValueError(f"this run was begun with its checkpoints in {where}, not in {wanted}: leave them there")
        location = begun
    return replace(plan, checkpoints=location)


def _run_with_its_tokenizer(
    store: Store, line: TokenizerLine, identity: Mapping[str, Any], *, retrain: bool
) -> tuple[Path, TokenizerChoice]:
    """Where the run is, and what it is packed with: the latest tokenizer, or, for a run that was begun before that one
    was made and is not finished, its own."""

    def run_dir(choice: TokenizerChoice) -> Path:
        return store.runs / fingerprint({**identity, "tokenizer_generation": choice.generation})[:20]

    latest = line.choose(identity["corpus"], retrain=retrain)
    if not retrain and not _run_file(run_dir(latest)):
        for generation in reversed(range(1, latest.generation)):
            earlier = run_dir(TokenizerChoice(generation))
            if (record := _run_file(earlier)) and "outcome" not in record:
                return earlier, line.chosen(generation)
    return run_dir(latest), latest


def check_pretrain(parameters: PretrainParameters) -> PretrainPlan:
    """`plan_pretrain`, and whether an approval that is asked for can be given, and the training fits this machine."""
    if parameters.consent.approval and not parameters.dry_run:
        check_approvable()
    plan = plan_pretrain(parameters)
    if plan.can_be_judged and "outcome" not in plan.earlier:
        plan.training_plan(probe=False)
    return plan


def _run_file(run_dir: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads((run_dir / RUN_RECORD).read_bytes())
    except FileNotFoundError:  # a first run
        return {}
    return known


def _resumed(plan: PretrainPlan, line: TokenizerLine, run_id: str) -> PretrainPlan:
    """The plan in the folder of the MLflow run `run_id`, whatever the code was then. ValueError where it can't be."""
    run = find_earlier_run(plan.store, run_id)
    who = f"run {run_id} ({run.name})"
    before = _run_file(run.run_dir)
    if not before:
        raise ValueError(f"{who} left nothing in {run.run_dir} to go on with: leave resume_from empty for a new run")
    if "outcome" in before:
        raise ValueError(f"{who} is finished: it made {before['outcome']['model']}; leave resume_from empty")
    tokenizer = line.chosen(before.get("tokenizer_generation", plan.tokenizer.generation))
    resumed = replace(plan, tokenizer=tokenizer, run_dir=run.run_dir, earlier=before)
    if plan.store.is_locked(resumed.lock):
        raise ValueError(f"{who} is being trained now: wait for it, or cancel it first")
    differences = [
        f"{key} ({before.get(key)} before, {plan.identity.get(key)} now)"
        for key in ("corpus", "corpus_digest", "more_corpora", "model")
        if before.get(key) != plan.identity.get(key)
    ]
    if differences := differences + resume_differences(before["recipe"], plan.recipe):
        raise ValueError(f"{who} was begun with other parameters: {', '.join(differences)}; give those, or start anew")
    return resumed


def new_tokens(plan: PretrainPlan) -> tuple[int, str]:
    """Estimated tokens of the main corpus beyond those that this model's latest version was trained on, and that
    version."""
    versions = [known for known in model_references(plan.store) if known.name == plan.model]
    latest = max(versions, key=lambda known: int(known.version), default=None)
    trained_on = int(latest.tags.get(TOKENS_TAG, 0)) if latest else 0
    return plan.main.estimated_tokens - trained_on, f"{plan.model}@{latest.version}" if latest else ""


def too_few_new_tokens(plan: PretrainPlan, min_new_tokens: int) -> str:
    """Why nothing is trained, where the corpus has too few new tokens; else empty."""
    if not min_new_tokens:
        return ""
    new, since = new_tokens(plan)
    if new >= min_new_tokens:
        return ""
    return (
        f"{plan.main.reference} has {max(new, 0):,} new tokens (estimated) since {since or 'the beginning'}; training"
        f" starts at {min_new_tokens:,}"
    )


def dry_run_pretrain(plan: PretrainPlan, parameters: PretrainParameters) -> dict[str, Any]:
    """What the run would do and take, as a plain mapping. Writes nothing."""
    checkpoint = latest_checkpoint(plan.checkpoints_location)
    why_not = too_few_new_tokens(plan, parameters.consent.min_new_tokens)
    if "outcome" in plan.earlier:
        why_not = f"already trained: {plan.earlier['outcome']['model']}"
    return {
        "dry_run": True,
        "corpus": plan.main.reference,
        "corpus_digest": plan.main.digest,
        **({"held_out_copies": plan.held_out_copies()} if plan.corpora[1:] else {}),
        **({"checkpoints": plan.checkpoints} if plan.checkpoints else {}),
        "model_name": plan.model,
        "would_train": not why_not,
        "why_not": why_not,
        "asks_for_approval": parameters.consent.approval,
        "resumes_mlflow_run": plan.earlier.get("mlflow_run_id", ""),
        "tokenizer_generation": plan.tokenizer.generation,
        "would_train_tokenizer": not plan.tokenizer.is_made,
        "resumes_from_step": checkpoint_step(checkpoint) if checkpoint else 0,
        "recipe": plan.recipe.model_dump(mode="json"),
        **plan.estimate(),
    }
