"""What two studies must have in common to be the same."""

import csv
import json
from pathlib import Path


def untimed(folder: Path) -> dict[str, object]:
    """All that a study says, but for what its clocks say."""
    said: dict[str, object] = {path.name: path.read_text() for path in folder.glob("*.svg")}
    lines = (folder / "table.md").read_text().splitlines()
    said["table.md"] = [one.rpartition(" | ")[0] if one[:1] == "|" else one for one in lines]
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    said["table.csv"] = [{n: v for n, v in row.items() if n != "seconds"} for row in rows]
    for path in folder.glob("*/heldout_scores.jsonl"):
        said[f"{path.parent.name}/heldout_scores.jsonl"] = path.read_text()
    for path in folder.glob("*/metrics.jsonl"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        said[f"{path.parent.name}/metrics.jsonl"] = [
            {n: v for n, v in record.items() if not n.startswith("time/")} for record in records
        ]
    return said
