"""What `tokenmill doctor` says of the installation, the store and the servers, against real ones."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
from pathlib import Path

import pytest

from infra import doctor
from infra.doctor import Finding, compared_with_pins, examine
from infra.settings import environment
from tasks.atomic import write_json
from tasks.store import Store
from tests.tasks.crawl_server import crawl_server
from tests.tasks.s3_server import objects, s3_server

SERVER_VARIABLES = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "RAY_ADDRESS", "PREFECT_API_AUTH_STRING")
OURS = {name: importlib.metadata.version(name) for name in ("prefect", "mlflow")}


@pytest.fixture(autouse=True)
def no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SERVER_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def without_what_takes_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray is started and torch imported in the command's own test."""
    for what in ("libraries", "pinned versions", "ray", "device"):
        monkeypatch.delitem(doctor._LOOKS, what)


def findings(store: Store, what: str) -> list[Finding]:
    return [finding for finding in examine(store) if finding.what == what]


def remote_finding(store: Store) -> Finding:
    (finding,) = findings(store, "remote store")
    return finding


def test_the_remote_store_is_looked_at_and_nothing_is_written(tmp_path: Path) -> None:
    with s3_server() as bucket:
        reached = remote_finding(Store.open(tmp_path, f"{bucket}/prefix"))
        assert reached.ok and reached.detail == f"{bucket}/prefix can be listed"
        assert objects(bucket) == {}
        absent = remote_finding(Store.open(tmp_path, "s3://no-such-bucket/prefix"))
    assert not absent.ok and "s3://no-such-bucket/prefix cannot be reached (NoSuchBucket" in absent.detail


def test_a_store_without_a_remote_is_in_order(tmp_path: Path) -> None:
    finding = remote_finding(Store.open(tmp_path))
    assert finding.ok and "TOKENMILL_REMOTE" in finding.detail


def test_what_is_tried_in_the_store_is_gone_afterwards(tmp_path: Path) -> None:
    (finding,) = findings(Store.open(tmp_path), "store")
    assert finding.ok and "written, renamed and locked" in finding.detail
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["locks"]


def test_a_store_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28), str(tmp_path))

    monkeypatch.setattr("infra.doctor.write_file", full)
    (finding,) = findings(Store.open(tmp_path), "store")
    assert not finding.ok and "No space left on device" in finding.detail
    assert not list(tmp_path.rglob(".tmp-*"))


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "fcntl", lambda *_: b"")  # as one that grants every lock
    (finding,) = findings(Store.open(tmp_path), "store")
    assert not finding.ok and "given away a second time" in finding.detail


@pytest.mark.parametrize(
    ("pins", "installed", "ok", "said"),
    [
        ({"a": "1.0", "b": "2.0"}, {"a": "1.0"}, True, "all 1 installed ones"),
        ({"torch": "2.11.0"}, {"torch": "2.11.0+cpu"}, True, "all 1"),
        ({"a": "1.0"}, {"a": "1.0.0"}, True, "all 1"),
        ({"a": "1.0", "b": "2.0"}, {"a": "1.1", "b": "2.0"}, False, "a 1.1 (pinned: 1.0); run `make setup`"),
        (dict.fromkeys("abcdefg", "1"), dict.fromkeys("abcdefg", "2"), False, "and 2 more"),
    ],
)
def test_installed_versions_are_compared_with_the_pinned_ones(
    pins: dict[str, str], installed: dict[str, str], ok: bool, said: str
) -> None:
    finding = compared_with_pins(pins, installed)
    assert finding.ok == ok and said in finding.detail


@pytest.mark.parametrize(("version", "ok"), [(OURS["prefect"], True), ("3.1.0", False)])
def test_a_prefect_server_has_to_have_the_clients_version(
    version: str, ok: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with crawl_server({"/api/admin/version": f'"{version}"'.encode()}) as server:
        monkeypatch.setenv("PREFECT_API_URL", f"{server.address}/api")
        (finding,) = findings(Store.open(tmp_path), "prefect server")
    assert finding.ok == ok and f"version {version}" in finding.detail and server.address in finding.detail
    assert ok or "give both the same" in finding.detail
    (gone,) = findings(Store.open(tmp_path), "prefect server")
    assert not gone.ok and "no Prefect server answers" in gone.detail


@pytest.mark.parametrize(("version", "ok"), [(OURS["mlflow"], True), ("2.0.0", False)])
def test_an_mlflow_server_has_to_have_the_clients_version(
    version: str, ok: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with crawl_server({"/version": version.encode()}) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        (finding,) = findings(Store.open(tmp_path), "mlflow server")
    assert finding.ok == ok and f"version {version}" in finding.detail
    (gone,) = findings(Store.open(tmp_path), "mlflow server")
    assert not gone.ok and "no MLflow server answers" in gone.detail


def test_without_servers_the_databases_are_looked_at_and_not_made(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    environment(store)
    (prefect,), (mlflow,) = findings(store, "prefect server"), findings(store, "mlflow server")
    assert prefect.ok and "tokenmill up" in prefect.detail
    assert mlflow.ok and "mlflow.db" in mlflow.detail
    assert not (tmp_path / "mlflow" / "mlflow.db").exists() and not (tmp_path / "prefect" / "prefect.db").exists()


def test_the_pages_of_a_served_store_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/api/admin/version": f'"{OURS["prefect"]}"'.encode(), "/version": OURS["mlflow"].encode()}
    store = Store.open(tmp_path)
    with crawl_server(files) as server, store.lock("up"):
        write_json(tmp_path / "up.json", {"prefect": server.address, "mlflow": server.address, "pid": os.getpid()})
        (prefect,), (_, page) = findings(store, "prefect server"), findings(store, "mlflow server")
    assert prefect.ok and server.address in prefect.detail
    assert page.ok and f"the page at {server.address} answers" in page.detail


def test_a_ray_cluster_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    (finding,) = doctor._ray(Store.open(tmp_path))
    assert not finding.ok and "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1" in finding.detail
