"""A pretraining is cancelled on Prefect's page in the middle of its steps, and gone on with by its MLflow run."""

from __future__ import annotations

import json
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from tests.data.prose import write_warc
from tests.integration.running import alive, started, succeeded, tokenmill, wait_until

READY_TIMEOUT_S, START_TIMEOUT_S, RUN_TIMEOUT_S = 180.0, 120.0, 300.0
ALL_ENDED_S = 10.0
NUM_STEPS, STEP_TOKENS = 400, 1024
SETTINGS = [
    f"total_tokens={NUM_STEPS * STEP_TOKENS}",
    "checkpoint_every_steps=300",
    "evaluate_every_steps=50",
    "evaluate_max_documents=4",
]


@dataclass
class Served:
    """A `tokenmill up` and its two servers."""

    store: Path
    prefect: str
    mlflow: MlflowClient

    def request(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self.prefect}/api{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read() or b"null")

    def pretrain(self, **parameters: Any) -> str:
        """Trigger the deployment as its form does; the flow run's id."""
        deployment = self.request("GET", "/deployments/name/pretrain/pretrain")["id"]
        training = {"profile": "smoke", "settings": SETTINGS}
        values = {"parameters": {"corpus": "web", "training": training} | parameters}
        run = self.request("POST", f"/deployments/{deployment}/create_flow_run", {"parameters": values})
        return str(run["id"])

    def state(self, run: str) -> dict[str, Any]:
        state: dict[str, Any] = self.request("GET", f"/flow_runs/{run}")["state"]
        return state

    def ended(self, run: str) -> dict[str, Any]:
        """The state in which the run ended."""
        final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
        wait_until(lambda: self.state(run)["type"] in final, RUN_TIMEOUT_S, "the run does not end")
        return self.state(run)

    def busy_slots(self) -> int:
        return int(self.request("GET", "/v2/concurrency_limits/training")["active_slots"])

    def rays(self) -> list[str]:
        """Command lines of this store's Ray processes."""
        return [line for line in alive(self.store).values() if "ray::" in line or "/ray/" in line]

    def steps(self) -> int:
        file = next(self.store.glob("runs/*/metrics.jsonl"), None)
        return file.read_bytes().count(b"\n") if file else 0

    def tracked(self, run: str) -> Any:
        """The MLflow run of a flow run; None before there is one."""
        experiment = self.mlflow.get_experiment_by_name("tokenmill")
        query = f"tags.`prefect.flow_run_id` = '{run}'"
        found = self.mlflow.search_runs([experiment.experiment_id], query) if experiment else []
        return found[0] if found else None


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    store = folder / "store"
    source = write_warc(folder / "pages.warc.gz", 200)
    succeeded(tokenmill("refresh", "--source", str(source), "--name", "web", "--json", store=store, cwd=folder))
    with started("up", "--prefect-port", free_port(), "--mlflow-port", free_port(), store=store, cwd=folder) as process:
        up = store / "up.json"
        wait_until(lambda: up.is_file() or process.poll() is not None, READY_TIMEOUT_S, "`tokenmill up` is not ready")
        addresses = json.loads(up.read_bytes())
        yield Served(store, addresses["prefect"], MlflowClient(addresses["mlflow"]))
        process.terminate()
        process.communicate(timeout=60)


def free_port() -> str:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.verify
@pytest.mark.timeout(900)
def test_cancelled_in_the_middle_and_gone_on_with(served: Served) -> None:
    run = served.pretrain()
    wait_until(lambda: served.steps() >= 60, START_TIMEOUT_S, "step 60 was not reached", poll_s=0.05)
    assert served.state(run)["name"] == "Training" and served.busy_slots() == 1
    served.request("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    told = time.monotonic()
    wait_until(lambda: not served.rays(), 60, "a Ray process is left")
    assert time.monotonic() - told < ALL_ENDED_S

    ended = served.ended(run)
    assert (ended["type"], ended["name"]) == ("CANCELLED", "Cancelled")
    assert served.busy_slots() == 0
    (run_dir,) = served.store.glob("runs/*")
    (checkpoint,) = (run_dir / "checkpoints").glob("step-*")
    stopped_at = int(checkpoint.name.removeprefix("step-"))
    assert 60 <= stopped_at < NUM_STEPS and stopped_at == served.steps()
    tracked = served.tracked(run)
    assert tracked.info.status == "KILLED"
    history = served.mlflow.get_metric_history(tracked.info.run_id, "loss")
    assert [entry.step for entry in history] == list(range(1, stopped_at + 1))

    other = served.pretrain(resume_from=tracked.info.run_id, training={"profile": "smoke", "settings": []})
    refused = served.ended(other)
    assert refused["type"] == "FAILED" and "was begun with other parameters" in refused["message"]
    assert "total_tokens" in refused["message"] and served.tracked(other) is None
    unknown = served.ended(served.pretrain(resume_from="0" * 32))
    assert unknown["type"] == "FAILED" and "MLflow has no run 000000" in unknown["message"]

    again = served.pretrain(resume_from=tracked.info.run_id)
    assert served.ended(again)["type"] == "COMPLETED"
    finished = served.tracked(again)
    assert finished.info.run_id == tracked.info.run_id and finished.info.status == "FINISHED"
    for metric in ("loss", "tokens"):
        steps = Counter(entry.step for entry in served.mlflow.get_metric_history(tracked.info.run_id, metric))
        assert steps == Counter(range(1, NUM_STEPS + 1)), metric
    late = served.ended(served.pretrain(resume_from=tracked.info.run_id))
    assert late["type"] == "FAILED" and "is finished: it made web-smoke@1" in late["message"]


@pytest.mark.verify
@pytest.mark.timeout(900)
def test_too_few_new_tokens_train_nothing(served: Served) -> None:
    """After a model of this name was trained on the same version."""
    ended_runs = len(served.request("POST", "/flow_runs/filter", {}))
    assert ended_runs >= 1
    run = served.pretrain(
        consent={"min_new_tokens": 1_000}, training={"profile": "smoke", "settings": [*SETTINGS, "seed=1"]}
    )
    state = served.ended(run)
    assert (state["type"], state["name"]) == ("COMPLETED", "NotEnoughNewTokens")
    assert "web@1 has 0 new tokens (estimated) since web-smoke@1; training starts at 1,000" in state["message"]
    assert served.tracked(run) is None


@pytest.mark.verify
@pytest.mark.timeout(900)
def test_a_refused_approval_is_no_crash_and_costs_nothing(served: Served) -> None:
    run = served.pretrain(consent={"approval": True}, training={"profile": "smoke", "settings": [*SETTINGS, "seed=2"]})
    wait_until(lambda: served.state(run)["type"] == "PAUSED", START_TIMEOUT_S, "nobody is asked")
    served.request("POST", f"/flow_runs/{run}/resume", {"run_input": {"approve": False, "note": "not now"}})
    state = served.ended(run)
    assert (state["type"], state["name"]) == ("CANCELLED", "NotApproved")
    assert state["message"].endswith("refused: not now") and served.tracked(run) is None
