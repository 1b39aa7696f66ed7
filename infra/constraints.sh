#!/usr/bin/env bash
# Print the exact versions installed, as constraints: no index address, no build label, not this project itself.
# Usage: infra/constraints.sh PYTHON > constraints.txt
set -euo pipefail
echo "# The pinned set, written by \`make constraints\`. Do not edit by hand."
"$1" -m pip --disable-pip-version-check freeze --exclude-editable |
  grep -E '^[A-Za-z0-9._-]+==' |
  grep -vP '^(tokenmill|nvidia-(?!ml-py)|cuda-|triton==|cuda)' |
  sed -E 's/\+[A-Za-z0-9.]+$//' |
  LC_ALL=C sort -f
