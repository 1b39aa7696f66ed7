"""Which version Prefect's and MLflow's servers have, and whether a database has a layout that they can work with.

Both keep their tables' layout as a chain of Alembic's revisions: a database names the last one that was applied to it,
an installation has the scripts of all that it knows. Prefect brings an older database up to date by itself when it
starts, MLflow refuses one. Neither can do with one that a newer program has changed.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import requests
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from tasks.address import explained, redacted

_TIMEOUT_S = 5.0
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_SCRIPTS = {"prefect": "server/database/_migrations/versions/{dialect}", "mlflow": "store/db_migrations/versions"}
_REVISION = re.compile(r"^revision(?:: *str)? *= *[\"'](\w+)", re.MULTILINE)
_BEFORE = re.compile(r"^down_revision(?::[^=]*)? *= *(.*)", re.MULTILINE)
_NAME = re.compile(r"[\"'](\w+)[\"']")


def prefect_version(api: str) -> str:
    """The version of the server at `api` (`http://host:4200/api`). Raises ValueError where it does not answer."""
    session = requests.Session()
    session.trust_env = urlsplit(api).hostname not in _LOOPBACK  # a proxy knows nothing of this machine's own ports
    if secret := os.environ.get("PREFECT_API_AUTH_STRING"):
        session.auth = tuple(secret.split(":", 1))  # type: ignore[assignment]
    if key := os.environ.get("PREFECT_API_KEY"):
        session.headers["Authorization"] = f"Bearer {key}"
    try:
        answer = session.get(f"{api.rstrip('/')}/admin/version", timeout=_TIMEOUT_S)
        answer.raise_for_status()
        return str(answer.json())
    except (requests.RequestException, ValueError) as error:
        raise ValueError(
            f"no Prefect server answers at {redacted(api)} ({explained(error)}): start it, or unset PREFECT_API_URL"
        ) from error


def mlflow_version(address: str) -> str:
    """The version of the server at `address`, asked with the credentials of the environment. Raises ValueError where
    it does not answer."""
    try:
        answer = http_request(  # type: ignore[no-untyped-call]
            get_default_host_creds(address),  # type: ignore[no-untyped-call]
            "/version",
            "GET",
            max_retries=0,
            timeout=_TIMEOUT_S,
        )
        answer.raise_for_status()
    except (requests.RequestException, MlflowException) as error:
        raise ValueError(
            f"no MLflow server answers at {redacted(address)} ({explained(error)}): start it, or unset"
            " MLFLOW_TRACKING_URI"
        ) from error
    return str(answer.text).strip()


def schema_problem(program: Literal["prefect", "mlflow"], address: str) -> str:
    """Why `program`, as it is installed here, could not work with the database at `address`; empty: it can.

    A SQLite database that is not there is made by the first run. Raises ValueError where a database does not answer.
    """
    url = make_url(address)
    if url.get_backend_name() == "sqlite" and not (url.database and Path(url.database).is_file()):
        return ""
    url = url.set(drivername=url.get_backend_name())  # without Prefect's asynchronous driver
    shown = url.render_as_string(hide_password=True)
    try:
        engine = create_engine(url, poolclass=NullPool)
        with engine.connect() as connection:
            applied = set(connection.execute(text("SELECT version_num FROM alembic_version")).scalars())
    except SQLAlchemyError as error:
        raise ValueError(f"{program}'s database {shown} cannot be read: {explained(error)}") from error
    known, newest = _revisions(program, url.get_backend_name())
    if not applied <= known:
        return f"{shown} was changed by a newer {program} than is installed here: install that, or choose another store"
    if program == "mlflow" and applied != newest:
        return f"{shown} was made by an older mlflow: copy it, and run `mlflow db upgrade` with its address"
    return ""


def _revisions(program: str, dialect: str) -> tuple[set[str], set[str]]:
    """All revisions that the installed program knows, and the newest, which none comes after."""
    spec = importlib.util.find_spec(program)
    assert spec is not None and spec.submodule_search_locations is not None, "a dependency of this project"
    folder = Path(spec.submodule_search_locations[0]) / _SCRIPTS[program].format(dialect=dialect)
    known: set[str] = set()
    followed: set[str] = set()
    for script in folder.glob("*.py"):
        source = script.read_text(encoding="utf-8")
        if (revision := _REVISION.search(source)) and (before := _BEFORE.search(source)):
            known.add(revision[1])
            followed.update(_NAME.findall(before[1]))
    assert known, f"{program} has its scripts elsewhere than in {folder}"
    return known, known - followed
