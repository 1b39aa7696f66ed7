"""`tokenmill doctor`: whether this installation, this store and the servers are as a run needs them.

What models, lists and tokenizers a run needs is in infra/needed_models.py. Nothing that is looked at is changed: what
is written into the store to try it is gone afterwards, and no database is made or brought up to date.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from infra.ray_map import ClusterError, check_cluster
from infra.server_facts import mlflow_version, prefect_version, schema_problem
from infra.settings import mlflow_uri, prefect_database, served_addresses
from tasks.address import redacted
from tasks.atomic import TEMPORARY_PREFIX, write_file
from tasks.store import InUseError, Store

_MIN_FREE_BYTES = 2 << 30  # the default pipeline's store, with room to spare
_LIBRARIES = ("prefect", "ray", "torch", "mlflow", "datatrove", "trafilatura", "fasttext-wheel", "fastapi", "numpy")
_CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"  # beside a checkout, and not in a wheel
_PIN = re.compile(r"([A-Za-z0-9._-]+)==(\S+)")
_RAY_TIMEOUT_S = 180.0
_RAY_PROBE = (
    "from infra.ray_map import ray_cluster\n"
    "with ray_cluster() as shard_map:\n"
    "    assert shard_map.map(lambda number: number + 1, [1], name='doctor') == [2]\n"
    "    print(shard_map.num_workers)\n"
)


@dataclass(frozen=True)
class Finding:
    """One thing looked at. Where it is not in order, `detail` says what to do."""

    what: str
    ok: bool
    detail: str


def examine(store: Store) -> list[Finding]:
    """Look at everything; an error while looking is a finding too."""
    findings: list[Finding] = []
    for what, look in _LOOKS.items():
        try:
            findings += look(store)
        except (ValueError, OSError, ImportError) as error:
            findings.append(Finding(what, False, " ".join(str(error).split())))
    return findings


def _python(_: Store) -> list[Finding]:
    ok = (3, 11) <= sys.version_info[:2] <= (3, 12)
    return [Finding("python", ok, sys.version.split()[0] + ("" if ok else ": use 3.11 or 3.12"))]


def _libraries(_: Store) -> list[Finding]:
    findings = []
    for name in _LIBRARIES:
        try:
            findings.append(Finding(name, True, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(name, False, "not installed: run `make setup`"))
    providers = importlib.metadata.packages_distributions().get("fasttext", [])
    if set(providers) != {"fasttext-wheel"}:
        detail = (
            f"the module fasttext comes from {', '.join(providers) or 'nowhere'}: only fasttext-wheel may provide it"
        )
        findings.append(Finding("fasttext", False, detail))
    return findings


def _pinned(_: Store) -> list[Finding]:
    """What is installed, compared with the pinned set. Optional packages that are not installed are left out."""
    if not _CONSTRAINTS.is_file():
        return []
    pins = dict(_PIN.findall(_CONSTRAINTS.read_text(encoding="utf-8")))
    return [compared_with_pins(pins, {name: version for name in pins if (version := _installed(name))})]


def compared_with_pins(pins: Mapping[str, str], installed: Mapping[str, str]) -> Finding:
    """Whether the installed versions are the pinned ones, but for what a build adds (`2.11.0+cpu`)."""
    others = [
        f"{name} {version} (pinned: {pins[name]})"
        for name, version in sorted(installed.items())
        if Version(Version(version).public) != Version(Version(pins[name]).public)
    ]
    if others:
        shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        return Finding("pinned versions", False, f"other than constraints.txt says: {shown}; run `make setup`")
    return Finding("pinned versions", True, f"all {len(installed)} installed ones are as constraints.txt says")


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _storage(store: Store) -> list[Finding]:
    free = shutil.disk_usage(store.root).free
    detail = f"{store.root}, {free / 2**30:.1f} GiB free"
    if free < _MIN_FREE_BYTES:
        return [Finding("store", False, f"{detail}: free 2 GiB")]
    _try_writing(store)
    return [Finding("store", True, f"{detail}; files can be written, renamed and locked")]


def _try_writing(store: Store) -> None:
    """ValueError where the store's file system does not do what publishing and locking rely on."""
    name = f"{TEMPORARY_PREFIX}doctor-{uuid.uuid4().hex[:8]}"
    folder = store.root / name
    folder.mkdir()
    try:
        write_file(folder / "written", b"doctor")
        folder.rename(folder.with_name(f"{name}-renamed"))
        folder = folder.with_name(f"{name}-renamed")
        if (folder / "written").read_bytes() != b"doctor":
            raise ValueError(f"{store.root}: what was written and renamed was read back as something else")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    lock = f"doctor-{uuid.uuid4().hex[:8]}"
    try:
        with store.lock(lock):
            _check_is_held(store, lock)
    finally:
        (store.root / "locks" / f"{lock}.lock").unlink(missing_ok=True)


def _check_is_held(store: Store, lock: str) -> None:
    try:
        with store.lock(lock):
            pass
    except InUseError:
        return
    raise ValueError(
        f"{store.root}: a lock that is held was given away a second time: this file system has no locks, so two runs"
        " could write the same corpus; choose another --store"
    )


def _remote(store: Store) -> list[Finding]:
    if not store.remote:
        return [Finding("remote store", True, "none (TOKENMILL_REMOTE is not set)")]
    store.check_remote()
    return [Finding("remote store", True, f"{redacted(store.remote)} can be listed")]


def _ray(_: Store) -> list[Finding]:
    """Whether a cluster runs a task: the one at RAY_ADDRESS, or one of this machine, which is gone afterwards."""
    address = os.environ.get("RAY_ADDRESS")
    try:
        check_cluster()
    except ClusterError as error:
        return [Finding("ray", False, str(error))]
    where = f"the cluster at {address}" if address else "a local cluster, as is started for each run,"
    code, output, errors = _run_tied(_RAY_PROBE, _RAY_TIMEOUT_S)
    if code is None:
        return [Finding("ray", False, f"{where} has not run a task for {_RAY_TIMEOUT_S:.0f} s: see its logs")]
    if code == 0:
        return [Finding("ray", True, f"{where} runs a task; {output.strip()} CPUs")]
    lines = errors.strip().splitlines() or [f"exit code {code}"]
    return [Finding("ray", False, f"{where} runs no task: {lines[-1]}")]


def _run_tied(program: str, timeout_s: float) -> tuple[int | None, str, str]:
    """Exit code, output and errors of a Python program that leaves no process behind; None: it took too long."""
    python = [sys.executable, "-P"]
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as tie:  # infra.tied ends everything when it closes
        process = subprocess.Popen(
            [*python, "-m", "infra.tied", *python, "-c", program],
            stdin=read_end,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(read_end)
        try:
            output, errors = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            tie.close()
            output, errors = process.communicate()
            return None, output, errors
    return process.returncode, output, errors


def _device(_: Store) -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        return [Finding("device", True, torch.cuda.get_device_name(0))]
    return [Finding("device", True, f"CPU, {torch.get_num_threads()} threads (no GPU found)")]


def _prefect(store: Store) -> list[Finding]:
    """The server at PREFECT_API_URL or of `tokenmill up`; where there is none, the store's database."""
    api = os.environ.get("PREFECT_API_URL")
    if not api and (served := served_addresses(store)):
        api = f"{served['prefect']}/api"
    if api:
        return [_compared("prefect", f"the server at {redacted(api)}", prefect_version(api))]
    problem = schema_problem("prefect", prefect_database(store))
    what = problem or "no server runs: each run starts its own on the store's database; `tokenmill up` serves it"
    return [Finding("prefect server", not problem, what)]


def _mlflow(store: Store) -> list[Finding]:
    """The server that runs are recorded by, or the store's database; and the page, where `tokenmill up` serves it."""
    findings = []
    uri = mlflow_uri(store)
    if uri.startswith("http"):
        findings.append(_compared("mlflow", f"the server at {redacted(uri)}", mlflow_version(uri)))
    else:
        problem = schema_problem("mlflow", uri)
        findings.append(Finding("mlflow server", not problem, problem or f"the history is in {redacted(uri)}"))
    if served := served_addresses(store):
        findings.append(_compared("mlflow", f"the page at {served['mlflow']}", mlflow_version(served["mlflow"])))
    return findings


def _compared(name: str, where: str, version: str) -> Finding:
    """A server's version beside that of this installation's client."""
    ours = importlib.metadata.version(name)
    if version == ours:
        return Finding(f"{name} server", True, f"{where} answers, version {version} as here")
    return Finding(f"{name} server", False, f"{where} has version {version}, and here is {ours}: give both the same")


_LOOKS: dict[str, Callable[[Store], list[Finding]]] = {
    "python": _python,
    "libraries": _libraries,
    "pinned versions": _pinned,
    "store": _storage,
    "remote store": _remote,
    "ray": _ray,
    "device": _device,
    "prefect server": _prefect,
    "mlflow server": _mlflow,
}
