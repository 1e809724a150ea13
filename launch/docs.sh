#!/usr/bin/env bash
# Build the documentation into build/site, or show it while you write.
#
#   launch/docs.sh [build | serve]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/install.sh

install "[test,dev,docs]"
# The theme announces its successor at every start.
export NO_MKDOCS_2_WARNING=1
.venv/bin/mkdocs "${1:-build}" --strict
