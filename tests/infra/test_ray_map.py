"""Shards on a real local Ray cluster."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.ray_map import ClusterError, RayMap, ray_cluster
from tasks.ports import ShardError, WorkerLostError


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayMap]:
    with ray_cluster(2) as shard_map:
        yield shard_map


def _square(value: int) -> int:
    if value == 13:
        raise ValueError("thirteen is refused")
    if value == 14:
        os._exit(1)
    time.sleep(0.01 * (5 - value) if value < 5 else 0)
    return value * value


def test_results_come_in_the_order_of_the_items_and_progress_as_they_finish(cluster: RayMap) -> None:
    done: list[tuple[int, int]] = []
    results = cluster.map(_square, range(6), name="square", on_done=lambda index, value: done.append((index, value)))
    assert results == [0, 1, 4, 9, 16, 25]
    assert sorted(done) == list(enumerate(results))
    assert cluster.map(_square, [], name="square") == []


def test_a_failing_shard_is_named_and_its_error_is_the_cause(cluster: RayMap) -> None:
    with pytest.raises(ShardError, match=r"stage 'square', shard 1: ValueError: thirteen is refused") as caught:
        cluster.map(_square, [1, 13, 2], name="square")
    assert type(caught.value.__cause__) is ValueError
    assert (caught.value.stage, caught.value.shard) == ("square", 1)
    assert cluster.map(_square, [3], name="square") == [9]  # the cluster is still usable


def test_a_worker_that_dies_again_and_again_fails_the_shard(cluster: RayMap) -> None:
    with pytest.raises(WorkerLostError, match="shard 0: the worker was lost"):
        cluster.map(_square, [14], name="square")


def test_a_block_inside_a_block_uses_the_same_cluster(cluster: RayMap) -> None:
    with ray_cluster(1) as inner:
        assert inner.map(_square, [2], name="square") == [4]
    assert cluster.map(_square, [3], name="square") == [9]


def test_more_workers_than_there_are_is_refused(cluster: RayMap) -> None:
    with pytest.raises(ClusterError, match="ask for fewer with --workers"), ray_cluster(10_000):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "nonsense", "ray://127.0.0.1:{port}"])
def test_a_cluster_that_does_not_answer_is_said_at_once(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    script = "from infra.ray_map import ray_cluster\nwith ray_cluster(): pass"
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "RAY_ADDRESS": address.format(port=port)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert time.monotonic() - started < 30
    assert "ClusterError" in done.stderr and "RAY_ADDRESS" in done.stderr
