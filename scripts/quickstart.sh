#!/usr/bin/env bash
# Align a text model, an image model, and models that read pictures and clips from preference data on this
# machine, and show what changed.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
# threads that wait asleep: spinning ones make a run several times slower where another program holds a core
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
rm -rf runs/quickstart
for modality in text image vlm video; do
    echo "== $modality"
    "$PYTHON" -m mmalign train "configs/quickstart/$modality.yaml"
    "$PYTHON" -m mmalign evaluate "runs/quickstart/$modality"
done
"$PYTHON" scripts/quickstart_table.py runs/quickstart/{text,image,vlm,video}
