"""Two nodes of Ray on this machine, each with workers of its own, and one store: the same versions as from one node."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.ray_map import ray_cluster
from tasks.curation import make_version
from tasks.ports import ShardMap
from tasks.recipes.curation import fineweb
from tasks.refresh import Refresh
from tasks.store import Store
from tests.integration.running import environment, wait_until
from tests.integration.topology import BIN, RAY_ADDRESSES, Process, WorkOfNodes, free_ports
from tests.tasks.test_deduplicate import tangled_pages, write_rows

pytestmark = [pytest.mark.verify, pytest.mark.timeout(600)]

NUM_FILES = 4
START_TIMEOUT_S = 120


@contextlib.contextmanager
def two_nodes(store: Path) -> Iterator[str]:
    """A head and a second node of one CPU each, for as long as the block runs; the head's address."""
    folder = Path(tempfile.mkdtemp(prefix="tm-"))  # a socket's path may be 107 bytes long
    variables = environment(TOKENMILL_STORE=str(store), RAY_TMPDIR=str(folder), OMP_NUM_THREADS="1")
    variables |= {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED")}
    ray, (port,) = str(BIN / "ray"), free_ports(1)
    head, second = RAY_ADDRESSES.values()
    address = f"{head}:{port}"
    node = [ray, "start", "--block", "--num-cpus=1", "--object-store-memory=200000000", "--disable-usage-stats"]
    nodes: list[Process] = []

    def start(*options: str) -> None:
        log = folder / f"node-{len(nodes)}.log"
        nodes.append(Process([*node, *options], variables, folder, log))

    def answers() -> bool:
        check = [ray, "health-check", f"--address={address}"]
        return subprocess.run(check, env=variables, capture_output=True, check=False).returncode == 0

    try:
        start("--head", f"--port={port}", f"--node-ip-address={head}", "--include-dashboard=false")
        wait_until(answers, START_TIMEOUT_S, "the head does not answer", poll_s=0.5)
        start(f"--address={address}", f"--node-ip-address={second}")
        yield address
    finally:
        for process in reversed(nodes):
            process.untie()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.join()
        shutil.rmtree(folder, ignore_errors=True)


def grown(store: Path, crawls: Path, shard_map: ShardMap) -> list[dict[str, Any]]:
    """The manifests of a version and of one onto it."""
    pages, manifests = tangled_pages(), []
    recipe = fineweb().model_copy(update={"shard_records": 4})
    for version in (1, 2):
        for number in range((version - 1) * NUM_FILES, version * NUM_FILES):
            write_rows(crawls / f"{number}.jsonl", pages[number :: 2 * NUM_FILES])
        refresh = Refresh.plan(Store.open(store), "web", [str(crawls)], recipe)
        manifests.append(make_version(refresh, shard_map)[1])
    return manifests


def test_two_nodes_make_the_versions_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ray_cluster(1) as shard_map:
        expected = grown(tmp_path / "one", tmp_path / "crawls-one", shard_map)
    store = tmp_path / "two"
    with two_nodes(store) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)

        def has_both() -> bool:
            with ray_cluster() as shard_map:
                return shard_map.num_workers == 2

        wait_until(has_both, START_TIMEOUT_S, "the second node has not come", poll_s=1)
        with ray_cluster(2) as shard_map, WorkOfNodes(store) as work:
            manifests = grown(store, tmp_path / "crawls-two", shard_map)
    assert len(work.tasks) == 2, work.tasks  # each raylet had shards to work on
    screening, merging = {"extract", "quality"}, {"index", "settle"}
    assert set().union(*work.tasks.values()) & screening and set().union(*work.tasks.values()) & merging, work.tasks
    for fact in ("digest", "removed", "documents_kept", "clusters", "base", "superseded"):
        assert [manifest[fact] for manifest in manifests] == [manifest[fact] for manifest in expected], fact
    assert manifests[1]["superseded"] > 0
