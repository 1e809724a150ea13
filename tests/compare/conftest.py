"""A comparison of three tiny models, one with a tokenizer of its own, made once for all tests."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny

from jaxdistill import evals, hub, run
from jaxdistill.cli import main
from jaxdistill.compare.metrics import ComparisonMetrics
from jaxdistill.evals import bootstrap

NASTY = '<script>alert("1")</script> & =SUM(A1)'
NAMES, FOLDERS = ("big", "small", "other"), ("big", "small", "bytes")

COSTS = {
    "big": evals.Cost(0.25, 40.0, 800_000_000, 500_000_000, 120_000_000),
    "small": evals.Cost(0.125, 100.0, 400_000_000, 200_000_000, 60_000_000),
    "bytes": evals.Cost(0.0625, 150.5, 300_000_000, 99_999, 3_000),
}


class FinishedComparison(NamedTuple):
    """Folder of models, rows and output, and the command that compared them."""

    folder: Path
    command: list[str]

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def html(self) -> str:
        return (self.out / "index.html").read_text()

    @property
    def lines(self) -> list[dict]:
        text = (self.out / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    @property
    def metrics(self) -> ComparisonMetrics:
        """The metrics of the file."""
        metrics = ComparisonMetrics(NAMES)
        for line in self.lines:
            value = line["value"]
            if "low" in line:
                value = evals.Estimate(value, line["low"], line["high"])
            metrics.add(line.get("model", ""), line["quantity"], value, bin=line.get("bin", ""))
        return metrics

    def value(self, model: str, quantity: str) -> dict:
        """The line of a metric over all words."""
        (line,) = [
            line
            for line in self.lines
            if line.get("model") == model and line["quantity"] == quantity and "bin" not in line
        ]
        return line


def byte_model(folder: Path) -> Path:
    """Write a tiny model whose tokenizer knows bytes only."""
    model = hub.load(tiny.model_folder(folder, seed=2, vocab_size=264), dtype=None)
    tokenizer = tiny.tokenizer(vocab_size=260)
    fields = model.family, model.language_model, model.params, tokenizer, model.hf_config, {}
    return hub.save(hub.Pretrained(*fields), folder)


@pytest.fixture(scope="session")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> FinishedComparison:
    folder = tmp_path_factory.mktemp("compare")
    # Of one architecture, so that both run the same programs; `COSTS` has their sizes.
    tiny.model_folder(folder / "big")
    tiny.model_folder(folder / "small", seed=1)
    byte_model(folder / "bytes")
    rows = [
        {"prompt": f"What is {n} and {n}? ", "completion": f"It is {2 * n}, said the cat."}
        for n in range(24)
    ]
    rows[1]["prompt"] = NASTY
    rows[5]["completion"] += " word" * 400  # too long for every model
    rows[7]["completion_tokens"] = [1, 2, 3]  # of one tokenizer: only the text counts
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["compare", *(str(folder / name) for name in ("big", "small"))]
    command += [f"other={folder / 'bytes'}", "--data", str(folder / "rows.jsonl")]
    command += ["--out", str(folder / "out"), "--length", "128", "--machine-price", "0.5"]
    command += ["--price", "big=2.5", "--prompts", "3", "--max-new-tokens", "12"]
    with pytest.MonkeyPatch.context() as patch:
        _patch_slow_parts(patch)
        assert main(command) == 0
    return FinishedComparison(folder, command)


@pytest.fixture(autouse=True)
def _costs(monkeypatch: pytest.MonkeyPatch):
    _patch_slow_parts(monkeypatch)


def _patch_slow_parts(patch: pytest.MonkeyPatch) -> None:
    # tests/run/test_cost.py measures costs; here that would take most of the time.
    patch.setattr(run, "measure_cost", lambda path: COSTS[Path(path).name])
    patch.setattr(bootstrap, "NUM_RESAMPLES", 100)
