#!/usr/bin/env bash
# Ours beside what people would use instead: same shapes, same data, float32, in turn.
#
#   tests/benchmarks/run.sh [--rounds N] [CASE ...]      (no CASE: all of them)
#
# Each peer gets an environment of its own in .benchmarks/. The machine should have nothing else to
# do. Prints a row for each case and puts it in its place in docs/benchmarks.{json,md,svg}.
set -euo pipefail
cd "$(dirname "$0")/../.."
cases="${PYTHON:-python3} tests/benchmarks/cases.py"
case " $* " in *" -h "* | *" --help "*) exec $cases "$@" ;; esac
needed=$($cases "$@")
source launch/install.sh
install ""

peer() {  # NAME; what `pip install` is given, one call for each `--`
  local name=$1 python=.benchmarks/$1/bin/python call=(); shift
  grep -qx "$name" <<<"$needed" || return 0
  [ -e ".benchmarks/$name/installed" ] && return
  echo "Installing $name into .benchmarks/$name"
  .venv/bin/python -m venv --clear ".benchmarks/$name"
  for word in "$@" --; do
    if [ "$word" != -- ]; then call+=("$word"); continue; fi
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
for what in start pair; do
  if grep -qx "$what" <<<"$needed"; then
    .venv/bin/python tests/benchmarks/prepare.py "$what" models ".benchmarks/$what"
  fi
done
exec .venv/bin/python tests/benchmarks/driver.py "$@"
