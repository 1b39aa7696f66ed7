"""Memory of a process, against a block of known size."""

import subprocess
import sys

import torch

from tasks.memory_use import memory_use

PROGRAM = """
import mmap, psutil, torch
from tasks.memory_use import memory_use
resident = psutil.Process().memory_info().rss  # less than at most, while it was starting
block = mmap.mmap(-1, 256 * 2**20)  # from the system: an allocator may have as much at hand
block[:] = b"1" * len(block)
during = memory_use(torch.device("cpu"))
block.close()
after = memory_use(torch.device("cpu"))
print(during.peak_rss_bytes - resident, after.peak_rss_bytes - during.peak_rss_bytes)
"""


def test_a_block_is_seen_and_its_peak_stays():
    """In a process of its own, whose peak nothing has raised before."""
    printed = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    grown, later = map(int, printed.split())
    assert grown > 0.9 * 256 * 2**20
    assert later >= 0


def test_on_a_cpu_the_process_decides():
    use = memory_use(torch.device("cpu"))
    assert use.device_peak_bytes is None and use.peak_bytes == use.peak_rss_bytes
