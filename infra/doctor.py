"""`tokenmill doctor`: what a run needs, and whether it is here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass

from infra.ray_map import ClusterError, check_reachable
from infra.settings import mlflow_uri, served_addresses
from tasks.address import redacted
from tasks.manifest import file_sha256
from tasks.recipes.curation import CURATION_RECIPES
from tasks.store import Store

_MIN_FREE_BYTES = 2 << 30  # the default pipeline's store, with room to spare
_LIBRARIES = ("prefect", "ray", "torch", "mlflow", "datatrove", "trafilatura", "fasttext-wheel", "fastapi", "numpy")


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

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


def _models(_: Store) -> list[Finding]:
    findings = {}
    for make in CURATION_RECIPES.values():
        recipe = make()
        for rule in (recipe.url_filter, recipe.language, *recipe.quality_rules, *recipe.toxicity_rules):
            for file in rule.files():
                ok = file.is_file()
                detail = (
                    f"{file.name}, {file.stat().st_size:,} bytes, sha256 {file_sha256(file)[:16]}" if ok else str(file)
                )
                findings[file] = Finding("model or list", ok, detail if ok else f"{detail} is missing: install again")
    return list(findings.values())


def _storage(store: Store) -> list[Finding]:
    free = shutil.disk_usage(store.root).free
    detail = f"{store.root}, {free / 2**30:.1f} GiB free"
    return [Finding("store", free >= _MIN_FREE_BYTES, detail if free >= _MIN_FREE_BYTES else f"{detail}: free 2 GiB")]


def _remote(store: Store) -> list[Finding]:
    if not store.remote:
        return [Finding("remote store", True, "none (TOKENMILL_REMOTE is not set)")]
    store.check_remote()
    return [Finding("remote store", True, f"{redacted(store.remote)} can be listed")]


def _ray(_: Store) -> list[Finding]:
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return [Finding("ray", True, f"a local cluster is started for each run, {os.cpu_count()} CPUs")]
    try:
        check_reachable(address)
    except ClusterError as error:
        return [Finding("ray", False, str(error))]
    return [Finding("ray", True, f"answers at {address}")]


def _device(_: Store) -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        return [Finding("device", True, torch.cuda.get_device_name(0))]
    return [Finding("device", True, f"CPU, {torch.get_num_threads()} threads (no GPU found)")]


def _servers(store: Store) -> list[Finding]:
    served = served_addresses(store)
    where = f"served at {served['prefect']} and {served['mlflow']}" if served else "not served now: `tokenmill up`"
    return [Finding("prefect, mlflow", True, where), Finding("history", True, mlflow_uri(store))]


_LOOKS: dict[str, Callable[[Store], list[Finding]]] = {
    "python": _python,
    "libraries": _libraries,
    "models": _models,
    "store": _storage,
    "remote store": _remote,
    "ray": _ray,
    "device": _device,
    "servers": _servers,
}
