"""Where a plain function becomes a Prefect task, and where Prefect's and MLflow's pages are linked."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext

from infra.settings import mlflow_ui, prefect_ui
from tasks.stages import StageOutput
from tasks.store import Store

R = TypeVar("R")


def run_as_task(name: str, function: Callable[..., R], *arguments: Any, **options: Any) -> R:
    """Call `function` as one Prefect task called `name`. The manifest is the only cache: Prefect keeps no results.

    The arguments stay in this process: Prefect would otherwise walk through and show configurations and paths.
    """

    def stage() -> R:
        started = time.monotonic()
        result = function(*arguments, **options)
        seconds = time.monotonic() - started
        logger = get_run_logger()
        if isinstance(result, StageOutput):
            report = result.report
            how = "reused, nothing recomputed" if result.reused else f"{seconds:.1f} s"
            counts = f"{report.records_in} in, {report.kept} kept, {report.edits} edits " if report.records_in else ""
            logger.info(f"{name}: {counts}({how})")
            if report.removed:
                logger.info(f"{name} removed: {json.dumps(report.removed)}")
        else:
            logger.info(f"{name}: {seconds:.1f} s")
        return result

    return task(name=name, task_run_name=name, persist_result=False, cache_policy=NO_CACHE)(stage)()


def flow_run_id() -> str:
    """Id of the flow run that this code runs in; empty outside one."""
    context = FlowRunContext.get()
    return str(context.flow_run.id) if context and context.flow_run else ""


def prefect_tags(store: Store) -> dict[str, str]:
    """MLflow tags that lead back to the flow run."""
    run_id = flow_run_id()
    if not run_id:
        return {}
    return {
        "prefect.flow_run_id": run_id,
        "prefect.flow_run_url": f"{prefect_ui(store)}/runs/flow-run/{run_id}",
    }


def link_tracking(store: Store, experiment_id: str, run_id: str) -> str:
    """A link artifact from the flow run to its MLflow run; the address."""
    address = f"{mlflow_ui(store)}/#/experiments/{experiment_id}/runs/{run_id}"
    create_link_artifact(
        link=address, link_text="MLflow run", key="mlflow-run", description="Parameters, metrics, data"
    )
    return address


def markdown_cell(text: str) -> str:
    """Text that came from outside, safe inside a Markdown table: no mark-up, link, image or control character in it."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return re.sub(r"[^\w\s.,;:?'\"-]", lambda match: f"&#{ord(match[0])};", " ".join(printable.split()))


def show_funnel(result: Mapping[str, Any]) -> None:
    """The funnel as a table artifact of the flow run."""
    rows = [{"stage": "input", "reason": "", "records": result["records_in"]}]
    for stage, reasons in result["removed"].items():
        rows += [{"stage": stage, "reason": reason, "records": -count} for reason, count in sorted(reasons.items())]
    rows.append({"stage": "published", "reason": "", "records": result["documents_kept"]})
    create_table_artifact(table=rows, key="funnel", description=f"Records of {result['corpus']}")


def show_markdown(key: str, markdown: str, description: str) -> None:
    """A text artifact of the flow run."""
    create_markdown_artifact(markdown=markdown, key=key, description=description)
