#!/usr/bin/env bash
# Distil SmolLM2-135M-Instruct into a student of 21 of its 30 layers, on a laptop's CPU.
#
#   launch/quickstart.sh [MODEL] [field=value ...]
#
# MODEL is a name that `jaxdistill fetch` knows, a folder, a .gguf file or a hub name; the rest is
# handed to `jaxdistill train configs/quickstart.yaml`. A second run reuses what is already there;
# another model or another field wants a run folder of its own, e.g. `output=runs/longer`.
set -euo pipefail

model=smollm2-135m-instruct
case "${1:-}" in "" | *=*) ;; *) model=$1; shift ;; esac
if [ -e "$model" ]; then model=$(realpath "$model"); fi

cd "$(dirname "$0")/.."
source launch/install.sh
install ""
# Gemma has 18 layers, and GGUF files know only its own alternation of layers.
if [ "$model" = gemma3-270m ]; then set -- student.layers=9 student.gguf_dtype=null "$@"; fi
case "$model" in smollm2-135m-instruct | gemma3-270m)
  .venv/bin/jaxdistill fetch "$model" --out models
  model=models/$model
esac
.venv/bin/jaxdistill train configs/quickstart.yaml "teacher.model=$model" "student.model=$model" "$@"
