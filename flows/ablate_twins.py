"""The models of an ablation: each is trained as pretraining does it, and none is registered."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.ablate_plan import AblatePlan, Letter
from flows.console import console
from flows.progress import progress
from flows.stages import run_as_task
from flows.training_slot import turn_of
from infra.earlier_run import RUN_DIR_TAG
from infra.follow import MetricRow
from infra.mlflow_tracker import MlflowTracker, tracked_run
from infra.ray_train import RESULT_FILE, run_training
from infra.run_links import run_page
from tasks.ablation.report import TwinFacts
from tasks.ablation.scoring import TrainedTwin
from tasks.atomic import write_json
from tasks.manifest import code_version, fingerprint, library_versions
from tasks.metrics_file import METRICS_FILE
from tasks.mixture import MixtureSource
from tasks.pack import TokenShards
from tasks.recipes.pretraining import PretrainRecipe
from tasks.store import RUN_RECORD, Store
from tasks.tokenizer import TOKENIZER_FILE
from tasks.training import TrainingDivergedError, TrainJob


@dataclass(frozen=True, kw_only=True)
class AblatedCorpus:
    """What a recipe made of the pages, ready to be trained on."""

    letter: Letter
    reference: str  # name@version
    folder: Path
    digest: str
    tokens: Path


@dataclass(frozen=True)
class Twin:
    """One model, before or after it is trained."""

    corpus: AblatedCorpus
    recipe: PretrainRecipe
    run_dir: Path

    @property
    def name(self) -> str:
        return f"{self.corpus.letter} seed {self.recipe.seed}"

    @property
    def trained(self) -> TrainedTwin:
        """For scoring, once it is."""
        return TrainedTwin(run=self.run_dir.name, checkpoint=str(self.record["outcome"]["checkpoint"]))

    @property
    def record(self) -> dict[str, Any]:
        """What is known of its run; nothing before it has begun."""
        try:
            known: dict[str, Any] = json.loads((self.run_dir / RUN_RECORD).read_bytes())
        except FileNotFoundError:
            return {}
        return known


def plan_twins(plan: AblatePlan, corpora: Mapping[Letter, AblatedCorpus]) -> list[Twin]:
    """Every model with its folder: the same shards, recipe and code find the same one, in whatever ablation."""
    made_by = {
        "code": code_version("tasks.training", "model"),
        "libraries": library_versions(("torch", "tokenizers", "numpy")),
    }
    twins = []
    for letter, recipe in plan.twins():
        corpus = corpora[letter]
        identity = {"tokens": TokenShards(corpus.tokens).digest, "recipe": recipe, "ablation": True, **made_by}
        twins.append(Twin(corpus, recipe, plan.store.runs / fingerprint(identity)[:20]))
    return twins


def train_twins(store: Store, twins: Sequence[Twin]) -> list[TwinFacts]:
    """Train those that are not trained yet; one whose training diverges is told of as failed, and the others go on.

    Call inside a Ray cluster, with the training slot.
    """
    facts = []
    for place, twin in enumerate(twins):
        facts.append(run_as_task(f"train {twin.name}", _train, store, twin))
        progress("twins", place + 1, len(twins), note=facts[-1].failure and f"{twin.name} failed")
    return facts


def _train(store: Store, twin: Twin) -> TwinFacts:
    with turn_of(store, f"run-{twin.run_dir.name}"):
        if outcome := twin.record.get("outcome"):
            console.say(f"{twin.name}: trained before")
            return _facts(store, twin, outcome)
        try:
            return _facts(store, twin, _trained(store, twin))
        except TrainingDivergedError as error:
            console.say(f"{twin.name} failed: {error}")
            begun = twin.record
            page = run_page(store, begun["mlflow_experiment_id"], begun["mlflow_run_id"])
            return TwinFacts(letter=twin.corpus.letter, seed=twin.recipe.seed, page=page, failure=str(error))


def _facts(store: Store, twin: Twin, outcome: Mapping[str, Any]) -> TwinFacts:
    record = twin.record
    return TwinFacts(
        letter=twin.corpus.letter,
        seed=twin.recipe.seed,
        tokens=outcome["tokens"],
        seconds=outcome["seconds"],
        num_parameters=outcome["num_parameters"],
        checkpoint=outcome["checkpoint"],
        page=run_page(store, record["mlflow_experiment_id"], record["mlflow_run_id"]),
    )


def _trained(store: Store, twin: Twin) -> dict[str, Any]:
    """The run in MLflow, from its link to its end."""
    twin.run_dir.mkdir(parents=True, exist_ok=True)
    corpus, earlier = twin.corpus, twin.record
    tags = {"tokenmill.flow": "pretrain", RUN_DIR_TAG: str(twin.run_dir)}
    resume, lock = earlier.get("mlflow_run_id", ""), f"run-{twin.run_dir.name}"
    with tracked_run(store, f"twin {twin.name}", tags=tags, resume=resume, lock=lock) as tracker:
        record = {
            "corpus": corpus.reference,
            "corpus_digest": corpus.digest,
            "tokens": str(corpus.tokens),
            "recipe": twin.recipe.model_dump(mode="json"),
            "mlflow_run_id": tracker.run_id,
            "mlflow_experiment_id": tracker.experiment_id,
            "seconds": earlier.get("seconds", 0.0),
        }
        write_json(twin.run_dir / RUN_RECORD, record)
        tracker.parameters({"recipe": record["recipe"], "of_recipe": corpus.letter})
        tracker.dataset(corpus.reference, corpus.digest, corpus.folder, context="training")
        job = TrainJob(
            corpora=(MixtureSource(corpus=corpus.reference, tokens_dir=corpus.tokens),),
            corpus_dir=corpus.folder,
            tokenizer_file=corpus.tokens / TOKENIZER_FILE,
            run_dir=twin.run_dir,
            recipe=twin.recipe,
            resume=True,
        )
        started_s = time.monotonic()
        try:
            result = run_training(job, num_workers=1, on_rows=_shown(twin, tracker))
        finally:
            record["seconds"] += time.monotonic() - started_s
            write_json(twin.run_dir / RUN_RECORD, record)
            for name in (METRICS_FILE, RESULT_FILE):
                if (twin.run_dir / name).is_file():
                    tracker.artifact(twin.run_dir / name)
        outcome = {
            "model": result["checkpoint"],  # it has no name in the registry
            **{name: result[name] for name in ("checkpoint", "tokens", "loss", "num_parameters")},
            "seconds": round(record["seconds"], 1),
        }
        tracker.describe(f"Recipe **{corpus.letter}** ({corpus.reference}), seed {twin.recipe.seed}, of an ablation.")
    write_json(twin.run_dir / RUN_RECORD, record | {"outcome": outcome})
    return outcome


def _shown(twin: Twin, tracker: MlflowTracker) -> Any:
    recorded = tracker.points("loss")

    def on_rows(rows: list[MetricRow], num_steps: int) -> None:
        new = [row for row in rows if (row["step"], row["loss"]) not in recorded]
        tracker.metric_rows(
            [
                (row["step"], {name: value for name, value in row.items() if isinstance(value, int | float)})
                for row in new
            ]
        )
        if rows[-1]["loss"] is not None:
            note = f"{twin.name}, loss {rows[-1]['loss']:.3f}, {rows[-1]['tokens_per_s']:,.0f} tokens/s"
            progress("train", rows[-1]["step"], num_steps, note=note)

    return on_rows
