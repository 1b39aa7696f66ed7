"""What a device has is told by the machine, or by its container."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

import tasks.device_facts
from tasks.device_facts import device_facts, main_memory_bytes


def test_a_cpu() -> None:
    facts = device_facts("cpu")
    assert (facts.type, facts.count) == ("cpu", 1) and facts.cores >= 1
    assert facts.name.startswith(f"{facts.cores} CPU core")
    assert 0 < facts.memory_bytes <= psutil.virtual_memory().total


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_there_is_not_is_refused() -> None:
    assert device_facts("auto").type == "cpu"
    with pytest.raises(ValueError, match="finds no GPU"):
        device_facts("cuda")


@pytest.mark.parametrize(("limit", "expected"), [("1000000", 1_000_000), ("max", None), ("9" * 19, None)])
def test_a_container_may_have_less(
    limit: str, expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    monkeypatch.setattr(tasks.device_facts, "CGROUP_LIMITS", (tmp_path / "memory.max", tmp_path / "none"))
    assert main_memory_bytes() == (expected or psutil.virtual_memory().total)
