"""What a pretraining would be: resolved and checked, and nothing done yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.approvals import check_approvable
from flows.parameters import PretrainParameters
from infra.earlier_run import find_earlier_run
from infra.ray_map import check_cluster
from infra.registry import model_references
from infra.settings import current_store
from tasks.checkpoints import checkpoint_step, latest_checkpoint
from tasks.manifest import MANIFEST, code_version, fingerprint, library_versions
from tasks.plan import CorpusFacts, TrainingPlan, training_plan
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
    corpus: Path
    manifest: Mapping[str, Any]
    recipe: PretrainRecipe
    workers: int
    model: str  # name in the registry
    tokenizer: TokenizerChoice
    run_dir: Path
    earlier: Mapping[str, Any]  # RUN_RECORD of a run that was begun in this folder before; empty for a new one

    @property
    def reference(self) -> str:
        return f"{self.manifest['name']}@{self.manifest['version']}"

    @property
    def name(self) -> str:
        return f"pretrain {self.reference} {self.recipe.name}"

    @property
    def lock(self) -> str:
        return f"run-{self.run_dir.name}"

    @property
    def estimated_tokens(self) -> int:
        """Of the corpus. ValueError for a version of an earlier program, which did not say."""
        if "estimated_tokens" not in self.manifest:
            raise ValueError(
                f"corpus {self.reference} does not say how many tokens it has, which a dry run, an approval and a least"
                " number of new tokens need: refresh it"
            )
        return int(self.manifest["estimated_tokens"])

    def training_plan(self, *, probe: bool, price_per_device_hour: float | None = None) -> TrainingPlan:
        """What the run takes (`tasks.plan`); ValueError where it does not fit. Without `probe` nothing is run."""
        shards = self.store.tokens.glob(f"{self.manifest['digest'][:16]}-*")
        facts = CorpusFacts(
            reference=self.reference,
            estimated_tokens=self.estimated_tokens,
            documents=self.manifest["documents_kept"],
            token_shards=tuple(sorted(folder.name for folder in shards if (folder / MANIFEST).is_file())),
        )
        return training_plan(
            self.recipe,
            facts,
            folder=self.run_dir,
            workers=self.workers,
            price_per_device_hour=price_per_device_hour,
            probe=probe,
        )

    def estimate(self) -> dict[str, Any]:
        """The plan without probe steps, as a plain mapping."""
        return self.training_plan(probe=False).as_json()

    def seen_again(self) -> PretrainPlan:
        """With what its folder holds by now: while this run waited, another may have done the same training."""
        return replace(self, earlier=_run_file(self.run_dir))

    @property
    def identity(self) -> dict[str, Any]:
        """What RUN_RECORD says from the beginning, and what a run that is resumed is held against."""
        return {
            "corpus": self.reference,
            "corpus_digest": self.manifest["digest"],
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
    corpus = store.version_folder(parameters.corpus)
    manifest = store.corpus_manifest(parameters.corpus)
    reference = f"{manifest['name']}@{manifest['version']}"
    if manifest["documents_kept"] < 2:
        raise ValueError(
            f"corpus {reference} holds {manifest['documents_kept']} documents; it takes one to train on and one to hold"
            " out: name another version, or refresh with other rules"
        )
    model = checked_name(parameters.training.model or f"{manifest['name']}-{recipe.name}"[:64], "model name")
    identity = {
        "corpus": manifest["digest"],
        "recipe": recipe,
        "workers": parameters.workers,
        "code": code_version("tasks", "model"),
        "libraries": library_versions(("torch", "tokenizers", "numpy")),
        # a run is one model of one corpus version under one name
        "corpus_name": reference,
        "model": model,
    }
    line = tokenizer_line(store, manifest, recipe)
    retrain = parameters.training.retrain_tokenizer
    run_dir, tokenizer = _run_with_its_tokenizer(store, line, identity, retrain=retrain)
    plan = PretrainPlan(
        store, corpus, manifest, recipe, parameters.workers, model, tokenizer, run_dir, _run_file(run_dir)
    )
    if not parameters.resume_from:
        return plan
    if retrain:
        raise ValueError("a resumed run keeps its tokenizer: leave out resume_from, or the retraining of the tokenizer")
    return _resumed(plan, line, parameters.resume_from)


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
    """`plan_pretrain`, and whether an approval that is asked for can be given."""
    if parameters.consent.approval and not parameters.dry_run:
        check_approvable()
    return plan_pretrain(parameters)


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
        f"{key} ({before[key]} before, {plan.identity[key]} now)"
        for key in ("corpus", "corpus_digest", "model")
        if before[key] != plan.identity[key]
    ]
    if differences := differences + resume_differences(before["recipe"], plan.recipe):
        raise ValueError(f"{who} was begun with other parameters: {', '.join(differences)}; give those, or start anew")
    return resumed


def new_tokens(plan: PretrainPlan) -> tuple[int, str]:
    """Estimated tokens of the corpus beyond those that this model's latest version was trained on, and that version."""
    versions = [known for known in model_references(plan.store) if known.name == plan.model]
    latest = max(versions, key=lambda known: int(known.version), default=None)
    trained_on = int(latest.tags.get(TOKENS_TAG, 0)) if latest else 0
    return plan.estimated_tokens - trained_on, f"{plan.model}@{latest.version}" if latest else ""


def too_few_new_tokens(plan: PretrainPlan, min_new_tokens: int) -> str:
    """Why nothing is trained, where the corpus has too few new tokens; else empty."""
    if not min_new_tokens:
        return ""
    new, since = new_tokens(plan)
    if new >= min_new_tokens:
        return ""
    return (
        f"{plan.reference} has {max(new, 0):,} new tokens (estimated) since {since or 'the beginning'}; training starts"
        f" at {min_new_tokens:,}"
    )


def dry_run_pretrain(plan: PretrainPlan, parameters: PretrainParameters) -> dict[str, Any]:
    """What the run would do and take, as a plain mapping. Writes nothing."""
    checkpoint = latest_checkpoint(plan.run_dir / CHECKPOINTS)
    why_not = too_few_new_tokens(plan, parameters.consent.min_new_tokens)
    if "outcome" in plan.earlier:
        why_not = f"already trained: {plan.earlier['outcome']['model']}"
    return {
        "dry_run": True,
        "corpus": plan.reference,
        "corpus_digest": plan.manifest["digest"],
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
