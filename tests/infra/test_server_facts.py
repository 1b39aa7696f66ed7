"""Databases as real servers make them, and as older and newer programs would have left them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from infra.server_facts import _revisions, schema_problem
from infra.settings import environment, mlflow_uri
from infra.tracking_client import client
from tasks.store import Store


def database(path: Path, *revisions: str) -> str:
    """A database that was last brought up to date by these; its address."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.executemany("INSERT INTO alembic_version VALUES (?)", [(each,) for each in revisions])
    connection.close()
    return f"sqlite:///{path}"


@pytest.mark.parametrize(
    ("program", "dialect"), [("prefect", "sqlite"), ("prefect", "postgresql"), ("mlflow", "sqlite")]
)
def test_the_installed_programs_know_one_newest_layout(program: str, dialect: str) -> None:
    known, newest = _revisions(program, dialect)
    assert len(newest) == 1 and newest < known and len(known) > 40


def test_a_database_that_mlflow_has_made_is_in_order(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    environment(store)
    client(store).search_experiments()
    assert schema_problem("mlflow", mlflow_uri(store)) == ""


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert schema_problem("mlflow", f"sqlite:///{tmp_path}/mlflow.db") == ""
    assert schema_problem("prefect", f"sqlite+aiosqlite:///{tmp_path}/prefect.db") == ""
    assert not list(tmp_path.iterdir())


def test_an_older_layout_is_a_problem_for_mlflow_alone(tmp_path: Path) -> None:
    for program in ("mlflow", "prefect"):
        known, newest = _revisions(program, "sqlite")
        older = database(tmp_path / f"{program}-older.db", min(known - newest))
        problem = schema_problem(program, older)  # type: ignore[arg-type]
        assert (problem == "") == (program == "prefect")  # which brings it up to date when it starts
        assert program == "prefect" or ("older mlflow" in problem and "mlflow db upgrade" in problem)
        assert schema_problem(program, database(tmp_path / f"{program}.db", *newest)) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize("program", ["mlflow", "prefect"])
def test_a_layout_that_is_not_known_is_a_newer_programs(program: str, tmp_path: Path) -> None:
    address = database(tmp_path / "a.db", "ffffffffffff").replace("sqlite:", "sqlite+aiosqlite:")
    assert f"changed by a newer {program}" in schema_problem(program, address)  # type: ignore[arg-type]


def test_what_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(ValueError, match=r"mlflow's database .*a\.db cannot be read"):
        schema_problem("mlflow", f"sqlite:///{tmp_path}/a.db")
