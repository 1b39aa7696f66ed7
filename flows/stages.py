"""Where a plain function becomes a Prefect task, a flow run's life is marked, and Prefect's and MLflow's pages meet."""

from __future__ import annotations

import functools
import inspect
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, cast

from prefect import State, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.exceptions import CancelledRun, TerminationSignal
from prefect.states import Cancelled, Completed, Failed

from flows.cancellation import cancelled_from_the_page
from flows.failure import show_failure
from flows.progress import progress
from flows.user_error import user_line
from infra.run_links import run_page
from infra.settings import prefect_ui
from tasks.funnel import funnel_rows
from tasks.stages import StageOutput
from tasks.store import LIFE_LOCK, Store
from tasks.transient import is_transient

P = ParamSpec("P")
R = TypeVar("R")

RETRY_DELAYS_S = [10.0, 20.0]  # doubled each time; readers have waited on 429 and 503 by themselves before
_STAGE: ContextVar[str] = ContextVar("the stage that the flow is in", default="")


def _passes_on_a_second_try(task_: object, task_run: object, state: State[Any]) -> bool:
    return isinstance(state.data, BaseException) and is_transient(state.data)


def _summary(result: object, seconds: float) -> str:
    if not isinstance(result, StageOutput):
        return f"{seconds:.1f} s"
    report = result.report
    how = "reused, nothing recomputed" if result.reused else f"{seconds:.1f} s"
    counts = f"{report.records_in} in, {report.kept} kept, {report.edits} edits " if report.records_in else ""
    return f"{counts}({how})"


def run_as_task(name: str, function: Callable[..., R], *arguments: Any, **options: Any) -> R:
    """Call `function` as one Prefect task called `name`. The manifest is the only cache: Prefect keeps no results.

    A stage that was reused ends as Completed, named Cached. What can pass on a second try (`tasks.transient`) is tried
    twice more; all else fails at once. The arguments stay in this process: Prefect would otherwise walk through and
    show configurations and paths.
    """
    results: list[R] = []

    def stage() -> State[Any]:
        started = time.monotonic()
        result = function(*arguments, **options)
        summary = _summary(result, time.monotonic() - started)
        logger = get_run_logger()
        logger.info(f"{name}: {summary}")
        if isinstance(result, StageOutput) and result.report.removed:
            logger.info(f"{name} removed: {json.dumps(result.report.removed)}")
        results.append(result)
        reused = isinstance(result, StageOutput) and result.reused
        return Completed(name="Cached", message=summary) if reused else Completed(message=summary)

    _STAGE.set(name)
    task(
        name=name,
        task_run_name=name,
        persist_result=False,
        cache_policy=NO_CACHE,
        retries=len(RETRY_DELAYS_S),
        retry_delay_seconds=RETRY_DELAYS_S,
        retry_condition_fn=_passes_on_a_second_try,
    )(stage)()
    return results[-1]


def one_line_failures(function: Callable[P, R | State[R]]) -> Callable[P, R]:
    """Below `@flow`: what the user can mend ends the run as Failed with that one line as its message.

    The caller gets the error all the same, and the run's log its traceback.
    """

    @functools.wraps(function)
    def run(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            return cast(R, function(*arguments, **options))  # Prefect gives the caller of the flow a state's data
        except (KeyboardInterrupt, TerminationSignal, CancelledRun):  # Prefect would call it a crash
            return cast(R, Cancelled(message="stopped: start it again to go on from what is finished"))
        except Exception as error:
            line = user_line(error)
            if line is None:
                raise
            get_run_logger().error(line, exc_info=True)
            return cast(R, Failed(message=line, data=error))

    # Prefect makes the form from these, and would look up the names of types in this module
    run.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
    run.__annotations__ = inspect.get_annotations(function, eval_str=True)
    return run


@contextmanager
def flow_scope(store: Store, *, retry: str = "") -> Iterator[None]:
    """Around the work of a flow, once: its life is marked by a lock, its progress and its failure are shown.

    While a run's lock is held the run is alive: `reconcile` ends those whose lock is free. `retry` is the command that
    goes on after a failure.
    """
    with store.lock(f"{LIFE_LOCK}{flow_run_id()}"), progress.shown_in_flow_run(), cancelled_from_the_page():
        token = _STAGE.set("")
        try:
            yield
        except CancelledRun:  # a part of this run was stopped
            raise
        except Exception as error:
            show_failure(error, _STAGE.get(), retry)
            raise
        finally:
            _STAGE.reset(token)


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
    address = run_page(store, experiment_id, run_id)
    create_link_artifact(
        link=address, link_text="MLflow run", key="mlflow-run", description="Parameters, metrics, data"
    )
    return address


def show_funnel(result: Mapping[str, Any]) -> None:
    """The funnel as a table artifact of the flow run."""
    rows = [{"stage": "input", "reason": "", "records": result["records_in"]}]
    rows += [
        {"stage": stage, "reason": reason, "records": -count} for stage, reason, count in funnel_rows(result["removed"])
    ]
    rows.append({"stage": "published", "reason": "", "records": result["documents_kept"]})
    show_table("funnel", rows, f"Records of {result['corpus']}")


def show_table(key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """A table artifact of the flow run."""
    create_table_artifact(table=[dict(row) for row in rows], key=key, description=description)


def estimated(estimate: Mapping[str, Any], of_what: str) -> State[dict[str, Any]]:
    """How a dry run ends: its estimate as an artifact, by parts where it has some, and as the flow's result."""
    rows = []
    for key, value in estimate.items():
        parts = value if isinstance(value, Mapping) else {"": value}
        rows += [{"what": f"{key} {part}".strip(), "value": str(each)} for part, each in parts.items()]
    show_table("estimate", rows, f"Estimate of {of_what}")
    return Completed(message="dry run: nothing was done", data=dict(estimate))


def show_markdown(key: str, markdown: str, description: str) -> None:
    """A text artifact of the flow run."""
    create_markdown_artifact(markdown=markdown, key=key, description=description)
