#!/usr/bin/env bash
# The quickstart's student beside its strongest simple baseline, three seeds each.
#
#   launch/quickstart.sh && launch/baseline.sh [field=value ...]
#
# Same teacher's answers, same steps, same optimizer; one arm learns the teacher's distribution
# (forward KL), the other its words alone (cross-entropy: sequence-level distillation). About half
# an hour on two cores; arms that are finished are not run again. Prints a Markdown table.
set -euo pipefail
cd "$(dirname "$0")/.."

answers=(runs/quickstart/rollout-*.jsonl)
[ -e "${answers[0]}" ] || { echo "error: run launch/quickstart.sh first." >&2; exit 2; }
[ ${#answers[@]} = 1 ] || { echo "error: several rollouts in runs/quickstart: keep one." >&2; exit 2; }
for seed in 0 1 2; do
  for objective in forward_kl cross_entropy; do
    .venv/bin/jaxdistill train configs/quickstart.yaml "output=runs/baseline/$objective-$seed" \
      "seed=$seed" "objectives=[{type: $objective}]" "data.sources=${answers[0]}" \
      "data.rollout={type: dataset}" "$@" >&2
  done
done
.venv/bin/python - <<'PYTHON'
import json, pathlib, statistics

columns = {"forward_kl": "KL to the teacher", "bits_per_byte": "bits per byte", "top1_agreement": "top-1 agreement"}
print("| student |", " | ".join(columns.values()), "|")
print("|---" * (len(columns) + 1) + "|")
for arm in ("before", "cross_entropy", "forward_kl"):
    folder = "forward_kl" if arm == "before" else arm
    results = [json.loads(path.read_text())["comparison"] for path in sorted(pathlib.Path("runs/baseline").glob(f"{folder}-[012]/result.json"))]
    models = [result["student before" if arm == "before" else "student"] for result in results]
    cells = []
    for name in columns:
        values = [model[name] for model in models]
        each = "" if arm == "before" else f" ({', '.join(f'{value:.3f}' for value in values)})"
        cells.append(f"{statistics.mean(values):.3f}{each}")
    print(f"| {arm} |", " | ".join(cells), "|")
PYTHON
