#!/usr/bin/env bash
# Install what the tests need; run the linters, build the documentation, and run all tests.
#
#   launch/test.sh [--slow] [PYTEST ARGUMENTS ...]
#
# --slow adds the long tests, for which the real models are fetched once, into models/, and compiles
# the programs of all tests as users' are.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/install.sh

install "[test,dev,docs]"
if [[ " $* " == *" --slow "* ]]; then
  .venv/bin/jaxdistill fetch smollm2-135m-instruct --out models
  .venv/bin/jaxdistill fetch gemma3-270m --out models
  export JAXDISTILL_SMOLLM2=$PWD/models/smollm2-135m-instruct
  export JAXDISTILL_GEMMA3=$PWD/models/gemma3-270m
fi

.venv/bin/pyright & # it takes a core for a minute, and the others take the second
pyright=$!
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/lint-imports --no-cache
.venv/bin/codespell jaxdistill tests configs launch docs ./*.md
NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet --strict
wait "$pyright"
# Two at a time, a file in one process: most of a test is tracing and compiling, on one core.
.venv/bin/python -m pytest -n 2 --dist loadfile "$@"
