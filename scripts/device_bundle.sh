#!/usr/bin/env bash
# What a machine with a GPU and no network needs beside this checkout: wheels for its Python, and what to run there.
#
# The machine is taken to have torch, torchvision, transformers, accelerate, peft, safetensors, typer, rich, pytest
# and what they need. What it lacks is collected in .wheels/, which git is told to ignore in this checkout alone.
#
#   scripts/device_bundle.sh                    collect the wheels (here, with a network)
#   PYTHON_VERSION=3.13 scripts/device_bundle.sh
#   scripts/device_bundle.sh test               there: install them and run the tests marked gpu
#   scripts/device_bundle.sh bench [arguments]  there: install them and run scripts/bench/diffusion_gpu.py
#
# There, PYTHON names the interpreter that has torch (python3 unless given), and SITE a folder to install into.
# EXTRA names further packages to collect, such as EXTRA="av" for tests that read clips.
set -euo pipefail
cd "$(dirname "$0")/.."

wheels=.wheels
packages=(diffusers pydantic pydantic_core annotated-types typing-inspection importlib_metadata zipp datasets dill multiprocess)

collect() {
  local version="${PYTHON_VERSION:-3.12}" pins=() platforms=() name
  local here=.venv/bin/python
  [ -x "$here" ] || { echo "$here is missing: run scripts/test.sh once" >&2; exit 1; }
  exclude="$(git rev-parse --git-path info/exclude)"
  mkdir -p "$wheels" "$(dirname "$exclude")"
  grep -qx "/$wheels/" "$exclude" 2> /dev/null || echo "/$wheels/" >> "$exclude"
  rm -f "$wheels"/*.whl
  for name in "${packages[@]}" ${EXTRA:-}; do # the versions that the tests here ran with
    pins+=("$name==$("$here" -c "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))" "$name")")
  done
  for name in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
    platforms+=(--platform "${name}_x86_64")
  done
  "$here" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp \
    --python-version "$version" "${platforms[@]}" --dest "$wheels" "${pins[@]}"
  du -sh "$wheels"
}

install() {
  python="${PYTHON:-python3}" site="${SITE:-$PWD/$wheels/site}"
  ls "$wheels"/*.whl > /dev/null
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$wheels"/*.whl
  export PYTHONPATH="$site:$PWD" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
  "$python" - << 'PY'
import diffusers, peft, torch, transformers  # what is missing shows here

print("torch", torch.__version__, "diffusers", diffusers.__version__, "transformers", transformers.__version__)
print(torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device")
PY
}

case "${1:-collect}" in
  collect) collect ;;
  test) install; shift; "$python" -m pytest -q -m gpu -rs -p no:cacheprovider "${@:-tests}" ;;
  bench) install; shift; "$python" scripts/bench/diffusion_gpu.py "$@" ;;
  *) echo "usage: scripts/device_bundle.sh [collect|test|bench]" >&2; exit 2 ;;
esac
