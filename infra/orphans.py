"""What killed runs leave behind on this machine, in this store and in MLflow, and how each is told from what is alive.

    a run in MLflow      its flow run has ended, or nobody holds the lock that it was made under
    a process of Ray     the driver that started its cluster is gone, and so are the cluster's own daemons
    a session of Ray     no process has anything of its folder open, for a day
    a launcher's folder  no session is left in it, and no process has it open or was told of it, for a day
    half-written output  it was last touched before every flow that is alive now began, and no stage is at it

On a cluster that exists apart from us (RAY_ADDRESS) there is nothing to do: Ray itself ends the tasks and actors of a
driver that is gone, and we start neither jobs nor detached actors there.

Everything here takes `dry_run`, and returns what was done, or would be, as actions.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra.mlflow_tracker import EXPERIMENT
from infra.settings import STORE_VARIABLE
from infra.tracking_client import client
from tasks.atomic import TEMPORARY_PREFIX
from tasks.manifest import MANIFEST
from tasks.store import LIFE_LOCK, InUseError, Store

SESSION_AGE_S = 24 * 3600.0  # what a person may still want to read of a session's logs
_TERM_GRACE_S = 5.0
_RUN_LOCKS = (LIFE_LOCK, "training-")  # one a flow run; all others are named after what they protect
_SESSION = re.compile(r"session_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_\d+_(\d+)")  # ends with the driver's process id
_LAUNCHER = re.compile(r"tokenmill-[a-z0-9_]{8}")  # the folder that infra.tied has tempfile make for Ray's sessions
_RAY_FOLDER = "RAY_TMPDIR"
TEMPORARY_FOLDERS = tuple(dict.fromkeys(Path(name).resolve() for name in (tempfile.gettempdir(), "/tmp")))  # noqa: S108
"""Where Ray makes its sessions of its own accord, and where infra.tied makes the launchers' folders."""

_DAEMONS = frozenset({"raylet", "gcs_server"})

FlowRunEnded = Callable[[str], bool | None]
"""Whether the flow run of this id has ended; None where Prefect does not know it."""


@dataclass(frozen=True)
class Action:
    """One thing that was done, or with `dry_run` would be."""

    what: str
    name: str
    why: str


def close_tracked_runs(store: Store, has_ended: FlowRunEnded, *, min_age_s: float, dry_run: bool) -> list[Action]:
    """End, as KILLED, the MLflow runs that are still RUNNING although nobody writes them any more."""
    mlflow_client = client(store)
    experiment = mlflow_client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    actions = []
    token: str | None = None
    while True:
        page = mlflow_client.search_runs(
            [experiment.experiment_id], "attributes.status = 'RUNNING'", page_token=token, max_results=500
        )
        for run in page:
            if time.time() - run.info.start_time / 1000 < min_age_s:
                continue
            why = _dead_because(store, run.data.tags, has_ended)
            if why is None:
                continue
            if not dry_run:
                mlflow_client.set_tag(run.info.run_id, "tokenmill.error", f"killed: {why}")
                mlflow_client.set_terminated(run.info.run_id, "KILLED")
            actions.append(Action("MLflow run ended as KILLED", f"{run.info.run_name} ({run.info.run_id})", why))
        token = page.token
        if not token:
            return actions


def _dead_because(store: Store, tags: dict[str, str], has_ended: FlowRunEnded) -> str | None:
    """Why nobody writes a run with these tags; None where somebody does, or where nothing can tell."""
    if flow_run := tags.get("prefect.flow_run_id"):
        if store.is_locked(f"{LIFE_LOCK}{flow_run}"):
            return None  # at work, or cleaning up, whatever state somebody has given it
        if (ended := has_ended(flow_run)) is not None:
            return f"its flow run {flow_run} has ended" if ended else None
    lock = tags.get("tokenmill.lock", "")
    return f"nobody holds its lock {lock}" if lock and not store.is_locked(lock) else None


def remove_lock_files(store: Store, has_ended: FlowRunEnded, *, dry_run: bool) -> list[Action]:
    """Remove the locks of flow runs that have ended: they are taken by no other run."""
    actions = []
    for name in _locks(store, _RUN_LOCKS):
        if not has_ended(name.partition("-")[2]):
            continue
        try:
            with store.lock(name):
                if not dry_run:
                    (store.root / "locks" / f"{name}.lock").unlink()
        except InUseError:
            continue
        actions.append(Action("lock file removed", name, "its flow run has ended"))
    return actions


def _locks(store: Store, prefixes: tuple[str, ...]) -> list[str]:
    folder = store.root / "locks"
    return sorted(file.name.removesuffix(".lock") for file in folder.glob("*.lock") if file.name.startswith(prefixes))


def end_forgotten_processes(store: Store, *, min_age_s: float, dry_run: bool) -> list[Action]:
    """End what a local Ray cluster of this store has left: SIGTERM, then SIGKILL, by process id.

    The daemons of a local cluster die with its driver. So a cluster that has any is alive, whoever started it. Ray's
    agents do not: 2.60 leaves two for each driver that was killed. Their titles overwrite their environment, so which
    store they were of cannot be seen; of a cluster that is gone they are of no use to anybody.
    """
    processes = list(_own_processes())
    living = {session for process in processes if process.name in _DAEMONS for session in process.sessions}
    forgotten = [
        process
        for process in processes
        if process.sessions
        and (process.store == str(store.root) or process.is_nameless)
        and not process.sessions & living
        and not any(_driver_lives(session) for session in process.sessions)
        and time.time() - process.handle.create_time() >= min_age_s
    ]
    if not dry_run:
        _end([process.handle for process in forgotten])
    return [
        Action("process of Ray ended", f"{process.name} ({process.handle.pid})", "the driver of its cluster is gone")
        for process in forgotten
    ]


@dataclass(frozen=True)
class _Process:
    handle: psutil.Process
    name: str
    store: str
    sessions: frozenset[str]  # of Ray, that it was started for or has files open of
    launchers: frozenset[str]  # names of their folders, likewise

    @property
    def is_nameless(self) -> bool:
        """Ray's, and without an environment to say of which store."""
        return self.store == "" and self.name.startswith("ray::")


def _own_processes() -> Iterator[_Process]:
    """The processes that run as this user, this one left out."""
    for handle in psutil.process_iter():
        try:
            if handle.pid == os.getpid() or handle.uids().real != os.getuid():
                continue
            text = "\0".join([*handle.cmdline(), *_open_paths(handle.pid)])
            variables = handle.environ()
            sessions = frozenset(match[0] for match in _SESSION.finditer(text))
            launchers = frozenset(_LAUNCHER.findall(f"{text}\0{variables.get(_RAY_FOLDER, '')}"))
            yield _Process(handle, handle.name(), variables.get(STORE_VARIABLE, ""), sessions, launchers)
        except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):  # ended, or is ending
            continue


def _open_paths(pid: int) -> list[str]:
    """What the process has open (proc_pid_fd(5)); psutil's `open_files` leaves out sockets and what is deleted."""
    paths = []
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                paths.append(str(descriptor.readlink()))
            except FileNotFoundError:  # closed while we looked
                continue
    except (FileNotFoundError, PermissionError) as error:
        raise psutil.NoSuchProcess(pid) from error
    return paths


def _driver_lives(session: str) -> bool:
    """Whether the process that made this session is there: of that id, and not one that got the id later."""
    match = _SESSION.fullmatch(session)
    assert match is not None
    folders = (root / session for root in _ray_folders())
    try:
        folder_made = next((folder.stat().st_mtime for folder in folders if folder.is_dir()), math.inf)
        return float(psutil.Process(int(match[1])).create_time()) <= folder_made
    except FileNotFoundError:  # removed while we looked
        return bool(psutil.pid_exists(int(match[1])))
    except psutil.NoSuchProcess:
        return False


def _end(processes: Iterable[psutil.Process]) -> None:
    """psutil compares the time at which a process began: an id that was given to another one is left alone."""
    waiting = list(processes)
    for number in ("terminate", "kill"):
        for process in waiting:
            try:
                getattr(process, number)()
            except psutil.NoSuchProcess:
                continue
        _, waiting = psutil.wait_procs(waiting, timeout=_TERM_GRACE_S)


def _ray_folders() -> list[Path]:
    """Where Ray may have kept sessions on this machine: for us, by default, and for each launcher."""
    own = os.environ.get(_RAY_FOLDER)
    places = [*([Path(own).resolve()] if own else []), *TEMPORARY_FOLDERS, *_launcher_folders()]
    return [place / "ray" for place in dict.fromkeys(places) if os.access(place / "ray", os.R_OK | os.X_OK)]


def _launcher_folders() -> list[Path]:
    """The folders that infra.tied has made for this user and, where it was killed, has not removed."""
    found = {folder for temporary in TEMPORARY_FOLDERS for folder in temporary.glob("tokenmill-*")}
    return sorted(folder for folder in found if _LAUNCHER.fullmatch(folder.name) and _is_own_folder(folder))


def _is_own_folder(path: Path) -> bool:
    """Whether it is this user's, and a folder itself: a link is not."""
    try:
        status = path.lstat()
    except FileNotFoundError:  # removed while we looked
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def remove_ray_sessions(*, min_age_s: float = SESSION_AGE_S, dry_run: bool) -> list[Action]:
    """Remove this user's session folders that no process uses, which Ray itself never does, and killed launchers'
    folders that hold no other."""
    processes = list(_own_processes())
    used = {session for process in processes for session in process.sessions}
    launchers = _unused_launchers(processes, min_age_s)  # now: to remove a session touches the folder that it is in
    removed = []
    for root in _ray_folders():
        for folder in sorted(root.glob("session_*")):
            if not _SESSION.fullmatch(folder.name) or folder.name in used or not _is_own_folder(folder):
                continue
            if time.time() - _last_touched(folder) < min_age_s or _driver_lives(folder.name):
                continue
            if not dry_run:
                shutil.rmtree(folder)
            removed.append(folder)
        latest = root / "session_latest"
        if latest.is_symlink() and not latest.exists() and latest.lstat().st_uid == os.getuid() and not dry_run:
            latest.unlink()
    emptied = [folder for folder in launchers if _holds_only(folder, removed)]
    if not dry_run:
        for folder in emptied:
            shutil.rmtree(folder)
    return [
        *(Action("session of Ray removed", str(folder), "no process uses it") for folder in removed),
        *(Action("folder of a launcher removed", str(folder), "its launcher was killed") for folder in emptied),
    ]


def _unused_launchers(processes: list[_Process], min_age_s: float) -> list[Path]:
    used = {launcher for process in processes for launcher in process.launchers}
    used.update(_LAUNCHER.findall(os.environ.get(_RAY_FOLDER, "")))  # ours: this process is not among them
    return [
        folder
        for folder in _launcher_folders()
        if folder.name not in used and time.time() - _last_touched(folder) >= min_age_s
    ]


def _holds_only(launcher: Path, removed: list[Path]) -> bool:
    """Whether nothing but these sessions is in it. What is not Ray's was put there by somebody, and keeps it."""
    sessions = (path for path in launcher.glob("ray/session_*") if not path.is_symlink())
    return all(path.name == "ray" for path in launcher.iterdir()) and all(path in removed for path in sessions)


def remove_half_written(store: Store, *, min_age_s: float, dry_run: bool) -> list[Action]:
    """Remove what bears a temporary name in the store and was written by a run that is no more.

    What a living flow writes it has touched since it began, and a stage holds a lock while it writes.
    """
    before = min([time.time() - min_age_s, *_living_since(store)])
    actions = []
    for path in _temporary(store):
        if _last_touched(path) >= before or _stage_at_work(path):
            continue
        if not dry_run:
            _remove(path)
        name = str(path.relative_to(store.root))
        actions.append(Action("half-written output removed", name, "its writer was killed"))
    return actions


def _living_since(store: Store) -> list[float]:
    """When each flow that is alive now began, in seconds since 1970: it has written to its lock then."""
    held = [name for name in _locks(store, (LIFE_LOCK,)) if store.is_locked(name)]
    return [(store.root / "locks" / f"{name}.lock").stat().st_mtime for name in held]


def _temporary(store: Store) -> list[Path]:
    """The outermost files and folders with a temporary name, where our own code writes."""
    found = []
    own = (store.corpora, store.work, store.tokens, store.tokenizers, store.runs, store.audit)
    for top in (*own, store.root / "sources", store.root / "locks"):
        for folder, folders, files in os.walk(top):
            names = [name for name in (*folders, *files) if name.startswith(TEMPORARY_PREFIX)]
            found += [Path(folder, name) for name in names]
            folders[:] = [name for name in folders if name not in names]
    return sorted(found)


def _last_touched(path: Path) -> float:
    """The youngest modification in a file or folder; now, where it vanishes while we look."""
    try:
        times = [path.lstat().st_mtime]
        if path.is_dir() and not path.is_symlink():
            for folder, _, files in os.walk(path):
                times += [Path(folder).lstat().st_mtime, *(Path(folder, name).lstat().st_mtime for name in files)]
    except FileNotFoundError:
        return time.time()
    return max(times)


def _stage_at_work(path: Path) -> bool:
    """Whether a stage holds its lock on the folder that `path` is in (tasks/stages.py)."""
    parent = path.parent
    return any(_is_held(lock) for lock in (parent / ".lock", parent.with_name(f".{parent.name}.lock")))


def _is_held(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a stage that wants it just now waits a moment
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=False)
    else:
        path.unlink(missing_ok=True)


def unfinished_stages(store: Store, *, min_age_s: float) -> list[Action]:
    """Stage folders without a manifest that nobody is at. They stay: their finished shards make the next run shorter,
    and `tokenmill gc` removes them when they are old."""
    actions = []
    for folder in sorted(store.work.glob("*/" + "[0-9a-f]" * 20)):
        old = time.time() - _last_touched(folder) >= min_age_s
        if old and not (folder / MANIFEST).is_file() and not _is_held(folder.with_name(f".{folder.name}.lock")):
            name = str(folder.relative_to(store.root))
            actions.append(Action("unfinished stage kept", name, "the next run of it goes on with its shards"))
    return actions
