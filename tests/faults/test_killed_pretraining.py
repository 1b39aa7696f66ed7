"""A pretraining killed twice in the middle of its steps ends as the one that nothing disturbed, bit for bit."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from tests.data.prose import write_warc
from tests.integration.running import kill, started, succeeded, tokenmill, wait_until

NUM_STEPS, CHECKPOINT_STEPS, STEP_TOKENS = 160, 5, 512
SETTINGS = {
    "total_tokens": NUM_STEPS * STEP_TOKENS,
    "global_batch_tokens": STEP_TOKENS,
    "checkpoint_every_steps": CHECKPOINT_STEPS,
    "evaluate_every_steps": 20,
    "evaluate_max_documents": 4,
}
ARGUMENTS = ["pretrain", "--corpus", "web", "--recipe", "smoke", "--json"]
ARGUMENTS += [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
START_TIMEOUT_S, RUN_TIMEOUT_S = 300, 600


def metrics_file(store: Path) -> Path | None:
    return next(store.glob("runs/*/metrics.jsonl"), None)


def complete_lines(store: Path) -> list[bytes]:
    file = metrics_file(store)
    lines = file.read_bytes().splitlines(keepends=True) if file else []
    return [line for line in lines if line.endswith(b"\n")]


def curve(store: Path) -> list[tuple[int, str, str, str]]:
    """Per step: step, loss and gradient norm as the JSON spells them, and the hash of the batch."""
    rows = [json.loads(line, parse_float=str) for line in complete_lines(store)]
    return [(row["step"], row["loss"], row["grad_norm"], row["batch_hash"]) for row in rows]


def killed_after(num_steps: int, store: Path, cwd: Path, *, everything: bool) -> list[bytes]:
    """Kill the pretraining once it has done that many steps; the metrics up to its newest checkpoint."""
    with started(*ARGUMENTS, store=store, cwd=cwd) as process:
        wait_until(
            lambda: len(complete_lines(store)) >= num_steps or process.poll() is not None,
            START_TIMEOUT_S,
            f"step {num_steps} was not reached",
            poll_s=0.02,
        )
        assert process.poll() is None, "the run ended before it was killed"
        kill(process, store, everything=everything)
    newest = max(int(path.name.removeprefix("step-")) for path in store.glob("runs/*/checkpoints/step-*"))
    lines = complete_lines(store)
    assert num_steps - CHECKPOINT_STEPS <= newest <= len(lines) < NUM_STEPS
    return lines[:newest]


def pretrain_runs(client: MlflowClient) -> list[Any]:
    experiment = client.get_experiment_by_name("tokenmill")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], "tags.`tokenmill.flow` = 'pretrain'"))


@pytest.mark.verify
@pytest.mark.timeout(1200)
def test_killed_twice_it_ends_as_if_never_disturbed(tmp_path: Path) -> None:
    store, undisturbed = tmp_path / "store", tmp_path / "undisturbed"
    source = write_warc(tmp_path / "pages.warc.gz", 300)
    succeeded(tokenmill("refresh", "--source", str(source), "--name", "web", "--json", store=store, cwd=tmp_path))
    shutil.copytree(store / "corpora", undisturbed / "corpora")
    expected = succeeded(tokenmill(*ARGUMENTS, store=undisturbed, cwd=tmp_path, timeout_s=RUN_TIMEOUT_S))

    client = MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow' / 'mlflow.db'}")
    first = killed_after(NUM_STEPS // 3, store, tmp_path, everything=False)
    (begun,) = pretrain_runs(client)
    second = killed_after(2 * NUM_STEPS // 3, store, tmp_path, everything=True)
    result = succeeded(tokenmill(*ARGUMENTS, store=store, cwd=tmp_path, timeout_s=RUN_TIMEOUT_S))

    lines = complete_lines(store)
    assert lines[: len(first)] == first and lines[: len(second)] == second  # gone on with, not begun again
    assert [step for step, *_ in curve(store)] == list(range(1, NUM_STEPS + 1))
    assert curve(store) == curve(undisturbed)
    assert {key: result[key] for key in ("steps", "tokens", "loss", "bits_per_byte")} == {
        key: expected[key] for key in ("steps", "tokens", "loss", "bits_per_byte")
    }
    weights = [Path(outcome["checkpoint"], "model.safetensors").read_bytes() for outcome in (result, expected)]
    assert weights[0] == weights[1]

    (run,) = pretrain_runs(client)
    assert run.info.run_id == begun.info.run_id == result["mlflow_run_id"]
    assert run.info.status == "FINISHED"
    for metric in ("loss", "learning_rate", "grad_norm", "tokens"):
        steps = Counter(entry.step for entry in client.get_metric_history(run.info.run_id, metric))
        assert steps == Counter(range(1, NUM_STEPS + 1)), metric
    recorded = {entry.step: entry.value for entry in client.get_metric_history(run.info.run_id, "loss")}
    assert recorded == {step: float(loss) for step, loss, *_ in curve(store)}
    held_out = client.get_metric_history(run.info.run_id, "held_out_bits_per_byte")
    assert [entry.step for entry in held_out] == list(range(20, NUM_STEPS + 1, 20))
