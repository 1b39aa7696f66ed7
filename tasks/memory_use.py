"""How much memory a process has had at most, for the metrics of a run."""

from __future__ import annotations

import resource
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Of this process, and of its GPU."""

    peak_rss_bytes: int  # the most that was ever resident
    device_peak_bytes: int | None  # the most that torch held on the GPU since the last reset; None on a CPU

    @property
    def peak_bytes(self) -> int:
        """The figure that decides whether a run fits: the GPU's where there is one."""
        return self.peak_rss_bytes if self.device_peak_bytes is None else self.device_peak_bytes


def memory_use(device: torch.device) -> MemoryUse:
    """Costs some microseconds on a CPU, and waits for nothing on a GPU."""
    return MemoryUse(
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # Linux counts in KiB
        device_peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )
