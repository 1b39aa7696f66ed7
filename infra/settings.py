"""Where things are, for every program we start: environment variables derived from the store, and nothing else.

Set before prefect, ray or mlflow are imported, because each reads its environment once.

TOKENMILL_STORE   the store's folder
TOKENMILL_REMOTE  where published corpora and token shards go as well, such as s3://bucket/prefix; empty: nowhere
TOKENMILL_COMMONCRAWL, TOKENMILL_COMMONCRAWL_INDEX  Common Crawl's files (s3://commoncrawl on Amazon's machines, or a
    mirror) and its list of crawls; empty: its own web servers
S3 is found as by any AWS client: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION, or a
profile. s3fs honours FSSPEC_S3_ENDPOINT_URL as well, and prefers it, but MLflow's client does not know that one.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from pathlib import Path
from urllib.parse import urlsplit

from tasks.source_names import PUBLIC_CRAWLS, CrawlAddresses
from tasks.store import Store

STORE_VARIABLE, REMOTE_VARIABLE = "TOKENMILL_STORE", "TOKENMILL_REMOTE"
CRAWLS_VARIABLE, CRAWLS_INDEX_VARIABLE = "TOKENMILL_COMMONCRAWL", "TOKENMILL_COMMONCRAWL_INDEX"
DEFAULT_STORE = "store"


def default_store() -> str:
    """`$TOKENMILL_STORE`, else `./store`."""
    return os.environ.get(STORE_VARIABLE) or DEFAULT_STORE


def prefect_database(store: Store) -> str:
    return f"sqlite+aiosqlite:///{store.root / 'prefect' / 'prefect.db'}"


def mlflow_uri(store: Store) -> str:
    """The tracking server named by the environment, else the store's own database."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.root / 'mlflow' / 'mlflow.db'}"


def has_history(store: Store) -> bool:
    """Whether there is a server to ask, or a database, which asking it would make."""
    file = mlflow_uri(store).removeprefix("sqlite:///")
    return "://" in file or Path(file).is_file()


def mlflow_artifacts(store: Store) -> Path:
    return store.root / "mlflow" / "artifacts"


UP_FILE = "up.json"
_DEFAULT_ADDRESSES = {"prefect": "http://127.0.0.1:4200", "mlflow": "http://127.0.0.1:5000"}


def _answers(address: str) -> bool:
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=1):
            return True
    except OSError:
        return False


def served_addresses(store: Store) -> dict[str, str]:
    """Where `tokenmill up` serves this store's two pages, if it does now.

    A file that a killed `up` left behind is told by the lock that nobody holds: its ports may be another store's now.
    """
    if not store.is_locked("up"):
        return {}
    try:
        addresses: dict[str, str] = json.loads((store.root / UP_FILE).read_bytes())
    except FileNotFoundError:  # it is just starting, or ending
        return {}
    return addresses if all(_answers(addresses[name]) for name in _DEFAULT_ADDRESSES) else {}


def prefect_ui(store: Store) -> str:
    """Address of Prefect's page: where it is served now, else where `tokenmill up` will serve it."""
    if page := os.environ.get("PREFECT_UI_URL"):
        return page.rstrip("/")
    if api := os.environ.get("PREFECT_API_URL"):
        return api.removesuffix("/").removesuffix("/api")
    return served_addresses(store).get("prefect", _DEFAULT_ADDRESSES["prefect"])


def mlflow_ui(store: Store) -> str:
    """Address of MLflow's page: where it is served now, else where `tokenmill up` will serve it.

    `TOKENMILL_MLFLOW_UI_URL` is the address as a browser sees it, where programs reach the server by another name.
    """
    if page := os.environ.get("TOKENMILL_MLFLOW_UI_URL"):
        return page.rstrip("/")
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    if tracking.startswith("http"):
        return tracking.rstrip("/")
    return served_addresses(store).get("mlflow", _DEFAULT_ADDRESSES["mlflow"])


def ray_token(store: Store) -> str:
    """A secret for the local Ray cluster, whose ports can't be kept to the loopback interface."""
    path = store.root / "ray-token"
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    return path.read_text()


def environment(store: Store) -> dict[str, str]:
    """Variables for this process and its children. What the user has set in the environment stays."""
    for folder in ("prefect", "mlflow/artifacts", "empty"):
        (store.root / folder).mkdir(parents=True, exist_ok=True)
    values = {
        STORE_VARIABLE: str(store.root),
        "DO_NOT_TRACK": "true",
        "PREFECT_HOME": str(store.root / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",  # the manifest is the only cache
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the command line shows progress of its own
        "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds; the heartbeat automation waits for three
        # the training slot's holder is known to a server that was started again
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output is for results
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_TRAIN_V2_ENABLED": "1",
        "HF_HUB_OFFLINE": "1",  # a run never downloads on its own
        "TOKENIZERS_PARALLELISM": "false",  # one core for each worker
    }
    served = served_addresses(store)
    if served:  # one writer for Prefect's database: the server that is already there
        values["PREFECT_API_URL"] = f"{served['prefect']}/api"
    elif not os.environ.get("PREFECT_API_URL"):
        values["PREFECT_API_DATABASE_CONNECTION_URL"] = prefect_database(store)
        values["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "true"
    if not os.environ.get("RAY_ADDRESS"):
        values["RAY_AUTH_MODE"] = "token"
        values["RAY_AUTH_TOKEN"] = ray_token(store)
    return {name: os.environ.get(name, value) for name, value in values.items()} | {STORE_VARIABLE: str(store.root)}


def enter(store: Store) -> None:
    """Make this process a driver of `store`: its environment, and an empty working directory.

    Ray's workers put the driver's working directory on their import path; another project's `tasks/` or `model.py` in
    the folder the user happens to be in must not be picked up.
    """
    os.environ.update(environment(store))
    os.chdir(store.root / "empty")


def open_store(path: str = "") -> Store:
    """The store at `path`, else `$TOKENMILL_STORE`, else `./store`; its remote is `$TOKENMILL_REMOTE`.

    Raises ValueError where the folder can't be used or the remote's address can't be one.
    """
    crawls = CrawlAddresses(
        data=os.environ.get(CRAWLS_VARIABLE) or PUBLIC_CRAWLS.data,
        index=os.environ.get(CRAWLS_INDEX_VARIABLE) or PUBLIC_CRAWLS.index,
    )
    return Store.open(path or default_store(), remote=os.environ.get(REMOTE_VARIABLE, ""), crawls=crawls)


def current_store() -> Store:
    """The store of this process, by its environment."""
    return open_store()
