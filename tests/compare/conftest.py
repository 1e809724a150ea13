"""A comparison of three tiny models, one with a tokenizer of its own, made once for all tests."""

import json
from pathlib import Path
from typing import NamedTuple

import jax
import pytest
import tiny

from jaxdistill import evals, hub, run
from jaxdistill.cli import main
from jaxdistill.evals import bootstrap

NASTY = '<script>alert("1")</script> & =SUM(A1)'


COSTS = {
    "big": evals.Cost(0.25, 40.0, 800_000_000, 500_000_000, 120_000_000),
    "small": evals.Cost(0.125, 100.0, 400_000_000, 200_000_000, 60_000_000),
    "bytes": evals.Cost(0.0625, 150.5, 300_000_000, 99_999, 3_000),
}


class Place(NamedTuple):
    """The folder of it all, and the command that compared."""

    folder: Path
    command: list[str]

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def lines(self) -> list[dict]:
        text = (self.out / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


def bytewise(folder: Path) -> Path:
    """The folder of a tiny model whose tokenizer knows bytes only."""
    made = tiny.model_folder(folder, seed=2, vocab_size=264)
    opened = hub.load(made, dtype=None)
    tokenizer = tiny.tokenizer(vocab_size=260)
    return hub.save(hub.Pretrained(*_but_tokenizer(opened, tokenizer)), folder)


def _but_tokenizer(one: hub.Pretrained, tokenizer):
    return one.family, one.config, one.params, tokenizer, one.hf_config, {}


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("compare")
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    tiny.model_folder(folder / "big", num_hidden_layers=3)
    tiny.model_folder(folder / "small", seed=1, num_hidden_layers=1)
    bytewise(folder / "bytes")
    rows = [
        {"prompt": f"What is {n} and {n}? ", "completion": f"It is {2 * n}, said the cat."}
        for n in range(24)
    ]
    rows[1]["prompt"] = NASTY
    rows[5]["completion"] += " word" * 400  # longer than any of them reads
    rows[7]["completion_tokens"] = [1, 2, 3]  # of one tokenizer: the text is what counts
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["compare", *(str(folder / name) for name in ("big", "small"))]
    command += [f"other={folder / 'bytes'}", "--data", str(folder / "rows.jsonl")]
    command += ["--out", str(folder / "out"), "--length", "128", "--machine-price", "0.5"]
    command += ["--price", "big=2.5", "--prompts", "3", "--max-new-tokens", "12"]
    with pytest.MonkeyPatch.context() as patch:
        _measured_before(patch)
        assert main(command) == 0
    jax.config.update("jax_compilation_cache_dir", None)
    return Place(folder, command)


@pytest.fixture(autouse=True)
def _costs(monkeypatch: pytest.MonkeyPatch):
    _measured_before(monkeypatch)


def _measured_before(patch: pytest.MonkeyPatch) -> None:
    # tests/run/test_cost.py measures; here it would take most of the time.
    patch.setattr(run, "measure_cost", lambda path: COSTS[Path(path).name])
    patch.setattr(bootstrap, "NUM_RESAMPLES", 100)
