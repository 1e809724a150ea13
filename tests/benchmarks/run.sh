#!/usr/bin/env bash
# Compare the speed and memory of jaxdistill with those of its peers: same shapes and data, float32.
#
#   tests/benchmarks/run.sh [--rounds N] [CASE ...]      (no CASE: all of them)
#
# Each peer has its own environment in .benchmarks/. Run this on an idle machine. It prints a table
# row per case and updates that row in docs/benchmarks.{json,md,svg}.
set -euo pipefail
cd "$(dirname "$0")/../.."
cases="${PYTHON:-python3} tests/benchmarks/cases.py"
case " $* " in *" -h "* | *" --help "*) exec $cases "$@" ;; esac
requirements=$($cases "$@")
source launch/install.sh
install ""

peer() {  # NAME, then arguments of `pip install`; `--` separates several calls
  local name=$1 python=.benchmarks/$1/bin/python call=(); shift
  grep -qx "$name" <<<"$requirements" || return 0
  [ -e ".benchmarks/$name/installed" ] && return
  echo "Installing $name into .benchmarks/$name"
  .venv/bin/python -m venv --clear ".benchmarks/$name"
  for argument in "$@" --; do
    if [ "$argument" != -- ]; then call+=("$argument"); continue; fi
    "$python" -m pip install --quiet --disable-pip-version-check "${call[@]}"
    call=()
  done
  touch ".benchmarks/$name/installed"
}
peer ours --editable .
peer trl torch==2.13.0 -- "trl==1.16.0" "transformers>=5"
peer liger torch==2.13.0 numpy packaging -- --no-deps "liger-kernel==0.8.2"
peer transformers torch==2.13.0 -- "transformers>=5"
peer tunix "google-tunix==0.1.7"

export PYTHONPATH=tests/benchmarks
for inputs in start cross_tokenizer; do
  if grep -qx "$inputs" <<<"$requirements"; then
    .venv/bin/python tests/benchmarks/inputs.py "$inputs" models ".benchmarks/$inputs"
  fi
done
exec .venv/bin/python tests/benchmarks/driver.py "$@"
