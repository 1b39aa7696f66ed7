"""The device that a training process would have on this machine: its kind, its name, its memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of version 2 and 1, as a container sees its own."""


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """One device; of a CPU, all cores that this process may use."""

    type: Literal["cpu", "cuda"]
    name: str
    count: int  # GPUs of this machine; 1 for a CPU
    cores: int
    memory_bytes: int  # of one device


def device_facts(device: str) -> DeviceFacts:
    """Of "auto", "cpu" or "cuda"; auto takes the GPU where there is one. ValueError for a GPU where there is none."""
    cores = len(os.sched_getaffinity(0))
    found_gpu = torch.cuda.is_available()
    if device.startswith("cuda") and not found_gpu:
        raise ValueError(f"device {device!r} was asked for and torch finds no GPU: use auto or cpu")
    if device == "cpu" or not found_gpu:
        return DeviceFacts("cpu", f"{cores} CPU core{'s' if cores > 1 else ''}", 1, cores, main_memory_bytes())
    properties = torch.cuda.get_device_properties(0)
    return DeviceFacts("cuda", properties.name, torch.cuda.device_count(), cores, properties.total_memory)


def main_memory_bytes() -> int:
    """Of this machine or, where it is less, what its container may use."""
    limits = [int(text) for file in CGROUP_LIMITS if file.is_file() and (text := file.read_text().strip()).isdecimal()]
    return min([int(psutil.virtual_memory().total), *limits])
