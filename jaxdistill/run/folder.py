"""The run folder: what lies where, and a student out of it, finished or not."""

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxdistill import data, hub
from jaxdistill.config import flatten
from jaxdistill.errors import UserError
from jaxdistill.files import atomic_file, check_path_names
from jaxdistill.run.config import RunConfig

# What may change between the beginning of a run and its continuation: places, records, and how
# the work is divided. All else decides the result.
_CHANGEABLE_FIELDS = (
    "output",
    "evaluation",
    "mesh",
    "track",
    "student.export_dtype",
    "data.rollout.directory",
    "data.rollout.stop",  # what it changes is in the rows
    "data.unpaired",
)
_CHANGEABLE_TRAIN_FIELDS = (
    "accumulate",
    "chunk_rows",
    "log_every",
    "save_every",
    "keep_checkpoints",
)


class RunFolder:
    """The places in a run folder.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        self.config = self.path / "config.yaml"
        self.checkpoints = self.path / "checkpoints"
        self.student = self.path / "student"
        self.report = self.path / "report"
        self.metrics = self.path / "metrics.jsonl"
        self.heldout_scores = self.path / "heldout_scores.jsonl"
        self.initial_metrics = self.path / "before.json"
        self.result = self.path / "result.json"

    @staticmethod
    def is_run(path: str | Path) -> bool:
        """Whether a run has begun in this folder.

        Raises:
            UserError: when no folder can have this name.
        """
        check_path_names(Path(path))
        return RunFolder(path).config.is_file()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """While entered, no other process can train in this folder.

        Raises:
            UserError: when one does, or when this is no place for a folder.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("w")
        except OSError as error:
            raise UserError(
                f"output: {self.path} cannot be a run folder: {error.strerror}. Choose another."
            ) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"output: another process is training in {self.path}. Wait for it, or choose "
                    "another run folder (`output=...`)."
                ) from None
            except OSError:
                pass  # a file system without locks
            yield


def fingerprint(
    config: RunConfig, prepared: data.PreparedData, teacher: hub.Source | None
) -> dict[str, Any]:
    """What must stay as it is for a run to be continued, by dotted name."""
    free = (*_CHANGEABLE_FIELDS, *(f"train.{name}" for name in _CHANGEABLE_TRAIN_FIELDS))
    fixed = {name: value for name, value in flatten(config).items() if not name.startswith(free)}
    digest = hashlib.sha256()
    for example in (*prepared.train, *prepared.heldout):
        digest.update(example.tokens.tobytes() + example.loss_mask.tobytes())
        if (other := example.teacher_example) is not None:
            for column in (
                other.tokens,
                other.teacher_span_ids,
                other.student_span_ids,
                other.weight,
            ):
                digest.update(column.tobytes())
    weights = {} if teacher is None else {"the teacher's weights": teacher.weights_hash}
    return {**fixed, "the rows' content": digest.hexdigest()[:12], **weights}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a small JSON file that is either there whole or not at all."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, content: str) -> None:
    """Write a small text file that is either there whole or not at all.

    Raises:
        UserError: when the disk does not take it.
    """
    with atomic_file(path) as file:
        file.write_text(content, encoding="utf-8")
