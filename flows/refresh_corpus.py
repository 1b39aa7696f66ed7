"""The data story: raw pages to a published corpus version, with a ledger row for every record."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.console import console
from flows.parameters import RefreshParameters
from flows.stages import link_tracking, prefect_tags, run_as_task, show_funnel
from infra.mlflow_tracker import MlflowTracker, tracked_run
from infra.ray_map import check_cluster, ray_cluster
from infra.settings import current_store
from tasks.curation import (
    Refresh,
    apply_rules,
    deduplicate,
    extract,
    identify_language,
    inventory,
    publish,
    read,
)
from tasks.recipes.curation import check_rules, resolve_curation_recipe
from tasks.sources import check_source, collect_source, ignored_files, source_name
from tasks.store import Store, checked_name


def check_refresh(parameters: RefreshParameters) -> None:
    """What can be refused before any work: ValueError in one line."""
    checked_name(parameters.name)
    check_rules(resolve_curation_recipe(parameters.recipe, parameters.overrides))
    check_source(parameters.source)
    check_cluster()


@flow(name="refresh_corpus", flow_run_name="refresh {parameters.name}", persist_result=False)
def refresh_corpus(parameters: RefreshParameters) -> dict[str, Any]:
    """Read, extract, screen, deduplicate and publish.

    Returns corpus, path, digest, records_in, documents_kept, removed (by stage and reason), changed.
    """
    check_refresh(parameters)
    store = current_store()
    progress = console.progress
    lock = f"corpus-{parameters.name}"
    with store.lock(lock):
        tags = {"tokenmill.flow": "refresh_corpus", **prefect_tags(store)}
        with tracked_run(store, f"refresh {parameters.name}", tags=tags, lock=lock) as tracker:
            link_tracking(store, tracker.experiment_id, tracker.run_id)
            recipe = resolve_curation_recipe(parameters.recipe, parameters.overrides)
            files = run_as_task("collect", collect_source, store, parameters.source, progress)
            ignored = ignored_files(parameters.source)
            if ignored:
                kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(ignored.items()))
                console.say(f"left out, of no format that is read: {kinds}")
            refresh = Refresh(store, parameters.name, source_name(parameters.source), files, recipe)
            tracker.parameters({"source": parameters.source, "recipe": recipe.model_dump(mode="json")})

            if (published := refresh.published()) is not None:
                return _finish(tracker, store, *published, changed=False)
            with ray_cluster(parameters.workers) as shard_map:
                counted = run_as_task("inventory", inventory, refresh, shard_map, progress)
                records = run_as_task("read", read, refresh, counted, shard_map, progress)
                extracted = run_as_task("extract", extract, refresh, records, shard_map, progress)
                identified = run_as_task("language", identify_language, refresh, extracted, shard_map, progress)
                good = run_as_task("quality", apply_rules, refresh, "quality", identified, shard_map, progress)
                clean = run_as_task("toxicity", apply_rules, refresh, "toxicity", good, shard_map, progress)
                clusters = run_as_task("deduplicate", deduplicate, refresh, clean, shard_map, progress)
                path, manifest = run_as_task(
                    "publish",
                    publish,
                    refresh,
                    counted,
                    {"extract": extracted, "language": identified, "quality": good, "toxicity": clean},
                    clusters,
                    shard_map,
                    progress,
                    {"ignored_files": ignored, "mlflow_run_id": tracker.run_id, **prefect_tags(store)},
                )
            if not manifest["documents_kept"]:
                console.say(f"warning: nothing was kept of {manifest['records_in']} records; the ledger says why")
            return _finish(tracker, store, path, manifest, changed=True)


def _finish(tracker: MlflowTracker, store: Store, path: Any, manifest: dict[str, Any], changed: bool) -> dict[str, Any]:
    result = {
        "corpus": f"{manifest['name']}@{manifest['version']}",
        "path": str(path),
        "digest": manifest["digest"],
        "records_in": manifest["records_in"],
        "documents_kept": manifest["documents_kept"],
        "removed": manifest["removed"],
        "changed": changed,
    }
    tracker.dataset(result["corpus"], manifest["digest"], path, context="published")
    removed = {f"removed.{stage}": sum(reasons.values()) for stage, reasons in manifest["removed"].items()}
    tracker.metrics({"records_in": manifest["records_in"], "documents_kept": manifest["documents_kept"], **removed})
    tracker.artifact(path / "manifest.json")
    tracker.tags({"tokenmill.changed": str(changed).lower()})
    tracker.describe(f"Corpus version **{result['corpus']}**" + ("" if changed else ": no change"))
    show_funnel(result)
    return result
