"""Tasks, failures and the life of a flow run, as Prefect's server records them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import Artifact, FlowRun, TaskRun
from prefect.testing.utilities import prefect_test_harness

from flows import stages
from flows.progress import progress
from flows.stages import flow_run_id, flow_scope, one_line_failures, run_as_task
from flows.training_slot import WAITING_STATE, turn_of
from tasks.document import ShardReport
from tasks.ports import ShardError, WorkerLostError
from tasks.stages import StageOutput
from tasks.store import InUseError, Store


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def recorded(run_id: str) -> tuple[FlowRun, dict[str, TaskRun], dict[str, Artifact]]:
    """The flow run, its tasks by name and its artifacts by key, as the server has them."""
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(run_id)  # type: ignore[arg-type]
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id])))
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]))
        artifacts = client.read_artifacts(artifact_filter=wanted)
    return flow_run, {run.name: run for run in tasks}, {str(each.key): each for each in artifacts}


def output(*, reused: bool) -> StageOutput:
    return replace(
        StageOutput("extract", Path("/nowhere"), "0" * 64, {}, False, ShardReport(10, 7, {"extract/empty": 3}, 2)),
        reused=reused,
    )


def test_a_reused_stage_is_cached_and_a_computed_one_is_not() -> None:
    seen: dict[str, Any] = {}

    @flow(name="two stages")
    def work() -> None:
        seen["run"] = flow_run_id()
        seen["first"] = run_as_task("computed", output, reused=False)
        seen["second"] = run_as_task("reused", output, reused=True)
        seen["third"] = run_as_task("plain", lambda: 3)

    work()
    assert seen["first"].reused is False and seen["second"].reused is True and seen["third"] == 3
    _, tasks, _ = recorded(seen["run"])
    states = {name: (run.state.type.value, run.state.name) for name, run in tasks.items() if run.state}
    assert states == {
        "computed": ("COMPLETED", "Completed"),
        "reused": ("COMPLETED", "Cached"),
        "plain": ("COMPLETED", "Completed"),
    }
    assert tasks["reused"].state and "nothing recomputed" in str(tasks["reused"].state.message)


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (WorkerLostError("extract", 3, "the worker died"), 3),
        (ShardError("extract", 3, "KeyError: 'text'"), 1),
        (ConnectionResetError("reset by peer"), 3),
        (ValueError("no such file"), 1),
        (MemoryError(), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_only_what_can_pass_is_tried_again(error: Exception, attempts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "RETRY_DELAYS_S", [0.01, 0.02])
    calls = []

    def fails() -> None:
        calls.append(1)
        raise error

    @flow(name="failing stage")
    def work() -> None:
        run_as_task("fails", fails)

    with pytest.raises(type(error)):
        work()
    assert len(calls) == attempts


def test_a_stage_that_passes_on_its_second_try_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "RETRY_DELAYS_S", [0.01, 0.02])
    calls = []

    def once() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise WorkerLostError("read", 0, "the worker died")
        return "done"

    @flow(name="lucky stage")
    def work() -> str:
        return run_as_task("once", once)

    assert work() == "done" and len(calls) == 2


def test_what_a_user_can_mend_is_the_message_of_the_failed_run_and_reaches_the_caller() -> None:
    seen = []

    @flow(name="refused")
    @one_line_failures
    def refused(corpus: str) -> None:
        seen.append(flow_run_id())
        raise ValueError(f"there is no corpus\n{corpus!r}")

    @flow(name="refused parent")
    @one_line_failures
    def parent() -> None:
        seen.append(flow_run_id())
        refused("web")

    with pytest.raises(ValueError, match="there is no corpus"):
        parent()
    for run_id in seen:
        run, _, artifacts = recorded(run_id)
        assert run.state is not None and run.state.type.value == "FAILED"
        assert run.state.message == "there is no corpus 'web'"
        assert artifacts == {}


def test_a_fault_of_ours_keeps_its_name() -> None:
    seen = []

    @flow(name="faulty")
    @one_line_failures
    def faulty() -> None:
        seen.append(flow_run_id())
        raise KeyError("text")

    with pytest.raises(KeyError):
        faulty()
    run, _, _ = recorded(seen[0])
    assert run.state is not None and "KeyError" in str(run.state.message)


def test_parameters_keep_their_form_and_their_types_below_the_decorator() -> None:
    from flows.evaluate import evaluate
    from flows.pipeline import pipeline
    from flows.pretrain import pretrain
    from flows.refresh_corpus import refresh_corpus

    for each in (refresh_corpus, pretrain, evaluate, pipeline):
        assert list(each.parameters.properties) == ["parameters"] and each.parameters.definitions
        validated = each.validate_parameters({"parameters": {}})["parameters"]
        assert type(validated).__module__ == "flows.parameters"
        assert each.description and each.description.startswith(str(each.fn.__doc__).splitlines()[0])


def test_a_failure_says_where_why_and_how_to_go_on(store: Store) -> None:
    seen = []

    def breaks() -> None:
        try:
            raise ValueError("<script>alert(1)</script> in\n![x](https://evil.example/x.png)")
        except ValueError as error:
            raise ShardError("extract", 12, "ValueError") from error

    @flow(name="breaking")
    @one_line_failures
    def breaking() -> None:
        seen.append(flow_run_id())
        with flow_scope(store, retry="tokenmill refresh --name web --source 'a b'"):
            run_as_task("extract", breaks)

    with pytest.raises(ShardError):
        breaking()
    run, _, artifacts = recorded(seen[0])
    text = str(artifacts["failure"].data)
    assert "stage **extract**, shard 12" in text
    assert "    tokenmill refresh --name web --source 'a b'" in text.splitlines()
    assert "<script>" not in "".join(line for line in text.splitlines() if not line.startswith("    "))
    assert "![" not in "".join(line for line in text.splitlines() if not line.startswith("    "))
    assert "Retry" not in text  # this run has no deployment, so its page no such button
    assert run.state is not None and str(run.state.message).endswith("(stage 'extract', shard 12)")


def test_a_living_run_holds_its_lock_and_shows_its_progress(store: Store) -> None:
    seen = []

    @flow(name="alive")
    def alive() -> None:
        seen.append(flow_run_id())
        with flow_scope(store, retry="tokenmill doctor"):
            with pytest.raises(InUseError), store.lock(f"flow-{seen[0]}"):
                pass
            for done in range(4):
                progress("extract", done, 3, records=100 * done)

    alive()
    with store.lock(f"flow-{seen[0]}"):
        pass
    _, _, artifacts = recorded(seen[0])
    assert json.loads(str(artifacts["progress-extract"].data)) == 100.0
    assert str(artifacts["progress-extract"].description).startswith("3 of 3 shards")


def test_the_same_training_waits_for_its_turn_and_says_so(store: Store) -> None:
    seen: dict[str, Any] = {}
    turn = ExitStack()
    turn.enter_context(store.lock("run-abc"))  # another flow has begun it

    def state() -> Any:
        return recorded(seen["run"])[0].state

    def let_go_once_it_is_seen_waiting() -> None:
        while "run" not in seen or state().name != WAITING_STATE:
            time.sleep(0.2)
        seen["waiting"] = state().message
        turn.close()

    @flow(name="train")
    def train() -> str:
        seen["run"] = flow_run_id()
        with turn_of(store, "run-abc"):
            return "my turn"

    watcher = threading.Thread(target=let_go_once_it_is_seen_waiting)
    watcher.start()
    assert train() == "my turn"
    watcher.join()
    assert "another run does the same training" in seen["waiting"]
