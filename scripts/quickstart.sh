#!/usr/bin/env bash
# Align a text model and an image model from preference data on this machine, and show what changed.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
rm -rf runs/quickstart
for modality in text image; do
    echo "== $modality"
    "$PYTHON" -m mmalign train "configs/quickstart/$modality.yaml"
    "$PYTHON" -m mmalign evaluate "runs/quickstart/$modality"
done
"$PYTHON" scripts/quickstart_table.py runs/quickstart/text runs/quickstart/image
