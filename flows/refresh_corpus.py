"""The data story: raw pages to a published corpus version, with a ledger row for every record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import State, flow
from prefect.states import Completed

from flows.command_line import refresh_command
from flows.console import console
from flows.events import corpus_published
from flows.parameters import RefreshParameters
from flows.pinned_models import pinned_parameters, resolved_recipe
from flows.progress import progress
from flows.stages import (
    estimated,
    flow_scope,
    link_tracking,
    one_line_failures,
    prefect_tags,
    run_as_task,
    show_funnel,
    show_markdown,
)
from infra.mlflow_tracker import MlflowTracker, tracked_run
from infra.ray_map import check_cluster, ray_cluster
from infra.recipe_models import models_tag
from infra.settings import current_store
from tasks.corpus_card import corpus_card, kept_samples, ledger_summary, removed_samples, samples_markdown
from tasks.curation import (
    Screened,
    apply_rules,
    extract,
    guard,
    identify_language,
    inventory,
    merge,
    publish,
    read,
)
from tasks.diff import compare
from tasks.diff_report import diff_markdown
from tasks.estimate import estimate_refresh
from tasks.keep_best import SHARE_STAGE, keep_best
from tasks.model_files import models_in
from tasks.ports import ShardMap
from tasks.recipes.curation import CurationRecipe
from tasks.refresh import Refresh
from tasks.refresh_stages import DECONTAMINATE
from tasks.store import Store, checked_name
from tasks.used_models import used_models
from tasks.version_facts import corpus_sizes
from tasks.wipe_out import WipeOut, WipeOutError
from tasks.wipe_out_report import wipe_out_samples, wipe_outs_markdown


def sources(parameters: RefreshParameters) -> tuple[str, ...]:
    """Everything that is read, as it was named."""
    return (parameters.input.source, *parameters.input.more_sources)


def check_refresh(parameters: RefreshParameters) -> CurationRecipe:
    """What can be refused before any work, as ValueError in one line; the resolved recipe, its models pinned."""
    checked_name(parameters.name)
    store = current_store()
    recipe = resolved_recipe(store, parameters.curation)
    store.check_remote()
    check_cluster()
    _plan(parameters, recipe, write=False)
    return recipe


def _plan(parameters: RefreshParameters, recipe: CurationRecipe, **options: Any) -> Refresh:
    chosen = parameters.input
    return Refresh.plan(
        current_store(),
        parameters.name,
        sources(parameters),
        recipe,
        profile=chosen.profile,
        replace=chosen.replace,
        **options,
    )


def dry_run_refresh(parameters: RefreshParameters, recipe: CurationRecipe) -> dict[str, Any]:
    """What a refresh would read and reuse, and how long it would take; nothing is written."""
    chosen = parameters.input
    estimate = estimate_refresh(
        current_store(),
        parameters.name,
        sources(parameters),
        recipe,
        profile=chosen.profile,
        replace=chosen.replace,
        workers=parameters.execution.workers or 1,
    )
    return estimate | {"models": list(used_models(recipe))}


@flow(name="refresh_corpus", flow_run_name="refresh {parameters.name}", persist_result=False)
@one_line_failures
def refresh_corpus(parameters: RefreshParameters) -> dict[str, Any] | State[dict[str, Any]]:
    """Read what is new, extract, screen, deduplicate and publish.

    Returns corpus, path, digest, records_in, documents_kept, removed (by stage and reason), changed, new_files,
    known_files, waiting_files, estimated_tokens, new_estimated_tokens, models (those that decide, with their hashes),
    mlflow_run_id; a dry run its estimate.
    """
    recipe = check_refresh(parameters)
    store = current_store()
    if parameters.execution.dry_run:
        return estimated(dry_run_refresh(parameters, recipe), f"a refresh of {parameters.name}")
    parameters = pinned_parameters(parameters, recipe)
    with (
        store.lock(f"corpus-{parameters.name}"),
        flow_scope(store, retry=refresh_command(store, parameters)),
        models_in(store.models),
    ):
        result = _refresh(store, recipe, parameters)
        corpus_published(store, result)
    if not result["changed"]:
        return Completed(message=f"no change: {result['corpus']}", data=result)
    return Completed(message=f"{result['corpus']}: {result['documents_kept']:,} documents", data=result)


def _refresh(store: Store, recipe: CurationRecipe, parameters: RefreshParameters) -> dict[str, Any]:
    lock = f"corpus-{parameters.name}"
    tags = {"tokenmill.flow": "refresh_corpus", **models_tag(recipe), **prefect_tags(store)}
    with tracked_run(store, f"refresh {parameters.name}", tags=tags, lock=lock) as tracker:
        link_tracking(store, tracker.experiment_id, tracker.run_id)
        configuration = {
            "parameters": parameters.model_dump(mode="json"),
            "recipe": recipe.model_dump(mode="json"),
        }
        tracker.parameters({"sources": sources(parameters), "recipe": configuration["recipe"]})
        tracker.json(configuration, "config.json")
        refresh = run_as_task("collect", _plan, parameters, recipe, progress=progress)
        if refresh.ignored_files:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(refresh.ignored_files.items()))
            console.say(f"left out, of no format that is read: {kinds}")

        if (published := refresh.published()) is not None:
            path, manifest = published
            result = _result(refresh, tracker, path, manifest, changed=False)
            tracker.rename(f"{result['corpus']} (no change)")
            _record(tracker, result, path, manifest, corpus_card(path, manifest))
            return result

        console.say(f"{refresh.name}@{refresh.version}: {refresh.mode_reason}")
        with ray_cluster(parameters.execution.workers or None) as shard_map:
            screened = _screen(refresh, shard_map)
            wipe_outs = run_as_task("guard", guard, refresh, screened, shard_map, progress)
            if wipe_outs:
                _show_wipe_outs(
                    tracker, refresh.recipe, screened, wipe_outs, allowed=parameters.curation.allow_wipe_out
                )
                if not parameters.curation.allow_wipe_out:
                    raise WipeOutError(wipe_outs)
            merged = run_as_task("deduplicate", merge, refresh, screened, shard_map, progress)
            facts = {"mlflow_run_id": tracker.run_id, **prefect_tags(store)}
            path, manifest = run_as_task(
                "publish", publish, refresh, screened, merged, shard_map, progress, facts, wipe_outs
            )
        result = _result(refresh, tracker, path, manifest, changed=True)
        tracker.rename(result["corpus"])
        if not manifest["documents_kept"]:
            console.say(f"warning: nothing was kept of {manifest['records_in']} records; the ledger says why")
        card = run_as_task("card", _card_and_samples, store, refresh.recipe, path, manifest)
        _record(tracker, result, path, manifest, card)
        if refresh.last is not None:
            before = store.corpus(f"{refresh.name}@{refresh.last['version']}")
            run_as_task("changes", _record_changes, tracker, before, path, store.tokens)
        return result


def _screen(refresh: Refresh, shard_map: ShardMap) -> Screened:
    """What is new, stage by stage; nothing where only rules of later stages have changed."""
    if not refresh.inputs_to_read:
        return Screened(0, {})
    counted = run_as_task("inventory", inventory, refresh, shard_map, progress)
    records = run_as_task("read", read, refresh, counted, shard_map, progress)
    extracted = run_as_task("extract", extract, refresh, records, shard_map, progress)
    identified = run_as_task("language", identify_language, refresh, extracted, shard_map, progress)
    good = run_as_task("quality", apply_rules, refresh, "quality", identified, shard_map, progress)
    clean = run_as_task("toxicity", apply_rules, refresh, "toxicity", good, shard_map, progress)
    outputs = {"extract": extracted, "language": identified, "quality": good, "toxicity": clean}
    if refresh.recipe.decontamination.is_on:
        clean = run_as_task(DECONTAMINATE, apply_rules, refresh, DECONTAMINATE, clean, shard_map, progress)
        outputs[DECONTAMINATE] = clean
    if refresh.recipe.share_rule is not None:
        outputs[SHARE_STAGE] = run_as_task(SHARE_STAGE, keep_best, refresh, clean, shard_map, progress)
    return Screened(counted.report.records_in, outputs)


def _show_wipe_outs(
    tracker: MlflowTracker,
    recipe: CurationRecipe,
    screened: Screened,
    wipe_outs: Sequence[WipeOut],
    *,
    allowed: bool,
) -> None:
    """On the console, as an artifact of the flow run, and as one of the MLflow run."""
    text = wipe_outs_markdown(wipe_out_samples(screened.outputs, wipe_outs, recipe.hide), allowed=allowed)
    show_markdown("wipe-outs", text, "Groups of which a stage removed nearly all")
    tracker.text(text, "wipe_outs.md")
    tracker.tags({"tokenmill.wipe_outs": str(len(wipe_outs))})
    for each in wipe_outs:
        console.say(f"{'allowed' if allowed else 'wiped out'}: {each}")


def _record_changes(tracker: MlflowTracker, before: Path, path: Path, tokens: Path) -> None:
    """What the version has, and has no more, that the one before had not, and had."""
    changes = compare(before, path, tokens=tokens)
    text = diff_markdown(changes)
    show_markdown("changes", text, f"From version {before.name} to {path.name}")
    tracker.text(text, "changes.md")
    tracker.metrics({f"changes.{kind}": count for kind, count in changes.counts().items()})


def _card_and_samples(store: Store, recipe: CurationRecipe, path: Path, manifest: Mapping[str, Any]) -> str:
    samples = samples_markdown(kept_samples(path), removed_samples(path, manifest, store.work, recipe.hide))
    show_markdown("samples", samples, "What was kept, and what each rule removed")
    return f"{corpus_card(path, manifest)}\n\n## Samples\n\n{samples}"


def _result(
    refresh: Refresh, tracker: MlflowTracker, path: Path, manifest: Mapping[str, Any], *, changed: bool
) -> dict[str, Any]:
    taken_over = ("digest", "records_in", "documents_kept", "removed", "estimated_tokens")
    return {
        "corpus": f"{manifest['name']}@{manifest['version']}",
        "path": str(path),
        **{name: manifest[name] for name in taken_over},
        "new_estimated_tokens": manifest["new_estimated_tokens"] if changed else 0,
        "changed": changed,
        "new_files": len(refresh.new_inputs) if changed else 0,
        "known_files": len(refresh.inputs) - len(refresh.new_inputs) if changed else len(refresh.inputs),
        "waiting_files": refresh.waiting_files,
        "models": list(used_models(refresh.recipe)),
        "mlflow_run_id": tracker.run_id,
    }


def _record(
    tracker: MlflowTracker, result: Mapping[str, Any], path: Path, manifest: Mapping[str, Any], card: str
) -> None:
    """Everything about the version that both pages show at the end of a run."""
    tracker.dataset(result["corpus"], manifest["digest"], path, context="published", profile=corpus_sizes(manifest))
    removed = {f"removed.{stage}": sum(reasons.values()) for stage, reasons in manifest["removed"].items()}
    counts = ("records_in", "documents_kept", "estimated_tokens", "new_files", "waiting_files")
    moved = {name: manifest[name] for name in ("superseded", "revived", "taken_down", "parts_linked", "parts_written")}
    tracker.metrics({**{name: result[name] for name in counts}, **moved, **removed})
    tracker.artifact(path / "manifest.json")
    tracker.text(card, "corpus_card.md")
    tracker.json(ledger_summary(path), "ledger_summary.json")
    tracker.json({name: manifest[name] for name in ("records_in", "removed", "documents_kept")}, "funnel.json")
    tracker.tags({"tokenmill.changed": str(result["changed"]).lower()})
    tracker.describe(f"Corpus version **{result['corpus']}**" + ("" if result["changed"] else ": no change"))
    show_funnel(result)
    show_markdown("corpus-card", card, f"Corpus {result['corpus']}")
