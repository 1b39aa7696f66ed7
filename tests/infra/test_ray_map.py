"""Shards on a real local Ray cluster."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.ray_map import ClusterError, RayMap, ray_cluster
from tasks.extract import Extraction, Extractor
from tasks.ports import ShardError, WorkerLostError
from tests.integration.running import alive, environment, wait_until


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


_DRIVER = """
import os, signal, sys
from infra.ray_map import ray_cluster
from tests.infra.test_ray_map import busy_shard

class Stopped(BaseException):
    pass

def stop(*_):
    raise Stopped

signal.signal(signal.SIGTERM, stop)
try:
    with ray_cluster(2) as shard_map:
        shard_map.map(busy_shard, [sys.argv[1], sys.argv[1]], name="busy")
except Stopped:
    os._exit(7)
"""


def busy_shard(started: str) -> None:
    """Has its page extracted in a warm process, as the real one has, then another that would take for ever."""
    extractor = Extractor(Extraction())
    extractor.extract(b"<html><body><p>A page of a few words.</p></body></html>", None)
    child = extractor.process_id
    assert child is not None
    os.kill(child, signal.SIGSTOP)  # it will not see its socket close
    (Path(started) / f"{os.getpid()}").write_text(str(child))
    extractor.extract(b"<html><body><p>Never answered.</p></body></html>", None)
    time.sleep(600)


def test_an_interrupted_map_ends_its_shards_and_what_they_started(tmp_path: Path) -> None:
    started = tmp_path / "started"
    started.mkdir()
    driver = subprocess.Popen(
        [sys.executable, "-P", "-c", _DRIVER, str(started)],
        env=environment(
            TOKENMILL_STORE=str(tmp_path),
            PYTHONPATH=str(Path(__file__).parents[2]),
            RAY_AUTH_MODE="token",
            RAY_AUTH_TOKEN=os.environ["RAY_AUTH_TOKEN"],
        ),
        cwd=tmp_path,
    )
    try:
        wait_until(lambda: len(list(started.glob("[0-9]*"))) == 2, 60, "the shards did not start")
        driver.send_signal(signal.SIGTERM)
        told = time.monotonic()
        assert driver.wait(timeout=30) == 7
        wait_until(lambda: not alive(tmp_path), 30, "a process is left")
        assert time.monotonic() - told < 10
    finally:
        driver.kill()
        for pid in alive(tmp_path):
            os.kill(pid, signal.SIGKILL)
