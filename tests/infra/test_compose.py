"""docker-compose.yml without an engine: what is published, what is pinned, and that all it names is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
RAY_PORTS = {"6379", "8265", "10001"}
each_service = pytest.mark.parametrize("name", sorted(SERVICES))


def test_services_are_those_of_the_local_stack_and_ray() -> None:
    assert set(SERVICES) == {"prefect", "mlflow", "ray", "deployments"}


def test_only_the_two_pages_are_published_and_on_loopback() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert sorted(published) == ["127.0.0.1:4200:4200", "127.0.0.1:5000:5000"]
    assert not RAY_PORTS & {port.split(":")[1] for port in published}


@each_service
def test_no_service_shares_the_hosts_network_or_asks_for_rights(name: str) -> None:
    service = SERVICES[name]
    assert not {"network_mode", "privileged", "cap_add", "pid", "ipc"} & set(service)
    assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]


@each_service
def test_image_is_pinned_and_built_from_a_file_that_is_there(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"tokenmill:\d+\.\d+\.\d+", service["image"])
    context = ROOT / service["build"]["context"]
    assert (context / service["build"]["dockerfile"]).is_file()


@each_service
def test_store_is_the_named_volume(name: str) -> None:
    assert SERVICES[name]["volumes"] == ["store:/store"]
    assert set(COMPOSE["volumes"]) == {"store"}
    assert SERVICES[name]["environment"]["TOKENMILL_STORE"] == "/store"


@pytest.mark.parametrize("name", ["prefect", "mlflow", "ray"])
def test_what_others_wait_for_has_a_health_check(name: str) -> None:
    assert SERVICES["deployments"]["depends_on"][name] == {"condition": "service_healthy"}
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


def test_addresses_in_the_environment_name_services_and_their_ports() -> None:
    environment = SERVICES["deployments"]["environment"]
    assert environment["PREFECT_API_URL"] == "http://prefect:4200/api"
    assert environment["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert environment["RAY_ADDRESS"] == "ray:6379"
    assert "4200" in SERVICES["prefect"]["command"] and "--port=5000" in SERVICES["mlflow"]["command"]
    assert "--port=6379" in SERVICES["ray"]["command"]


def test_mlflow_answers_to_its_service_name_the_browser_and_its_own_check() -> None:
    (allowed,) = [word for word in SERVICES["mlflow"]["command"] if word.startswith("--allowed-hosts=")]
    assert {"mlflow:5000", "127.0.0.1:5000", "localhost:5000"} == set(allowed.partition("=")[2].split(","))


def test_the_only_variable_asked_for_is_rays_token_and_it_has_no_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert set(re.findall(r"\$\{([^}]*)\}", text)) == {"RAY_AUTH_TOKEN:?set it to a long random string"}
    for name in ("ray", "deployments"):
        assert SERVICES[name]["environment"]["RAY_AUTH_MODE"] == "token"


def test_image_copies_what_is_there_and_runs_without_root() -> None:
    lines = (ROOT / "infra/images/Dockerfile").read_text().splitlines()
    assert any(re.fullmatch(r"FROM python:3\.1[12]\.\d+-slim-\w+", line) for line in lines)
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert {"pyproject.toml", "README.md", "constraints.txt", "flows", "tasks", "model", "infra"} == set(copied)
    for name in copied:
        assert (ROOT / name).exists()
    assert [line for line in lines if line.startswith("USER")] == ["USER tokenmill"]
    assert lines.index("USER tokenmill") > max(index for index, line in enumerate(lines) if line.startswith("RUN"))
    assert any("--constraint constraints.txt" in line for line in lines)
