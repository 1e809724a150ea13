#!/usr/bin/env bash
# Install the package with the newest Python found (3.12 or newer) and run the tests marked `smoke`:
# a run that is trained, resumed and exported, the step on a mesh, every objective. Newer Pythons get
# newer JAX and Flax than 3.11 does.
#
#   launch/smoke.sh
set -euo pipefail
cd "$(dirname "$0")/.."

newest() {
  local candidates=(python3.{12..19}) root
  root=$(pyenv root 2>/dev/null) && candidates+=("$root"/versions/3.1[2-9].*/bin/python)
  for candidate in "${candidates[@]}"; do
    "$candidate" -c 'import sys; print(*sys.version_info[:3], sys.executable)' 2>/dev/null || true
  done | sort -k1,1n -k2,2n -k3,3n | tail -n 1 | cut -d' ' -f4
}

python=$(newest)
[ -n "$python" ] || { echo "No Python of 3.12 or newer was found: the smoke tests did not run." >&2; exit 0; }
"$python" -m venv --clear build/smoke
build/smoke/bin/python -m pip install --quiet --disable-pip-version-check ".[smoke]"
build/smoke/bin/python -c 'import sys, jax, flax; print("Python", sys.version.split()[0], "jax", jax.__version__, "flax", flax.__version__)'
tests=(tests/sharding tests/train/test_step.py tests/objectives/test_every_objective.py tests/run/test_commands.py)
build/smoke/bin/python -m pytest -n 2 --dist loadfile -q -m "smoke and not slow" "${tests[@]}"
# Flax's tree mode, which is to become its default.
NNX_GRAPH_MODE=false build/smoke/bin/python -m pytest -q -m "smoke and not slow" tests/run/test_commands.py
