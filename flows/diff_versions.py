"""What changed between two corpus versions, as a page for whoever decides what to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import State, flow
from prefect.states import Completed

from flows.command_line import diff_command
from flows.console import console
from flows.parameters import DiffParameters
from flows.progress import progress
from flows.stages import flow_scope, link_tracking, one_line_failures, prefect_tags, run_as_task, show_markdown
from infra.mlflow_tracker import tracked_run
from infra.settings import current_store
from tasks.diff import VersionDiff, compare, two_versions
from tasks.diff_report import diff_markdown, report_file, write_report
from tasks.store import Store


@flow(name="diff_versions", flow_run_name="diff {parameters.after}", persist_result=False)
@one_line_failures
def diff_versions(parameters: DiffParameters) -> dict[str, Any] | State[dict[str, Any]]:
    """Compare, write the report into the store and show it.

    Returns before, after (name@version), counts (documents by kind), report (its file), mlflow_run_id.
    """
    store = current_store()
    store.check_remote()
    earlier, later = two_versions(store, parameters.before, parameters.after)
    before, after = (f"{folder.parent.name}@{folder.name}" for folder in (earlier, later))
    with flow_scope(store, retry=diff_command(store, before, after, parameters)):
        result = _diff(store, earlier, later, parameters)
    counts = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in result["counts"].items() if count)
    return Completed(message=f"{before} to {after}: {counts or 'nothing in either'}", data=result)


def _diff(store: Store, earlier: Path, later: Path, parameters: DiffParameters) -> dict[str, Any]:
    tags = {"tokenmill.flow": "diff_versions", **prefect_tags(store)}
    name = f"diff {earlier.parent.name}@{earlier.name} {later.parent.name}@{later.name}"
    with tracked_run(store, name, tags=tags) as tracker:
        link_tracking(store, tracker.experiment_id, tracker.run_id)
        tracker.parameters(parameters.model_dump(mode="json"))
        diff: VersionDiff = run_as_task(
            "diff", compare, earlier, later, samples=parameters.samples, tokens=store.tokens, progress=progress
        )
        report = write_report(diff, report_file(store.root, diff))
        for facts, folder, context in ((diff.before, earlier, "before"), (diff.after, later, "after")):
            tracker.dataset(facts.reference, facts.digest, folder, context=context)
        tokens = {"tokens_added": diff.estimated_tokens_added, "tokens_removed": diff.estimated_tokens_removed}
        tracker.metrics(diff.counts() | tokens)
        tracker.artifact(report)
        tracker.json(diff.as_json(), "diff.json")
        text = diff_markdown(diff)
        tracker.describe(text)
        show_markdown("diff", text, f"{diff.before.reference} to {diff.after.reference}")
        console.say(f"report: {report}")
        return {
            "before": diff.before.reference,
            "after": diff.after.reference,
            "counts": diff.counts(),
            "report": str(report),
            "mlflow_run_id": tracker.run_id,
        }
