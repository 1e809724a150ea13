"""Run folder: its files and its lock."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from jaxdistill.errors import ErrorCollector, UserError
from jaxdistill.files import atomic_file, check_path_names, try_lock


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
        self.calibration = (
            self.path / "calibration.safetensors"
        )  # layers that were searched, fitted arrays
        self.initial_metrics = self.path / "before.json"  # held-out metrics before training
        self.result = self.path / "result.json"  # written last: its run is finished

    @staticmethod
    def is_run(path: str | Path) -> bool:
        """Return True if a run has begun in this folder; UserError if none can have this name."""
        check_path_names(Path(path))
        return RunFolder(path).config.is_file()

    def check_contents(self) -> None:
        """Raise UserError if the folder holds other files than those of a run, or other kinds."""
        self._check_kinds()
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

    def _check_kinds(self) -> None:
        """Check that no file is where a run writes a folder, and the other way round."""
        findings = ErrorCollector()
        folders = (self.checkpoints, self.student, self.report)
        for path in vars(self).values():
            is_folder = path == self.path or path in folders
            if path.exists() and path.is_dir() != is_folder:
                kinds = ("file", "folder") if is_folder else ("folder", "file")
                with findings.collect():
                    raise UserError(
                        f"{path} is a {kinds[0]}, and a run writes a {kinds[1]} there. Move it "
                        "away, or choose another run folder (`output=...`)."
                    )
        findings.raise_if_any()

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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a small JSON file atomically."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, content: str) -> None:
    """Write a small text file atomically: a crash leaves the old file or the new one."""
    with atomic_file(path) as file:
        file.write_text(content, encoding="utf-8")
