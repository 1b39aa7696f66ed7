"""The environment of every test: set before ray, prefect or mlflow are imported, because each reads it once."""

import os
import secrets
from collections.abc import Iterator

import hypothesis
import pytest

os.environ.update(
    {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
)
hypothesis.settings.register_profile(
    "no test is timed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("no test is timed")
for name in ("RAY_ADDRESS", "PREFECT_API_URL", "MLFLOW_TRACKING_URI", "TOKENMILL_STORE"):
    os.environ.pop(name, None)


@pytest.fixture(scope="module", autouse=True)
def no_address_is_left() -> Iterator[None]:
    """A module that leaves a server's address set sends what others record to another place."""
    yield
    assert not {"RAY_ADDRESS", "PREFECT_API_URL", "MLFLOW_TRACKING_URI", "TOKENMILL_STORE"} & os.environ.keys()
