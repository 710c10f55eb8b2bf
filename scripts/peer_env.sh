#!/usr/bin/env bash
# Makes .peer/, an environment for benchmarks against TRL, beside the project's own .venv.
#
# It sees every package of .venv through a .pth file, so that both sides of a comparison run on the same torch,
# transformers and peft; only TRL itself is installed in it. TRL is no dependency of the project. Safe to repeat.
#
#   scripts/peer_env.sh            the TRL version the published figures were measured with
#   TRL_VERSION=1.15.0 scripts/peer_env.sh
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
ours="$root/.venv" peer="$root/.peer" version="${TRL_VERSION:-1.16.0}"

if [ ! -x "$ours/bin/python" ]; then
  echo "$ours has no python: make the project's own environment first (python -m venv .venv; .venv/bin/pip install -e .)" >&2
  exit 1
fi
if [ ! -x "$peer/bin/python" ]; then
  "$ours/bin/python" -m venv "$peer"
fi
site() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
# A .pth entry of its own path comes after the environment's own packages, and its own .pth files are not read:
# the project's checkout is therefore named as well.
printf '%s\n%s\n' "$(site "$ours")" "$root" > "$(site "$peer")/project.pth"

has_version() {
  "$peer/bin/python" -c "import importlib.metadata as m, sys; sys.exit(m.version('trl') != '$version')" 2> /dev/null
}
has_version || "$peer/bin/python" -m pip install --quiet --no-deps "trl==$version"

"$peer/bin/python" - << 'PY'
import importlib.metadata as metadata
import platform

from trl import DPOConfig, DPOTrainer  # noqa: F401  a missing dependency shows here, not in a benchmark

print("python", platform.python_version())
for name in ("trl", "torch", "transformers", "peft", "accelerate", "datasets"):
    print(name, metadata.version(name))
PY
