"""Pages out of all that was made of them: found, traced to models, taken down, and, if asked for, purged."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

from prefect import State, flow
from prefect.states import Completed
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.console import console
from flows.progress import progress
from flows.stages import (
    flow_run_id,
    flow_scope,
    link_tracking,
    one_line_failures,
    prefect_tags,
    run_as_task,
    show_markdown,
)
from infra.lineage import Lineage, tag_models, trace
from infra.mlflow_tracker import MlflowTracker, tracked_run
from infra.ray_map import check_cluster, ray_cluster
from infra.recipe_models import bring_models
from infra.settings import current_store
from infra.tracking_client import answered
from tasks.curation import make_version
from tasks.manifest import read_manifest
from tasks.purge import holds, purge_leftovers, purge_reports, purge_stage_outputs, purge_tokens, purge_versions
from tasks.refresh import Refresh
from tasks.store import LIFE_LOCK, InUseError, Store
from tasks.takedown import TakedownQuery, TakedownSearch, find_documents, newly_taken_down
from tasks.takedown_audit import intents, new_audit_id, now_utc, operator, write_audit, write_intent
from tasks.takedown_report import found_report, takedown_markdown
from tasks.tombstones import Scope, Tombstones

_LOCK = "takedown"
_NOTHING_DONE: dict[str, Any] = {"applied": False, "audit": "", "versions": [], "models_tagged": [], "purged": None}


class TakedownParameters(BaseModel):
    """Pages to be found in all that was made of them, and taken down."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    urls: list[str] = Field(default_factory=list, title="URLs", description="Pages, by their whole address.")
    domains: list[str] = Field(
        default_factory=list, title="Domains", description="Hosts such as example.org, with all hosts under them."
    )
    documents: list[str] = Field(
        default_factory=list, title="Documents", description="Ids, as the ledger and the corpus card have them."
    )
    name: str = Field(
        "",
        title="Corpus name",
        pattern=r"^$|^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="This corpus alone. Empty: all corpora.",
    )
    only: bool = Field(
        False,
        title="These alone",
        description="Leave their near-duplicates in; the same text may come again under another URL or date."
        " Off: the whole cluster goes, and its content stays out.",
    )
    reason: str = Field("", title="Reason", max_length=2000, description="Why, for the record.")
    apply: bool = Field(
        False,
        title="Take down",
        description="Publish versions without them, keep them out for good. Off: a report only, nothing is changed.",
    )
    purge: bool = Field(
        False,
        title="Purge",
        description="Remove them from old versions, token shards, stage outputs and reports too. Cannot be undone.",
    )

    @property
    def scope(self) -> Scope:
        return "document" if self.only else "cluster"

    @property
    def what(self) -> str:
        """What is named, in a few words."""
        named = [*self.domains, *self.urls, *self.documents] or ["nothing"]
        return named[0][:80] + (f" and {len(named) - 1} more" if len(named) > 1 else "")


def check_takedown(parameters: TakedownParameters) -> TakedownQuery:
    """What can be refused before any work, as ValueError in one line; what is looked for."""
    if parameters.purge and not parameters.apply:
        raise ValueError("a purge removes what was taken down: give --apply with --purge")
    try:
        query = TakedownQuery(
            urls=tuple(parameters.urls), domains=tuple(parameters.domains), documents=tuple(parameters.documents)
        )
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    store = current_store()
    store.check_remote()
    if parameters.name:
        store.version_folder(parameters.name)
    if parameters.apply:
        check_cluster()
    return query


def takedown_command(store: Store, parameters: TakedownParameters) -> str:
    """`tokenmill takedown ...` with these parameters: goes on where a run of it was stopped."""
    words = ["tokenmill", "takedown", "--store", str(store.root)]
    named = {"--url": parameters.urls, "--domain": parameters.domains, "--document": parameters.documents}
    words += [word for option, values in named.items() for value in values for word in (option, value)]
    words += [
        word for option in ("name", "reason") if (v := getattr(parameters, option)) for word in (f"--{option}", v)
    ]
    return shlex.join(
        [*words, *(f"--{option}" for option in ("only", "apply", "purge") if getattr(parameters, option))]
    )


@flow(name="takedown", flow_run_name="takedown {parameters.what}", persist_result=False)
@one_line_failures
def takedown(parameters: TakedownParameters) -> dict[str, Any] | State[dict[str, Any]]:
    """Find documents, what was made of them, and take them down.

    Without `apply` nothing is changed. Returns the report: query, scope, documents (each with its state in every
    version), held_by, tokens, tokenizers, runs, models, sources, applied, audit, versions, models_tagged, purged.
    """
    query = check_takedown(parameters)
    store = current_store()
    if not parameters.apply:
        search, lineage = _look(store, query, parameters)
        report = {**_found(search, lineage, parameters), **_NOTHING_DONE, "reason": parameters.reason}
        for audit in intents(store):
            console.say(f"the takedown {audit} was stopped before its end: the next one with --apply ends it first")
        show_markdown("takedown", takedown_markdown(report), "Takedown")
        return Completed(message=f"{report['num_targets']} documents; nothing was changed", data=report)
    with store.lock(_LOCK), flow_scope(store, retry=takedown_command(store, parameters)):
        for audit, intent in intents(store).items():
            console.say(f"ending the takedown {audit}, which was stopped")
            _carry_out(store, audit, intent)
        audit = new_audit_id()
        begun = {"parameters": parameters.model_dump(mode="json"), "who": operator(), "started": now_utc()}
        report = _carry_out(store, audit, begun)
    if not report["num_targets"]:
        return Completed(name="NothingFound", message="nothing is known of it: nothing was changed", data=report)
    return Completed(message=f"{report['num_targets']} documents; record {audit}", data=report)


def _look(store: Store, query: TakedownQuery, parameters: TakedownParameters) -> tuple[TakedownSearch, Lineage]:
    names = (parameters.name,) if parameters.name else ()
    search = run_as_task("search", find_documents, store, query, names)
    lineage = run_as_task("lineage", trace, store, search, search.targets(parameters.scope))
    return search, lineage


def _found(search: TakedownSearch, lineage: Lineage, parameters: TakedownParameters) -> dict[str, Any]:
    return found_report(search, asdict(lineage), parameters.scope)


def _carry_out(store: Store, audit: str, begun: Mapping[str, Any]) -> dict[str, Any]:
    """Take down what `begun` says, from wherever an earlier try has left off, and record it. The report."""
    parameters = TakedownParameters.model_validate(begun["parameters"])
    query = check_takedown(parameters)
    tags = {"tokenmill.flow": "takedown", "tokenmill.audit": audit, **prefect_tags(store)}
    with (
        _standing_still(store, parameters),
        tracked_run(store, f"takedown {audit}", tags=tags, lock=_LOCK) as tracker,
    ):
        link_tracking(store, tracker.experiment_id, tracker.run_id)
        tracker.parameters({"parameters": begun["parameters"]})
        search, lineage = _look(store, query, parameters)
        if not search.records and "found" not in begun:
            report = {**_found(search, lineage, parameters), **_NOTHING_DONE, "reason": parameters.reason}
            return _shown(tracker, report)
        plans = _plans(store, search, parameters, str(begun["started"]))
        for refresh in plans:
            bring_models(store, refresh.recipe)
        write_intent(store, audit, begun)
        _publish(store, plans, {"audit": audit, "mlflow_run_id": tracker.run_id})
        # what else has gone as a copy is in the ledgers of the new versions
        search, lineage = _look(store, query, parameters)
        found = begun.get("found") or _found(search, lineage, parameters)  # as it was before anything was purged
        write_intent(store, audit, {**begun, "found": found})
        containing = [model["reference"] for model in found["models"] if model["relation"] != "evaluated on"]
        answered(lambda: tag_models(store, containing, audit), "noting the takedown on models")
        purged = run_as_task("purge", _purge, store, audit, search, found) if parameters.purge else None
        report = {
            **begun,
            **found,
            "reason": parameters.reason,
            "applied": True,
            "audit": audit,
            "mlflow_run_id": tracker.run_id,
            "versions": _versions_of(search, audit),
            "models_tagged": containing,
            "purged": purged,
            "finished": now_utc(),
        }
        write_audit(store, audit, report)
        return _shown(tracker, report)


@contextmanager
def _standing_still(store: Store, parameters: TakedownParameters) -> Iterator[None]:
    """Hold what must not change meanwhile: the corpora that are looked at; for a purge the whole store.

    InUseError where somebody is at work on it.
    """
    names = [parameters.name] if parameters.name and not parameters.purge else store.names()
    with ExitStack() as held:
        for name in names:
            held.enter_context(store.lock(f"corpus-{name}"))
        if parameters.purge:
            held.enter_context(store.lock("gc"))
            own = f"{LIFE_LOCK}{flow_run_id()}"
            for file in sorted((store.root / "locks").glob(f"{LIFE_LOCK}*.lock")):
                if file.stem != own and store.is_locked(file.stem):
                    raise InUseError(
                        f"the flow run {file.stem.removeprefix(LIFE_LOCK)} is at work and may be using what is to be"
                        " purged: wait for it, or cancel it first"
                    )
        yield


def _plans(store: Store, search: TakedownSearch, parameters: TakedownParameters, date: str) -> list[Refresh]:
    """The next version of every corpus that knows, or once knew, any of it; none where nothing would change."""
    scope = parameters.scope
    rules = search.rules(scope, parameters.reason, date)
    plans = []
    for name in search.names(scope):
        latest = search.latest(name)
        newly = newly_taken_down(latest, search.to_flag(name, scope), scope)
        refresh = Refresh.takedown(store, name, rules, newly)
        if newly or refresh.tombstones != Tombstones(rules=latest.manifest.get("tombstones", ())):
            plans.append(refresh)
    return plans


def _publish(store: Store, plans: Sequence[Refresh], facts: Mapping[str, Any]) -> None:
    if not plans:  # an earlier try has published them
        return
    with ray_cluster() as shard_map:
        for refresh in plans:
            every = {**facts, **prefect_tags(store)}
            run_as_task(f"next {refresh.name}", make_version, refresh, shard_map, progress, every)


def _versions_of(search: TakedownSearch, audit: str) -> list[dict[str, Any]]:
    """The versions that this takedown has published, now or before it was stopped."""
    return [
        {"corpus": version.reference, "digest": version.manifest["digest"], "path": str(version.folder)}
        for version in search.versions
        if version.manifest.get("audit") == audit
    ]


def _purge(store: Store, audit: str, search: TakedownSearch, found: Mapping[str, Any]) -> dict[str, Any]:
    """Remove what was found from everything but the latest versions, which the takedown has made without it."""
    ids = [document["document_id"] for document in found["documents"] if document["goes"]]
    latest = [search.latest(name) for name in found["corpora"]]
    for version in latest:
        if holds(version, ids):
            raise RuntimeError(f"{version.reference} still holds what was taken down from it: nothing was purged")
    older = [version for version in search.versions if version.name in found["corpora"] and version not in latest]
    digests = {
        digest for version in search.versions if version.reference in found["held_by"] for digest in version.digests
    }
    purge_leftovers(store)
    purged = purge_versions(store, older, ids, audit)
    manifests = {version.reference: read_manifest(version.folder) or {} for version in older}
    return {
        "versions": {
            reference: next(entry for entry in manifests[reference]["purged"] if entry["audit"] == audit)
            for reference in purged
        },
        "tokens": purge_tokens(store, digests, ids),
        "stage_outputs": purge_stage_outputs(store, ids),
        "reports": purge_reports(store, ids),
    }


def _shown(tracker: MlflowTracker, report: dict[str, Any]) -> dict[str, Any]:
    """The report in MLflow's run and on Prefect's page."""
    tracker.json(report, "takedown.json")
    markdown = takedown_markdown(report)
    tracker.text(markdown, "takedown.md")
    tracker.describe(markdown)
    show_markdown("takedown", markdown, "Takedown")
    return report
