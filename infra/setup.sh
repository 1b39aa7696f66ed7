#!/usr/bin/env bash
# Create a virtual environment and install the pinned set. Usage: infra/setup.sh PYTHON VENV cpu|cuda
set -euo pipefail
python=$1 venv=$2 torch=$3

"$python" - <<'EOF'
import sys
if not (3, 11) <= sys.version_info[:2] <= (3, 12):
    sys.exit(f"Tokenmill needs Python 3.11 or 3.12, this is {sys.version.split()[0]}: make setup PYTHON=python3.12")
EOF
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip="$venv/bin/python -m pip --disable-pip-version-check"
echo "installing into $venv (some minutes the first time)" >&2

if [ "$torch" = cpu ] && ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
  # The CPU build is the same version with a local label; it is taken from wherever pip is set up to look.
  version=$(sed -n 's/^torch==//p' constraints.txt)
  $pip install --quiet --constraint constraints.txt "torch==$version+cpu" 2>/dev/null ||
    echo "no CPU build of torch is offered here: installing the default build, several GB" >&2
fi
$pip install --quiet --constraint constraints.txt --editable '.[dev]'
