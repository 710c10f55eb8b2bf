#!/usr/bin/env bash
# Make the environment if needed, install, then lint, types and tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
"$PYTHON" -m ruff format --check .
"$PYTHON" -m ruff check .
"$PYTHON" -m mypy
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} "$PYTHON" -m pytest -m "not slow and not gpu" -n 2 --dist loadfile --no-loadscope-reorder "$@"
