#!/usr/bin/env bash
# The long proofs, one part for each test file. A part that passed on this very tree is not run again; a skip is a failure.
# Usage: tests/verify.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
tree=$({ git rev-parse HEAD; git diff HEAD; } | sha256sum | cut -c1-16)
mkdir -p ".verify/$tree"
for part in $(grep -rlE 'mark\.verify' tests --include='test_*.py' | sort); do
  done=".verify/$tree/${part//\//.}"
  if [ -e "$done" ]; then
    echo "== $part: passed before on this tree"
    continue
  fi
  echo "== $part"
  timeout 1800 "$1" -m pytest -m verify --timeout 1700 "$part" | tee "$done.log"
  if tail -1 "$done.log" | grep -q skipped; then
    echo "$part skipped something: the proof is not complete" >&2
    exit 1
  fi
  touch "$done"
done
echo "every part passed"
