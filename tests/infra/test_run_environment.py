import platform
import threading
from collections.abc import Mapping
from importlib.metadata import version

import pytest

import infra.run_environment as module
from infra.run_environment import environment_lock, system_metrics


def test_the_lock_names_every_distribution_exactly() -> None:
    lines = environment_lock().splitlines()
    assert lines[0] == f"# python: {platform.python_version()}"
    assert [line.partition(":")[0] for line in lines[:4]] == ["# python", "# system", "# cpus", "# gpus"]
    assert {f"mlflow=={version('mlflow')}", f"pytest-timeout=={version('pytest-timeout')}"} <= set(lines[4:])
    assert lines[4:] == sorted(set(lines[4:]))


def test_samples_are_taken_while_the_block_runs_and_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_INTERVAL_S", 0.02)
    samples: list[tuple[int, Mapping[str, float]]] = []
    enough = threading.Event()

    def write(values: Mapping[str, float], step: int) -> None:
        samples.append((step, values))
        if len(samples) == 3:
            enough.set()

    with system_metrics(write, first_step=40):
        assert enough.wait(20)
    steps = [step for step, _ in samples]
    assert len(steps) >= 4 and steps == list(range(40, 40 + len(steps)))
    assert "system-metrics" not in {thread.name for thread in threading.enumerate()}
    for _, values in samples:
        assert set(values) >= {
            "system/cpu_utilization_percentage",
            "system/system_memory_usage_megabytes",
            "system/disk_available_megabytes",
            "system/network_receive_megabytes",
        }


def test_a_block_of_a_moment_has_one_sample() -> None:
    samples: list[int] = []
    with system_metrics(lambda _, step: samples.append(step), first_step=0):
        pass
    assert samples == [0]
