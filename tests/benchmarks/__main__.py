"""`make bench`: every benchmark of this folder in turn; each measures ours and the reference in one run."""

import runpy
from pathlib import Path

for path in sorted(Path(__file__).parent.glob("bench_*.py")):
    print(f"== {path.stem.removeprefix('bench_')}", flush=True)
    runpy.run_path(str(path), run_name="__main__")
