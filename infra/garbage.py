"""`tokenmill gc`: removes what tasks/garbage.py lets go, never beside a run that could be using it.

Versions and training runs are removed under their own locks. Stage outputs, token shards and sources belong to no one
run: they go only while no flow is at work on this store, and under the locks of all its corpora.

A folder is renamed first, so that a kill half-way leaves something that `reconcile` removes, and never a version or a
checkpoint that looks complete and is not. MLflow's artifacts, copies in a remote store, and checkpoints outside of the
store are not touched; where a run has some of the latter, the report says where.
"""

from __future__ import annotations

import shutil
import uuid
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from infra.classifier_registry import BUNDLE_TAG
from infra.registered_versions import registered_versions
from infra.registry import ModelReference, model_references
from infra.tracking_client import client
from tasks.atomic import TEMPORARY_PREFIX
from tasks.garbage import Decision, Plan, Policy, Reference, freed_bytes, plan_garbage, size_bytes
from tasks.store import LIFE_LOCK, InUseError, Store
from tasks.trained_corpora import trained_corpora


def collect_garbage(
    store: Store, *, dry_run: bool, keep_versions: int = 3, min_age_days: float = 7.0
) -> dict[str, Any]:
    """Remove what nobody needs any more. Returns removed and kept (each with path, bytes, why), freed_bytes, dry_run.

    A dry run decides the same and changes nothing. What a run has in use is kept, and said to be. ValueError where
    another `gc` is at work.
    """
    policy = Policy(keep_versions, min_age_days * 86400.0)
    if dry_run:
        return _report(_with_locks_seen(store, _planned(store, policy)), dry_run=True)
    with store.lock("gc"), ExitStack() as held:
        busy = _take_locks(store, held, _planned(store, policy))
        plan = _planned(store, policy)  # again: what was published or trained until then counts
        plan = Plan([_kept_where_busy(decision, busy) for decision in plan.decisions])
        report = _report(plan, dry_run=False)
        for decision in plan.removed:
            doomed = decision.path.with_name(f"{TEMPORARY_PREFIX}gc-{decision.path.name}-{uuid.uuid4().hex[:8]}")
            decision.path.rename(doomed)
            shutil.rmtree(doomed)
        return report


def _planned(store: Store, policy: Policy) -> Plan:
    references = [_reference(model) for model in model_references(store)]
    return plan_garbage(store, references, policy, classifiers=_classifiers(store))


def _classifiers(store: Store) -> dict[str, str]:
    """The registered classifiers: hash of the bundle to name@version."""
    versions = registered_versions(client(store), "classifier")
    return {version.tags[BUNDLE_TAG]: f"{version.name}@{version.version}" for version in versions}


def _reference(model: ModelReference) -> Reference:
    tags = model.tags
    return Reference(
        name=f"model {model.name}@{model.version}",
        corpora=trained_corpora(tags),
        checkpoint=tags.get("checkpoint", ""),
        run_dir=Path(tags["run_dir"]) if "run_dir" in tags else None,
    )


_IDLE = ""
"""In place of a lock's name: that no flow is at work."""


def _take_locks(store: Store, held: ExitStack, plan: Plan) -> dict[str, str]:
    """Hold the lock of all that is to go; why not, for each name that somebody else holds."""
    busy: dict[str, str] = {}
    corpora = {f"corpus-{folder.name}" for folder in store.corpora.iterdir()} if store.corpora.is_dir() else set()
    for name in sorted(corpora | {decision.lock for decision in plan.removed if decision.lock}):
        try:
            held.enter_context(store.lock(name))
        except InUseError as error:
            busy[name] = str(error)
    if why := _flow_at_work(store):
        busy[_IDLE] = why
    return busy


def _with_locks_seen(store: Store, plan: Plan) -> Plan:
    names = {decision.lock for decision in plan.removed if decision.lock}
    busy = {name: f"{name!r} is held by a run" for name in names if store.is_locked(name)}
    if why := _flow_at_work(store):
        busy[_IDLE] = why
    return Plan([_kept_where_busy(decision, busy) for decision in plan.decisions])


def _flow_at_work(store: Store) -> str:
    for file in sorted((store.root / "locks").glob(f"{LIFE_LOCK}*.lock")):
        if store.is_locked(file.stem):
            return f"the flow run {file.stem.removeprefix(LIFE_LOCK)} is at work and may be using it"
    return ""


def _kept_where_busy(decision: Decision, busy: dict[str, str]) -> Decision:
    needed = [decision.lock] if decision.lock else []
    why = next((busy[name] for name in [*needed, *([_IDLE] if decision.only_idle else [])] if name in busy), None)
    if decision.keep or why is None:
        return decision
    return replace(decision, keep=True, why=f"would go ({decision.why}), but {why}")


def _report(plan: Plan, *, dry_run: bool) -> dict[str, Any]:
    def row(decision: Decision) -> dict[str, Any]:
        return {"path": str(decision.path), "bytes": size_bytes(decision.path), "why": decision.why}

    return {
        "removed": [row(decision) for decision in plan.removed],
        "kept": [row(decision) for decision in plan.kept],
        "freed_bytes": freed_bytes(decision.path for decision in plan.removed),
        "dry_run": dry_run,
    }
