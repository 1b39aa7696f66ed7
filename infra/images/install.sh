#!/bin/sh
# Build the wheel from a source folder and install it, with what the stack takes, into a new virtual environment.
# Usage: install.sh SOURCE VENV. PIP_* of the environment say where pip looks.
set -eu
source=$(cd "$1" && pwd) venv=$2 # absolute: pip would take `name[stack]` for a project of the index
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip --disable-pip-version-check install --no-cache-dir \
  --constraint "$source/constraints.txt" "$source[stack]"
