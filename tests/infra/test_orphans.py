"""What was killed is ended and removed; what lives beside it, and looks the same but for that, is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra import orphans
from infra.mlflow_tracker import EXPERIMENT
from infra.orphans import (
    Action,
    close_tracked_runs,
    end_forgotten_processes,
    remove_half_written,
    remove_lock_files,
    remove_ray_sessions,
    unfinished_stages,
)
from infra.settings import environment
from infra.tracking_client import client
from tasks.atomic import locked
from tasks.store import Store

HOUR_S = 3600.0
STARTED = "session_2026-11-22_02-51-15_474810"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for /tmp, of which the machine's own is not looked at."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(orphans, "TEMPORARY_FOLDERS", (folder,))
    return folder


@pytest.fixture(params=[".", "tokenmill-a1_b2c3d"])
def ray_folder(temporary: Path, request: pytest.FixtureRequest) -> Path:
    """Ray's own, and one that infra.tied has made for a launcher; RAY_TMPDIR of this process names neither."""
    folder = temporary / request.param / "ray"
    folder.mkdir(parents=True)
    return folder


def aged(path: Path, age_s: float) -> Path:
    for item in (*path.rglob("*"), path):
        os.utime(item, (time.time() - age_s,) * 2, follow_symlinks=False)
    return path


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def session(ray_folder: Path, driver: int) -> Path:
    folder = ray_folder / f"{STARTED}_{driver}"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "worker.out").touch()
    return folder


class Processes:
    """Real processes with a session's log open, as Ray's workers have it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.all: list[subprocess.Popen[bytes]] = []

    def start(
        self, store: Store, log: Path | None, name: str = "worker", *, deaf: bool = False, **variables: str
    ) -> int:
        """Its id, once it runs. A deaf one does not end on SIGTERM."""
        program = self._folder / name
        if not program.exists():
            shutil.copyfile(str(shutil.which("bash")), program)
            program.chmod(0o755)
        # No command but the shell's own: between fork and exec a child has its parent's name. It ends with its pipe.
        wait = "while read -t 60 || (( $? > 128 )); do :; done"
        script = f"{'trap : TERM; ' if deaf else ''}echo ready; {wait}"
        with (log or Path(os.devnull)).open("ab") as opened:
            process = subprocess.Popen(
                [str(program), "-c", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=opened,
                env={**os.environ, "TOKENMILL_STORE": str(store.root)} | variables,
                start_new_session=True,
            )
        self.all.append(process)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        return process.pid

    def alive(self, pid: int) -> bool:
        return next(process for process in self.all if process.pid == pid).poll() is None


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path)
    yield started
    for process in started.all:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def names(actions: list[Action]) -> set[str]:
    return {action.name for action in actions}


def test_workers_of_a_dead_driver_are_ended_also_where_they_do_not_listen(
    store: Store, ray_folder: Path, processes: Processes
) -> None:
    log = session(ray_folder, dead_pid()) / "logs" / "worker.out"
    worker, deaf = processes.start(store, log), processes.start(store, log, deaf=True)
    assert end_forgotten_processes(store, min_age_s=HOUR_S, dry_run=False) == []  # too young
    found = end_forgotten_processes(store, min_age_s=0, dry_run=True)
    assert names(found) == {f"worker ({worker})", f"worker ({deaf})"}
    assert processes.alive(worker) and processes.alive(deaf)
    assert names(end_forgotten_processes(store, min_age_s=0, dry_run=False)) == names(found)
    assert not processes.alive(worker) and not processes.alive(deaf)


def test_processes_of_a_living_cluster_or_store_or_driver_are_left_alone(
    store: Store, ray_folder: Path, processes: Processes, tmp_path: Path
) -> None:
    other = Store.open(tmp_path / "other")
    of_driver = processes.start(store, session(ray_folder, os.getpid()) / "logs" / "worker.out")
    served = session(ray_folder, dead_pid()) / "logs" / "worker.out"  # by `ray start`, which has ended
    beside_daemon, daemon = processes.start(store, served), processes.start(store, served, "raylet")
    of_other = processes.start(other, session(ray_folder, dead_pid()) / "logs" / "worker.out")
    no_ray = processes.start(store, None)
    assert end_forgotten_processes(store, min_age_s=0, dry_run=False) == []
    assert all(processes.alive(pid) for pid in (of_driver, beside_daemon, daemon, of_other, no_ray))


def test_a_process_id_that_was_given_to_another_process_is_no_driver(
    store: Store, ray_folder: Path, processes: Processes
) -> None:
    later = processes.start(store, None)
    folder = session(ray_folder, later)
    worker = processes.start(store, folder / "logs" / "worker.out")
    aged(folder, HOUR_S)  # made before the process that has the id now
    assert names(end_forgotten_processes(store, min_age_s=0, dry_run=False)) == {f"worker ({worker})"}
    assert processes.alive(later)


def test_old_sessions_that_nobody_uses_are_removed(store: Store, ray_folder: Path, processes: Processes) -> None:
    old = aged(session(ray_folder, dead_pid()), 48 * HOUR_S)
    (ray_folder / "session_latest").symlink_to(old)
    young = session(ray_folder, dead_pid())
    used = session(ray_folder, dead_pid())
    processes.start(store, used / "logs" / "worker.out")
    aged(used, 48 * HOUR_S)
    foreign = aged(session(ray_folder, os.getpid()), 48 * HOUR_S)
    os.utime(foreign)  # of a driver that lives: its folder was made after the process
    (ray_folder / "kept").mkdir()
    assert names(remove_ray_sessions(dry_run=True)) == {str(old)} and old.is_dir()
    assert names(remove_ray_sessions(dry_run=False)) == {str(old)}
    assert not old.exists() and not (ray_folder / "session_latest").is_symlink()
    assert young.is_dir() and used.is_dir() and foreign.is_dir() and (ray_folder / "kept").is_dir()


def test_sessions_in_the_folder_that_this_process_was_given_are_removed(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "own"))
    old = {aged(session(place / "ray", dead_pid()), 48 * HOUR_S) for place in (tmp_path / "own", temporary)}
    assert names(remove_ray_sessions(dry_run=False)) == {str(folder) for folder in old}


def launcher(temporary: Path, driver: int | None = None) -> Path:
    """The folder of one that was killed two days ago, as infra.tied makes it, with a session where it had a driver."""
    folder = Path(tempfile.mkdtemp(prefix="tokenmill-", dir=temporary))
    if driver is not None:
        made = session(folder / "ray", driver)
        (folder / "ray" / "session_latest").symlink_to(made)
    return aged(folder, 48 * HOUR_S)


def test_folders_of_killed_launchers_go_with_their_sessions(temporary: Path) -> None:
    with_session, empty = launcher(temporary, dead_pid()), launcher(temporary)
    expected = {str(with_session), str(empty), *map(str, with_session.glob("ray/session_2*"))}
    assert names(remove_ray_sessions(dry_run=True)) == expected
    assert with_session.is_dir() and empty.is_dir() and any(with_session.glob("ray/session_2*"))
    assert names(remove_ray_sessions(dry_run=False)) == expected
    assert list(temporary.iterdir()) == []
    assert remove_ray_sessions(dry_run=False) == []


def test_folders_of_launchers_that_somebody_may_want_stay(
    store: Store, temporary: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    young = Path(tempfile.mkdtemp(prefix="tokenmill-", dir=temporary))
    told, opened, own = (launcher(temporary) for _ in range(3))
    processes.start(store, None, RAY_TMPDIR=str(told))
    processes.start(store, opened / "socket")
    aged(opened, 48 * HOUR_S)
    monkeypatch.setenv("RAY_TMPDIR", str(own))
    holds_more = launcher(temporary, dead_pid())
    (session_of_it,) = holds_more.glob("ray/session_2*")
    (holds_more / "notes").touch()
    aged(holds_more, 48 * HOUR_S)
    of_other_name = temporary / "tokenmill-store"
    of_other_name.mkdir()
    aged(of_other_name, 48 * HOUR_S)
    linked = temporary / "tokenmill-linked_1"
    linked.symlink_to(aged(session(temporary.parent / "elsewhere" / "ray", dead_pid()), 48 * HOUR_S).parents[1])
    assert names(remove_ray_sessions(dry_run=False)) == {str(session_of_it)}
    assert all(folder.is_dir() for folder in (young, told, opened, own, holds_more, of_other_name))
    assert any(linked.glob("ray/session_2*"))


def half_written(store: Store, *parts: str, age_s: float = HOUR_S) -> Path:
    path = store.root.joinpath(*parts)
    path.mkdir(parents=True)
    (path / "part").write_text("half")
    return aged(path, age_s)


def test_half_written_output_is_removed_when_it_is_old(store: Store) -> None:
    old = [
        half_written(store, "corpora", "web", ".tmp-3-abc"),
        half_written(store, "work", "read", "shards", ".tmp-1-abc"),
        half_written(store, "runs", "r", "checkpoints", ".tmp-step-00000001-1"),
        half_written(store, "tokens", ".tmp-gc-x-1"),
    ]
    young = half_written(store, "corpora", "web", ".tmp-4-abc", age_s=10)
    complete = half_written(store, "corpora", "web", "2")
    elsewhere = half_written(store, "mlflow", "artifacts", ".tmp-of-mlflow")
    expected = {str(path.relative_to(store.root)) for path in old}
    assert names(remove_half_written(store, min_age_s=600, dry_run=True)) == expected
    assert all(path.is_dir() for path in old)
    assert names(remove_half_written(store, min_age_s=600, dry_run=False)) == expected
    assert not any(path.exists() for path in old)
    assert young.is_dir() and complete.is_dir() and elsewhere.is_dir()


def test_what_a_living_flow_may_be_writing_stays_whatever_its_age(store: Store) -> None:
    before, during = (half_written(store, "corpora", "web", f".tmp-{name}") for name in ("before", "during"))
    with store.lock("flow-1"):
        began = time.time() - 1800
        os.utime(store.root / "locks" / "flow-1.lock", (began, began))
        aged(during, 1700)
        assert names(remove_half_written(store, min_age_s=600, dry_run=False)) == {"corpora/web/.tmp-before"}
        assert not before.exists() and during.is_dir()
    assert names(remove_half_written(store, min_age_s=600, dry_run=False)) == {"corpora/web/.tmp-during"}


@pytest.mark.parametrize("lock", ["shards/.lock", ".shards.lock"])
def test_what_a_stage_may_be_writing_stays(store: Store, lock: str) -> None:
    path = half_written(store, "work", "read", "shards", ".tmp-1-abc")
    with locked(store.work / "read" / lock):
        assert remove_half_written(store, min_age_s=600, dry_run=False) == []
    assert path.is_dir()
    assert len(remove_half_written(store, min_age_s=600, dry_run=False)) == 1


def test_unfinished_stages_are_told_and_stay(store: Store) -> None:
    unfinished = half_written(store, "work", "read", "a" * 20)
    (half_written(store, "work", "read", "b" * 20) / "manifest.json").write_text("{}")
    half_written(store, "work", "read", "shards")
    half_written(store, "work", "read", "c" * 20, age_s=1)
    at_work = half_written(store, "work", "read", "d" * 20)
    with locked(at_work.with_name(f".{at_work.name}.lock")):
        assert names(unfinished_stages(store, min_age_s=600)) == {f"work/read/{'a' * 20}"}
    assert unfinished.is_dir()


def test_locks_of_ended_flows_are_removed_and_no_others(store: Store) -> None:
    for name in ("flow-ended", "flow-open", "flow-unknown", "training-ended", "corpus-ended"):
        with store.lock(name):
            """It was held, and is free again."""
    ended = {"ended": True, "open": False, "held": True}
    with store.lock("flow-held"):
        assert names(remove_lock_files(store, ended.get, dry_run=True)) == {"flow-ended", "training-ended"}
        assert names(remove_lock_files(store, ended.get, dry_run=False)) == {"flow-ended", "training-ended"}
    left = {file.stem for file in (store.root / "locks").glob("*.lock")}
    assert left == {"flow-open", "flow-unknown", "corpus-ended", "flow-held"}


def test_runs_of_dead_flows_are_killed_in_mlflow_and_those_of_living_ones_go_on(store: Store) -> None:
    environment(store)  # makes the folders of the databases
    mlflow_client = client(store)
    experiment = mlflow_client.create_experiment(EXPERIMENT)

    def running(name: str, **tags: str) -> str:
        all_tags = {key.replace("__", "."): value for key, value in tags.items()}
        return str(mlflow_client.create_run(experiment, run_name=name, tags=all_tags).info.run_id)

    runs = {
        "dead flow": running("dead flow", prefect__flow_run_id="dead", tokenmill__lock="corpus-web"),
        "living flow": running("living flow", prefect__flow_run_id="alive"),
        "cleaning up": running("cleaning up", prefect__flow_run_id="cleaning"),
        "free lock": running("free lock", tokenmill__lock="corpus-free"),
        "held lock": running("held lock", tokenmill__lock="corpus-web"),
        "unknown flow": running("unknown flow", prefect__flow_run_id="unknown"),
        "of somebody else": running("of somebody else"),
    }
    finished = running("finished", prefect__flow_run_id="dead")
    mlflow_client.set_terminated(finished, "FINISHED")
    ended = {"dead": True, "alive": False, "cleaning": True}

    def closed(**options: float | bool) -> set[str]:
        actions = close_tracked_runs(store, ended.get, **{"min_age_s": 0.0, "dry_run": False} | options)  # type: ignore[arg-type]
        return {action.name.partition(" (")[0] for action in actions}

    with store.lock("corpus-web"), store.lock("flow-cleaning"):
        assert closed(min_age_s=HOUR_S) == set()
        assert closed(dry_run=True) == {"dead flow", "free lock"}
        assert closed() == {"dead flow", "free lock"}
        assert closed() == set()
    statuses = {name: mlflow_client.get_run(run_id).info.status for name, run_id in runs.items()}
    assert {name for name, status in statuses.items() if status == "KILLED"} == {"dead flow", "free lock"}
    assert {name for name, status in statuses.items() if status == "RUNNING"} == runs.keys() - {
        "dead flow",
        "free lock",
    }
    assert mlflow_client.get_run(finished).info.status == "FINISHED"


@pytest.mark.verify
@pytest.mark.timeout(180)
def test_a_real_cluster_whose_driver_is_stopped_and_killed(store: Store, temporary: Path) -> None:
    """Ray's own workers, one of them stopped so that it cannot notice, beside a driver that lives."""
    program = (
        "import os, ray, time\n"
        "ray.init(address='local', num_cpus=1, include_dashboard=False, log_to_driver=False,"
        " object_store_memory=100_000_000, _node_ip_address='127.0.0.1')\n"
        "@ray.remote\n"
        "def work():\n    time.sleep(600)\n"
        "started = work.remote()\ntime.sleep(5)\nprint('ready', flush=True)\ntime.sleep(600)\n"
    )
    # sockets: at most 107 bytes of path, and pytest's folders are long
    short = Path(f"/tmp/tm-{os.getpid()}")
    drivers = []
    try:
        for name in ("killed", "living"):
            variables = {**os.environ, "TOKENMILL_STORE": str(store.root), "RAY_TMPDIR": str(short / name)}
            (short / name).mkdir(parents=True)
            drivers.append(subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=variables))
        for driver in drivers:
            assert driver.stdout is not None and driver.stdout.readline() == b"ready\n"
        killed, living = (psutil.Process(driver.pid) for driver in drivers)
        working = [child for child in killed.children(recursive=True) if child.name().startswith("ray::")]
        assert working
        for child in working:
            child.suspend()
        killed.kill()
        drivers[0].wait()
        time.sleep(3)
        beside = {child.pid for child in living.children(recursive=True)}
        found = end_forgotten_processes(store, min_age_s=0, dry_run=False)
        assert {"ray::DashboardAgent", "ray::RuntimeEnvAgent"} <= {action.name.partition(" (")[0] for action in found}
        assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in working)
        assert living.is_running() and {child.pid for child in living.children(recursive=True)} >= beside
    finally:
        for driver in drivers:
            for child in psutil.Process(driver.pid).children(recursive=True) if driver.poll() is None else ():
                child.kill()
            driver.kill()
            driver.wait()
        shutil.rmtree(short, ignore_errors=True)
