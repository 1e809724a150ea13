"""Run folder: its files, its lock, and the fingerprint of the run in it."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from jaxdistill import data, hub
from jaxdistill.config import flatten
from jaxdistill.errors import UserError
from jaxdistill.files import atomic_file, check_path_names, try_lock
from jaxdistill.run.config import RunConfig

# Fields that may change when a run continues: paths, records, and the division of the work.
# Every other field changes the result.
_CHANGEABLE_FIELDS = (
    "output",
    "evaluation",
    "mesh",
    "track",
    "student.export_dtype",
    "student.gguf_dtype",
    "data.rollout.directory",
    "data.rollout.stop",  # its effect is in the content of the rows
    "data.unpaired",
    "train.accumulate",
    "train.chunk_rows",
    "train.log_every_steps",
    "train.save_every_steps",
    "train.keep_checkpoints",
)


class RunFolder:
    """Paths in a run folder."""

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        self.config = self.path / "config.yaml"
        self.started = self.path / "started.txt"  # time that chat templates read
        self.checkpoints = self.path / "checkpoints"
        self.student = self.path / "student"  # exported, a Hugging Face folder
        self.gguf = self.path / "student.gguf"  # only with `student.gguf_dtype`
        self.report = self.path / "report"
        self.metrics = self.path / "metrics.jsonl"
        self.heldout_scores = self.path / "heldout_scores.jsonl"  # one line per held-out row
        self.layers = self.path / "layers.json"  # layers that were chosen by importance
        self.initial_metrics = self.path / "before.json"  # held-out metrics before training
        self.result = self.path / "result.json"  # written last: its run is finished

    @staticmethod
    def is_run(path: str | Path) -> bool:
        """Return True if a run has begun in this folder; UserError if none can have this name."""
        check_path_names(Path(path))
        return RunFolder(path).config.is_file()

    def check_contents(self) -> None:
        """Raise UserError if the folder holds other files than those of a run."""
        if self.config.is_file() or not self.path.is_dir():
            return
        own = {path.name for path in vars(self).values()}
        names = sorted(path.name for path in self.path.glob("[!.]*"))
        if others := [
            name for name in names if name not in own and not name.startswith("rollout-")
        ]:
            raise UserError(
                f"{self.path} holds {len(others)} other file(s) ({', '.join(others[:3])}, …) and "
                "no run, and a run needs a folder of its own. Name a new folder."
            )

    def start_time(self) -> datetime:
        """Return when the run in the folder began; now, if none has."""
        try:
            return datetime.fromisoformat(self.started.read_text(encoding="utf-8").strip())
        except (OSError, ValueError):
            return datetime.now()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Create and lock the folder while entered; UserError if another process trains in it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("w")
        except OSError as error:
            raise UserError(
                f"output: {self.path} cannot be a run folder: {error.strerror}. Choose another."
            ) from None
        with file:
            if not try_lock(file.fileno()):
                raise UserError(
                    f"output: another process is training in {self.path}. Wait for it, or choose "
                    "another run folder (`output=...`)."
                )
            yield


def exported_model_path(path: str) -> str | Path | None:
    """Return `path`, or the exported student if `path` is a run; None if the run has none yet."""
    if not RunFolder.is_run(path):
        return path
    student = RunFolder(path).student
    return student if student.is_dir() else None


def fingerprint(
    config: RunConfig, prepared: data.PreparedData, teacher: hub.Source | None
) -> dict[str, Any]:
    """Return all values that must not change when a run continues, by dotted name."""
    fixed = {
        name: value
        for name, value in flatten(config).items()
        if not any(name == free or name.startswith(f"{free}.") for free in _CHANGEABLE_FIELDS)
    }
    digest = hashlib.sha256()
    for example in (*prepared.train, *prepared.heldout):
        digest.update(example.tokens.tobytes() + example.loss_mask.tobytes())
        if (view := example.teacher_example) is not None:
            for array in (view.tokens, view.teacher_span_ids, view.student_span_ids, view.weight):
                digest.update(array.tobytes())
    weights = {} if teacher is None else {"the teacher's weights": teacher.weights_hash}
    return {**fixed, "the rows' content": digest.hexdigest()[:12], **weights}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a small JSON file atomically."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, content: str) -> None:
    """Write a small text file atomically: a crash leaves the old file or the new one."""
    with atomic_file(path) as file:
        file.write_text(content, encoding="utf-8")
