"""The table of losses under every layout holds: each within its tolerance of one process's."""

import subprocess
import sys

import pytest

from tests.benchmarks.parallel_losses import LAYOUTS, VARIANTS


@pytest.mark.verify
def test_every_layout_draws_the_curve_of_one_process() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.parallel_losses", "--steps", "10"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    rows = [line for line in run.stdout.splitlines() if any(line.startswith(layout) for layout in LAYOUTS)]
    assert len(rows) == len(LAYOUTS) * len(VARIANTS)


def test_a_layout_outside_its_tolerance_is_said() -> None:
    program = (
        "from tests.benchmarks import parallel_losses as losses; import sys;"
        "losses.TOLERANCES.update(fp32=-1.0);"
        "sys.argv = ['losses', '--steps', '1', '--layouts', losses.ONE_PROCESS, '--variants', 'fp32'];"
        "losses.report = lambda *_: None;"
        "losses.main()"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 1
    assert "outside the tolerance: one process, fp32" in run.stderr
