"""Content of a study's files without times, to compare two studies."""

import csv
import json
from pathlib import Path


def untimed(folder: Path) -> dict[str, object]:
    """Return the content of a study's files by name, without times."""
    content: dict[str, object] = {path.name: path.read_text() for path in folder.glob("*.svg")}
    lines = (folder / "table.md").read_text().splitlines()
    content["table.md"] = [
        line.rpartition(" | ")[0] if line.startswith("|") else line for line in lines
    ]
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    content["table.csv"] = [{n: v for n, v in row.items() if n != "seconds"} for row in rows]
    for path in folder.glob("*/heldout_scores.jsonl"):
        content[f"{path.parent.name}/heldout_scores.jsonl"] = path.read_text()
    for path in folder.glob("*/metrics.jsonl"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        content[f"{path.parent.name}/metrics.jsonl"] = [
            {n: v for n, v in record.items() if not n.startswith("time/")} for record in records
        ]
    return content
