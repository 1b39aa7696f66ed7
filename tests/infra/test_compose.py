"""docker-compose.yml without an engine: something knows every name in it, and nothing is open that need not be.

That the services work together is what tests/integration/test_topology.py shows.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.settings import environment
from tasks.store import Store

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
BIN = Path(sys.executable).parent
OURS = {name for name, service in SERVICES.items() if service["image"].startswith("tokenmill:")}
DCLINT = "dclint@3.1.0"
each_service = pytest.mark.parametrize("name", list(SERVICES))
VARIABLES = {
    (service, variable): value
    for service, definition in SERVICES.items()
    for variable, value in definition.get("environment", {}).items()
}
# Files that a program reads by itself; any other NAME_FILE is the secret NAME for entry.sh or for a script of ours.
FILES_OF_THE_PROGRAMS = {"AWS_SHARED_CREDENTIALS_FILE"}


# schema and linter


def test_file_follows_the_compose_specification() -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yml"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.verify
def test_linter_finds_nothing() -> None:
    npx = shutil.which("npx")
    if npx is None:
        pytest.skip("npx is not installed")
    command = [npx, "--yes", DCLINT, "--config", ".dclintrc.yaml", "--max-warnings", "0", "docker-compose.yml"]
    linted = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr


# what is open


def test_only_the_two_pages_are_published_and_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"prefect": ["127.0.0.1:4200:4200"], "mlflow": ["127.0.0.1:5000:5000"]}


@each_service
def test_service_has_no_rights_beyond_its_own(name: str) -> None:
    service = SERVICES[name]
    assert not {"network_mode", "privileged", "cap_add", "pid", "ipc", "devices", "env_file"} & set(service)
    assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert name in OURS or service["user"] not in {"root", "0", "0:0"}  # ours: USER of the Dockerfile


def test_stores_of_the_servers_are_on_a_network_without_a_way_out() -> None:
    assert COMPOSE["networks"]["data"] == {"internal": True}
    for name in ("postgres", "redis", "s3"):
        assert SERVICES[name]["networks"] == ["data"]


@each_service
def test_image_is_pinned_to_a_patch(name: str) -> None:
    image = SERVICES[name]["image"]
    assert re.fullmatch(r"[a-z/]+:\d+\.\d+(\.\d+)?(-[a-z]+)?", image)
    if name in OURS:
        build = SERVICES[name]["build"]
        assert (ROOT / build["context"] / build["dockerfile"]).is_file()
    else:
        assert "build" not in SERVICES[name]


def test_one_image_of_the_projects_version() -> None:
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert {SERVICES[name]["image"] for name in OURS} == {f"tokenmill:{version}"}


# secrets


def test_secrets_are_files_that_the_script_makes_and_git_does_not_see(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    subprocess.run([ROOT / "infra/images/secrets.sh", folder], check=True, capture_output=True)
    assert {secret["file"] for secret in COMPOSE["secrets"].values()} == {
        f"secrets/{file.name}" for file in folder.iterdir() if file.name != ".gitignore"
    }
    assert all(secret["file"] == f"secrets/{name}" for name, secret in COMPOSE["secrets"].items())
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    untracked = subprocess.run(["git", "status", "--short"], cwd=tmp_path, check=True, capture_output=True)
    assert untracked.stdout == b""


@pytest.mark.parametrize(("service", "variable"), VARIABLES)
def test_secret_is_named_by_its_file(service: str, variable: str) -> None:
    """No secret stands in the file or in the environment of a container, which `docker inspect` shows."""
    value = VARIABLES[service, variable]
    if re.search(r"PASSWORD|SECRET|TOKEN(?!IZERS|MILL)|AUTH_STRING|CREDENTIALS|REDIS.*URL|DOCKET_URL", variable):
        assert variable.endswith(("_FILE", "_TOKEN_PATH")), variable
    if value.startswith("/run/secrets/"):
        assert value.removeprefix("/run/secrets/") in SERVICES[service]["secrets"]


@each_service
def test_service_gets_the_secrets_that_it_uses_and_no_other(name: str) -> None:
    scripts = [ROOT / COMPOSE["configs"][config["source"]]["file"] for config in SERVICES[name].get("configs", [])]
    used = yaml.safe_dump(SERVICES[name]) + "".join(script.read_text() for script in scripts)
    given = set(SERVICES[name].get("secrets", []))
    assert {secret for secret in given if f"/run/secrets/{secret}" in used} == given


def test_variables_of_the_shell_have_defaults() -> None:
    asked = re.findall(r"\$\{([^}]*)\}", TEXT)
    assert asked and all(re.fullmatch(r"TOKENMILL_\w+:-\d+", variable) for variable in asked)


# references


@pytest.mark.parametrize("kind", ["secrets", "configs", "networks", "volumes"])
def test_what_is_defined_is_used_and_what_is_used_is_defined(kind: str) -> None:
    used: set[str] = set()
    for service in SERVICES.values():
        for reference in service.get(kind, []):
            name = reference["source"] if isinstance(reference, dict) else reference
            used.add(name.partition(":")[0] if kind == "volumes" else name)
    assert used == set(COMPOSE[kind])


def test_every_service_has_the_network_of_what_it_waits_for() -> None:
    for service in SERVICES.values():
        for dependency in service.get("depends_on", {}):
            if SERVICES[dependency]["restart"] != "no":
                assert set(service["networks"]) & set(SERVICES[dependency]["networks"])


def test_files_of_configs_are_there() -> None:
    for config in COMPOSE["configs"].values():
        assert (ROOT / config["file"]).is_file()


@each_service
def test_terms_of_a_dependency_can_be_met(name: str) -> None:
    for dependency, terms in SERVICES[name].get("depends_on", {}).items():
        if terms["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[dependency]
        else:
            assert terms["condition"] == "service_completed_successfully"
            assert SERVICES[dependency]["restart"] == "no"
        assert "profiles" not in SERVICES[dependency]


@each_service
def test_hosts_and_ports_in_addresses_are_those_of_services(name: str) -> None:
    listening = {"prefect": "4200", "mlflow": "5000", "postgres": "5432", "redis": "6379", "ray": "6379", "s3": "8333"}
    words = [*SERVICES[name]["command"], *SERVICES[name].get("environment", {}).values()] if name in OURS else []
    for host, port in re.findall(r"(?:^|[/=,@])([a-z0-9-]+):(\d{4})\b", "\n".join(words), re.MULTILINE):
        assert host == "localhost" or listening[host] == port
    for service, port in listening.items():
        definition = SERVICES[service]
        said = yaml.safe_dump([definition.get("command"), definition["healthcheck"]["test"]])
        assert port in said or service in {"prefect", "mlflow"}


def test_files_of_the_image_are_put_there_by_its_build() -> None:
    used = set(re.findall(r"/opt/tokenmill/([\w.]+)", TEXT))
    dockerfile = (ROOT / "infra/images/Dockerfile").read_text()
    assert used == set(re.findall(r"infra/images/([\w.]+)", "".join(re.findall(r"cp infra.*", dockerfile))))


# names of settings


@functools.cache
def _prefect_settings() -> set[str]:
    from prefect.settings import Settings, legacy
    from prefect_redis.client import RedisMessagingSettings

    redis = {f"PREFECT_REDIS_MESSAGING_{field.upper()}" for field in RedisMessagingSettings.model_fields}
    return set(legacy._get_settings_fields(Settings)) | redis


@functools.cache
def _mlflow_settings() -> set[str]:
    import mlflow.cli
    from mlflow import environment_variables

    options = mlflow.cli.cli.commands["server"].params
    known = {getattr(value, "name", "") for value in vars(environment_variables).values()}
    return known | {str(option.envvar) for option in options}


def _is_in_the_source_of(package: str, name: str) -> bool:
    folder = Path(next(iter(__import__(package).__path__)))
    found = subprocess.run(
        ["grep", "--recursive", "--files-with-matches", "--max-count=1", "--include=*.py", name, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    return bool(found.stdout)


def _is_in_our_sources(name: str) -> bool:
    files = [
        file for folder in ("infra", "flows") for file in (ROOT / folder).rglob("*.*") if file.suffix in {".py", ".sh"}
    ]
    return any(name in file.read_text() for file in files)


# of the images: PostgreSQL's own, SeaweedFS's `weed mini`
OF_THE_IMAGES = {"POSTGRES_USER", "POSTGRES_PASSWORD_FILE", "POSTGRES_INITDB_ARGS", "S3_BUCKET"}
OF_LIBPQ = {"PGHOST", "PGPORT", "PGPASSWORD"}  # libpq's environment variables
OF_LIBRARIES = {
    "TQDM_DISABLE": ("tqdm", '@envwrap("tqdm"'),  # the name's rest is an argument of its bar
    "HF_HUB_OFFLINE": ("huggingface_hub", "HF_HUB_OFFLINE"),
    "DO_NOT_TRACK": ("mlflow", "DO_NOT_TRACK"),
    "TOKENIZERS_PARALLELISM": ("transformers", "TOKENIZERS_PARALLELISM"),  # read by tokenizers' compiled part
}


@pytest.mark.parametrize("variable", sorted({variable for _, variable in VARIABLES}))
def test_variable_is_one_that_somebody_reads(variable: str) -> None:
    if variable in OF_THE_IMAGES | FILES_OF_THE_PROGRAMS:
        return
    name = variable.removesuffix("_FILE")
    if name.startswith("PREFECT_"):
        assert name in _prefect_settings()
    elif name.startswith("MLFLOW_"):
        assert name in _mlflow_settings()
    elif name.startswith("RAY_"):
        assert _is_in_the_source_of("ray", name)
    elif name.startswith("AWS_"):
        assert _is_in_the_source_of("botocore", name)
    elif name.startswith(("TOKENMILL_", "POSTGRES_", "REDIS_")):
        assert _is_in_our_sources(name)
    else:
        assert name in OF_LIBPQ or _is_in_the_source_of(*OF_LIBRARIES[name])


def test_flows_have_the_environment_that_the_command_line_gives_them(tmp_path: Path, monkeypatch: Any) -> None:
    """What infra/settings.py sets for a driver on this machine is set for the worker, as far as it is not local."""
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    local = {
        *("RAY_AUTH_TOKEN", "PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"),
        *("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT"),
        *("PREFECT_LOGGING_SERVER_LEVEL", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"),
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE",  # of the servers, which keep the leases in Redis here
    }
    wanted = environment(Store.open(tmp_path / "store"))
    given = SERVICES["worker"]["environment"]
    assert set(wanted) - local <= set(given)
    places = {"TOKENMILL_STORE", "TOKENMILL_REMOTE", "PREFECT_HOME"}
    assert {name: given[name] for name in set(wanted) - local - places} == {
        name: wanted[name] for name in set(wanted) - local - places
    }


# commands


@functools.cache
def _help(command: tuple[str, ...]) -> str:
    program = [str(BIN / command[0]), *command[1:], "--help"]
    shown = subprocess.run(
        program, capture_output=True, text=True, check=True, env={"PATH": str(BIN), "COLUMNS": "300"}
    )
    return re.sub(r"\s*│\n│\s{20,}", "", shown.stdout)  # a long name goes on in the next line of Prefect's table


def _command_lines() -> list[tuple[str, list[str]]]:
    lines = [(name, SERVICES[name]["command"]) for name in sorted(OURS) if name != "worker"]
    script = (ROOT / "infra/images/worker.sh").read_text()
    started = re.findall(r"^((?:ray|prefect) .*) &$", script, re.MULTILINE)
    assert len(started) == 2
    return lines + [("worker", line.split()) for line in started]


@pytest.mark.parametrize(("name", "words"), _command_lines())
def test_options_of_a_command_exist(name: str, words: list[str]) -> None:
    programs = [word for word in words if word.startswith("-P") or not word.startswith("-")]
    depth = next(index for index, word in enumerate([*words, "-"]) if word.startswith("-"))
    if words[0] == "python":
        programs, options = words[:4], words[4:]
    else:
        programs, options = words[:depth], words[depth:]
    known = _help(tuple(programs))
    for option in (word.partition("=")[0] for word in options if word.startswith("--")):
        assert re.search(rf"{re.escape(option)}\b", known), f"{name}: {' '.join(programs)} has no {option}"


def test_mlflow_answers_to_its_service_name_and_the_browser() -> None:
    (allowed,) = [word for word in SERVICES["mlflow"]["command"] if word.startswith("--allowed-hosts=")]
    assert set(allowed.partition("=")[2].split(",")) == {"mlflow:5000", "127.0.0.1:5000", "localhost:5000"}


@pytest.mark.parametrize("name", ["prefect", "mlflow", "worker"])
def test_health_check_has_the_clients_secrets(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"] == [
        *("CMD", "/opt/tokenmill/entry.sh", "python", "/opt/tokenmill/health.py", name)
    ]
