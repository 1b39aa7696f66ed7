"""A corpus version to a registered model version."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import State, flow
from prefect.states import Cancelled, Completed

from flows.approvals import NOT_APPROVED, NotApproved, ask
from flows.command_line import pretrain_command, resume_skipping_command
from flows.console import console, spike_line
from flows.failure import DivergedError
from flows.parameters import PretrainParameters
from flows.pretrain_corpora import copies_warning
from flows.pretrain_plan import (
    TOKENS_TAG,
    PretrainPlan,
    check_pretrain,
    dry_run_pretrain,
    new_tokens,
    too_few_new_tokens,
)
from flows.progress import progress
from flows.stages import (
    estimated,
    flow_scope,
    link_tracking,
    one_line_failures,
    prefect_tags,
    run_as_task,
    show_markdown,
)
from flows.training_slot import training_slot, turn_of
from infra.earlier_run import RUN_DIR_TAG
from infra.follow import MetricRow
from infra.mlflow_tracker import MlflowTracker, tracked_run
from infra.model_card import LEFT_OUT_TAG, SPIKES_TAG
from infra.ray_elastic import WORKERS_FILE
from infra.ray_map import ray_cluster
from infra.ray_train import RESULT_FILE, run_training
from infra.registry import register_model
from infra.tensorboard import TENSORBOARD_FOLDER, TensorBoardLog
from tasks.atomic import write_json
from tasks.loss_curve import loss_curve_picture
from tasks.markdown import markdown_quotes
from tasks.metrics_file import METRICS_FILE, ROLLED_BACK_FILE, drawn_tokens
from tasks.pack import MANIFEST, SPLITS, TokenShards
from tasks.plan_table import plan_markdown
from tasks.ports import ShardMap
from tasks.samples import SAMPLES_FILE, read_samples, samples_csv
from tasks.spike_file import SPIKES_FILE, read_spikes, spikes_csv, spikes_markdown, worst_document
from tasks.store import RUN_RECORD
from tasks.tokenization import TokenizedCorpus, tokenize
from tasks.tokenizer import TOKENIZER_FILE, tokenizer_hash
from tasks.trained_corpora import mixture_tags, trained_corpora
from tasks.training import TrainingDivergedError, TrainJob
from tasks.version_facts import corpus_sizes

_SHOWN_CURVE_DPI = 60  # 540 x 360 pixels, about 30 kB, which travel in the artifact itself


@flow(name="pretrain", flow_run_name="pretrain {parameters.corpus} {parameters.training.profile}", persist_result=False)
@one_line_failures
def pretrain(parameters: PretrainParameters) -> dict[str, Any] | State[dict[str, Any]]:
    """Train tokenizer and network on a corpus version, evaluate, and register the model as `candidate`.

    The same corpus, recipe and code find the same run folder: a killed run goes on from its last checkpoint, a complete
    one is returned. Returns trained, changed, model, mlflow_run_id, checkpoint, steps, tokens, loss, bits_per_byte, and
    where the curve lies; trained is False, and model the latest version, where the corpus has too few new tokens.
    """
    plan = check_pretrain(parameters)
    if parameters.dry_run:
        return estimated(dry_run_pretrain(plan, parameters), plan.name)
    with flow_scope(plan.store, retry=pretrain_command(plan.store, plan.pinned(parameters))):
        if why_not := too_few_new_tokens(plan, parameters.consent.min_new_tokens):
            console.say(why_not)
            latest = new_tokens(plan)[1]
            nothing = {"trained": False, "changed": False, "model": latest, "mlflow_run_id": "", "why_not": why_not}
            return Completed(name="NotEnoughNewTokens", message=why_not, data=nothing)
        if parameters.consent.approval and "outcome" not in plan.earlier:
            try:
                ask(f"Train {plan.model} on {plan.reference}?", _what_it_takes(plan))
            except NotApproved as refusal:
                return Cancelled(name=NOT_APPROVED, message=str(refusal))
        with turn_of(plan.store, plan.lock):
            return _tracked(plan.seen_again(), parameters)


def _what_it_takes(plan: PretrainPlan) -> str:
    table = plan_markdown(plan.training_plan(probe=False))
    warning = copies_warning(plan.held_out_copies())
    return f"{table}\n\n**{warning[0].upper()}{warning[1:]}.**" if warning else table


def _show_plan(plan: PretrainPlan, tracker: MlflowTracker) -> None:
    """What the training takes, before it starts."""
    if not plan.can_be_judged:
        return
    what = plan.training_plan(probe=False)
    show_markdown("plan", plan_markdown(what), "What the training is expected to take")
    tracker.json(what.as_json(), "plan.json")


def _tracked(plan: PretrainPlan, parameters: PretrainParameters) -> dict[str, Any]:
    """The run in MLflow, from its link to its end."""
    plan.run_dir.mkdir(parents=True, exist_ok=True)
    tags = {"tokenmill.flow": "pretrain", RUN_DIR_TAG: str(plan.run_dir), **prefect_tags(plan.store)}
    earlier_id = plan.earlier.get("mlflow_run_id", "")
    with tracked_run(plan.store, plan.name, tags=tags, resume=earlier_id, lock=plan.lock) as tracker:
        link_tracking(plan.store, tracker.experiment_id, tracker.run_id)
        if outcome := plan.earlier.get("outcome"):
            console.say(f"{plan.reference} was already trained with this recipe: {outcome['model']}; nothing to do")
            return {**outcome, "mlflow_run_id": tracker.run_id, "trained": True, "changed": False}
        known = {**plan.earlier, **plan.identity, "mlflow_run_id": tracker.run_id}
        write_json(plan.run_dir / RUN_RECORD, known)
        facts: dict[str, Any] = {"recipe": plan.identity["recipe"], "workers": plan.workers}
        if plan.min_workers:
            facts["min_workers"] = plan.min_workers
        if plan.corpora[1:]:
            shares = {corpus.manifest["name"]: corpus.share for corpus in plan.corpora}
            facts["mixture"] = {name: share.model_dump(exclude={"corpus"}) for name, share in shares.items()}
        tracker.parameters(facts)
        configuration = {
            "parameters": parameters.model_dump(mode="json"),
            "recipe": plan.recipe.model_dump(mode="json"),
        }
        tracker.json(configuration, "config.json")
        for corpus in plan.corpora:
            tracker.dataset(
                corpus.reference,
                corpus.digest,
                corpus.folder,
                context="training",
                profile=corpus_sizes(corpus.manifest),
                is_main=corpus is plan.main,
            )
            if not corpus.folder.is_dir():  # it is in the store's remote
                run_as_task("fetch", plan.store.fetch, corpus.folder)
        _show_plan(plan, tracker)
        warning = _warning(plan, tracker)
        with training_slot(), ray_cluster() as shard_map:
            tokens = _earlier_tokens(plan)
            if tokens is None:
                made = run_as_task("tokenize", _tokenize, plan, shard_map)
                tokens = [each.folder for each in made]
                tracker.parameters({"tokenizer": made[0].tokenizer.facts})
                tracker.metrics(
                    {
                        "token_buckets_linked": sum(each.num_linked for each in made),
                        "token_buckets_packed": sum(each.num_packed for each in made),
                    }
                )
                main, *more = map(str, tokens)
                known |= {"tokens": main, "tokenizer": made[0].tokenizer.facts}
                known |= {"more_tokens": more} if more else {}
                write_json(plan.run_dir / RUN_RECORD, known)
            job = TrainJob(
                corpora=tuple(
                    corpus.facts(plan.store).source(folder) for corpus, folder in zip(plan.corpora, tokens, strict=True)
                ),
                corpus_dir=plan.main.folder,
                tokenizer_file=tokens[0] / TOKENIZER_FILE,
                run_dir=plan.run_dir,
                recipe=plan.recipe,
                checkpoints=plan.checkpoints,
                resume=True,
            )
            skipping = resume_skipping_command(plan.store, plan.pinned(parameters), tracker.run_id)
            result = run_as_task("train", _train, job, plan.num_workers, tracker, skipping)
        outcome = run_as_task("register", _register, plan, tracker, job, result, known.get("tokenizer", {}), warning)
        write_json(plan.run_dir / RUN_RECORD, known | {"outcome": outcome})
        return {**outcome, "mlflow_run_id": tracker.run_id, "trained": True, "changed": True}


def _warning(plan: PretrainPlan, tracker: MlflowTracker) -> str:
    """Of held-out text that another corpus of the mixture trains on; in the history and on the terminal as well."""
    copies = plan.held_out_copies()
    for reference, number in copies.items():
        tracker.metrics({f"held_out_copies/{reference}": number})
    if warning := copies_warning(copies):
        console.say(warning)
        tracker.tags({"tokenmill.warning": warning})
    return warning


def _earlier_tokens(plan: PretrainPlan) -> list[Path] | None:
    """What the run was begun with, corpus by corpus: other code may make the same shards under another name."""
    recorded = [Path(corpus.tokens) for corpus in trained_corpora(plan.earlier) if corpus.tokens]
    is_there = len(recorded) == len(plan.corpora) and all((folder / MANIFEST).is_file() for folder in recorded)
    return recorded if is_there else None


def _tokenize(plan: PretrainPlan, shard_map: ShardMap) -> list[TokenizedCorpus]:
    """The main corpus, then the others with its tokenizer."""
    made = [tokenize(plan.store, plan.main.folder, plan.recipe, shard_map, progress, choice=plan.tokenizer)]
    tokenizer = made[0].tokenizer
    for corpus in plan.corpora[1:]:
        made.append(tokenize(plan.store, corpus.folder, plan.recipe, shard_map, progress, tokenizer=tokenizer))
    return made


def _train(
    job: TrainJob, num_workers: int | tuple[int, int], tracker: MlflowTracker, skipping_command: str
) -> dict[str, Any]:
    """`skipping_command` goes on with the run after a divergence, which it leaves out."""
    recorded = tracker.points("loss")  # not the last step alone: a run may go on another way than it went
    num_spikes, num_said = 0, len(read_spikes(job.run_dir / SPIKES_FILE))

    def show_spikes() -> None:
        nonlocal num_spikes, num_said
        spikes = read_spikes(job.run_dir / SPIKES_FILE)  # not from the rows: a rollback takes those back
        if len(spikes) > num_spikes:
            num_spikes = len(spikes)
            tracker.text(spikes_csv(spikes), "spikes.csv")
        log.spikes(spikes)
        for spike in spikes[num_said:]:
            console.say(spike_line(spike))
        num_said = max(num_said, len(spikes))

    def on_rows(rows: list[MetricRow], num_steps: int) -> None:
        new = [row for row in rows if (row["step"], row["loss"]) not in recorded]
        tracker.metric_rows([(row["step"], _figures(row)) for row in new])
        log.rows(rows)
        if any("held_out_loss" in row for row in new):
            samples = read_samples(job.run_dir / SAMPLES_FILE)
            tracker.text(samples_csv(samples), "samples.csv")
            log.samples(samples)
        show_spikes()
        last = rows[-1]
        if last["loss"] is not None:
            note = f"loss {last['loss']:.3f}, {last['tokens_per_s']:,.0f} tokens/s"
            progress("train", last["step"], num_steps, note=note)

    with TensorBoardLog(job.run_dir / TENSORBOARD_FOLDER) as log:
        try:
            result = run_training(job, num_workers=num_workers, on_rows=on_rows)
        except TrainingDivergedError as error:
            _show_spikes(job)
            line = f"{error}. The documents are in {job.run_dir / SPIKES_FILE}"
            raise DivergedError(line, "" if job.recipe.spikes.policy == "skip" else skipping_command) from error
        finally:  # what it did is of interest above all where it failed
            show_spikes()
            for name in (METRICS_FILE, ROLLED_BACK_FILE, SPIKES_FILE, WORKERS_FILE):
                if (job.run_dir / name).is_file():
                    tracker.artifact(job.run_dir / name)
    _show_spikes(job)
    return result


def _show_spikes(job: TrainJob) -> None:
    if spikes := read_spikes(job.run_dir / SPIKES_FILE):
        show_markdown("spikes", spikes_markdown(spikes), f"{len(spikes)} loss spikes and their documents")


def _where_spikes_are(spikes_file: Path) -> dict[str, str]:
    return {"spikes_file": str(spikes_file), "worst_document": worst_document(read_spikes(spikes_file))}


def _figures(row: MetricRow) -> dict[str, float]:
    """What MLflow draws of a step: every figure that is finite."""
    return {key: value for key, value in row.items() if key != "step" and isinstance(value, int | float)}


def _register(
    plan: PretrainPlan,
    tracker: MlflowTracker,
    job: TrainJob,
    result: dict[str, Any],
    tokenizer: Mapping[str, Any],
    warning: str,
) -> dict[str, Any]:
    curve = _show_curve(plan, job)
    for file in (curve, job.run_dir / RESULT_FILE):
        tracker.artifact(file)
    tracker.artifact(job.tokenizer_file, "tokenizer")
    drawn = drawn_tokens(job.run_dir / METRICS_FILE)
    spikes, left_out = result["spikes"], result["steps_left_out"]
    digests = ", ".join(f"`{corpus.digest[:16]}`" for corpus in plan.corpora)
    summary = (
        f"{result['num_parameters']:,} parameters trained on {result['tokens']:,} tokens of corpus"
        f" **{plan.reference}** (digest {digests}), recipe `{plan.recipe.name}`:"
        f" {result['bits_per_byte']:.4f} bits per byte on held-out text."
    )
    if spikes:
        summary += f"\n\nLoss spikes: {spikes:,}, for which {left_out:,} steps were left out."
    if warning:
        summary += f"\n\n{warning[0].upper()}{warning[1:]}."
    model = register_model(
        plan.store,
        tracker,
        name=plan.model,
        checkpoint=result["checkpoint"],
        tokenizer_file=job.tokenizer_file,
        tags=_version_tags(plan, job, result, tokenizer, drawn),
        description=summary,
        step=result["step"],
    )
    tracker.tags({"tokenmill.model": model})
    tracker.describe(f"{summary}\n\nModel version **{model}**.")
    show_markdown("model", f"**{model}**\n\n{summary}\n\n{_last_samples(job)}", f"Model {model}")
    return {
        "model": model,
        "corpus": plan.main.reference,
        "checkpoint": result["checkpoint"],
        "steps": result["step"],
        "tokens": result["tokens"],
        "steps_left_out": left_out,
        "spikes": spikes,
        **(_where_spikes_are(job.run_dir / SPIKES_FILE) if spikes else {}),
        **({"drawn_tokens": drawn} if drawn else {}),
        "loss": result["loss"],
        "bits_per_byte": result["bits_per_byte"],
        "num_parameters": result["num_parameters"],
        "tokens_in_corpus": sum(
            TokenShards(corpus.tokens_dir, split).num_tokens for corpus in job.corpora for split in SPLITS
        ),
        "loss_curve": str(curve),
    }


def _version_tags(
    plan: PretrainPlan,
    job: TrainJob,
    result: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
    drawn: Mapping[str, int],
) -> dict[str, str]:
    """What leads from the model version back to everything that it was made of (`tasks.trained_corpora`)."""
    more = [corpus.identity for corpus in plan.corpora[1:]]
    mixture = mixture_tags(more, [corpus.tokens_dir for corpus in job.corpora[1:]], drawn) if more else {}
    return {
        **{f"tokenizer_{name}": str(value) for name, value in tokenizer.items()},
        "corpus": plan.main.reference,
        "corpus_digest": plan.main.digest,
        **mixture,
        TOKENS_TAG: str(plan.main.manifest.get("estimated_tokens", 0)),
        "tokenizer_sha256": tokenizer_hash(job.tokenizer_file),
        "tokens": str(job.corpora[0].tokens_dir),
        SPIKES_TAG: str(result["spikes"]),
        LEFT_OUT_TAG: str(result["steps_left_out"]),
        "checkpoint": result["checkpoint"],
        "run_dir": str(plan.run_dir),
        **prefect_tags(plan.store),
    }


def _show_curve(plan: PretrainPlan, job: TrainJob) -> Path:
    """The loss curve as a file, and as a picture on the flow run's page, which has no other place to take it from."""
    title = f"{plan.model} on {plan.reference}"
    metrics, curve, shown = (job.run_dir / name for name in (METRICS_FILE, "loss_curve.png", "loss_curve_small.png"))
    loss_curve_picture(metrics, curve, title=title)
    loss_curve_picture(metrics, shown, title=title, dpi=_SHOWN_CURVE_DPI)
    picture = base64.b64encode(shown.read_bytes()).decode()
    # in Markdown: below an image artifact the page spells out its address, which here is the picture itself
    show_markdown("loss-curve", f"![loss curve](data:image/png;base64,{picture})", f"Loss curve of {title}")
    shown.unlink()
    return curve


def _last_samples(job: TrainJob) -> str:
    """The last samples of the run, escaped."""
    samples = read_samples(job.run_dir / SAMPLES_FILE)
    return markdown_quotes((row["prompt"], row["text"]) for row in samples if row["step"] == samples[-1]["step"])
