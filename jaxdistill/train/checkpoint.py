"""Checkpoints of a run, written by Orbax: train state, data state, fingerprint and checksums.

A checkpoint is written under a temporary name and renamed when it is complete, so that a killed
run still has the previous one. Saving is synchronous: the checkpoint is on disk when `save`
returns, and a full disk is an error of that step, not of a later one.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
import pydantic

from jaxdistill.errors import UserError
from jaxdistill.train.checksums import check_checksums, write_checksums
from jaxdistill.train.fingerprint import CONTINUE_HINT, Fingerprint, differences
from jaxdistill.train.orbax_errors import disk_errors_as_user_errors, silence_orbax
from jaxdistill.train.state import TrainState


@dataclass(frozen=True)
class Elapsed:
    """Training time of a run up to now and up to its last record, and tokens since that record."""

    seconds: float = 0.0
    recorded_seconds: float = 0.0
    unrecorded_tokens: int = 0


@dataclass(frozen=True)
class _RunData:
    """JSON of a checkpoint beside the train state, as it is checked when it is read."""

    data: Any
    fingerprint: dict[str, Any]
    effort: Elapsed = Elapsed()


@dataclass(frozen=True)
class Restored:
    """Contents of a checkpoint, and a line for each newer one that could not be read."""

    state: TrainState
    data_state: Any
    elapsed: Elapsed
    skipped: tuple[str, ...]


class Checkpoints:
    """Checkpoints of one run.

    Args:
        directory: Folder of the checkpoints; it is created if necessary.
        keep: Number of newest checkpoints to keep.
        fingerprint: Values that must not change when the run continues. None opens the folder
            read-only, as the run may be going on in another process: only shapes are compared,
            and nothing is written, renamed or cleaned up.
    """

    def __init__(self, directory: Path, *, keep: int = 1, fingerprint: Fingerprint | None = None):
        self.directory = directory.absolute()
        self._fingerprint = fingerprint
        is_read_only = fingerprint is None
        with disk_errors_as_user_errors(f"{directory}: no checkpoint can be written here"):
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=None if is_read_only else keep,
                    enable_async_checkpointing=False,
                    cleanup_tmp_directories=not is_read_only,
                    create=not is_read_only,
                    read_only=is_read_only,
                ),
                item_handlers={
                    "state": ocp.StandardCheckpointHandler(),
                    "run": ocp.JsonCheckpointHandler(),
                },
            )

    @property
    def latest_step(self) -> int | None:
        """The step of the newest checkpoint; None if there is no checkpoint."""
        return self._manager.latest_step()

    @property
    def latest_description(self) -> str:
        """A phrase for messages that names the newest checkpoint."""
        if self.latest_step is None:
            return "there is no checkpoint before it"
        return f"the last good one is {self.directory / str(self.latest_step)}"

    def save(self, state: TrainState, data_state: Any, elapsed: Elapsed | None = None) -> None:
        """Write a checkpoint, unless the newest one has the same step.

        If the disk refuses it, UserError is raised and previous checkpoints are left as they are.
        """
        step = int(state.step)
        if step == self.latest_step:
            return
        assert self._fingerprint is not None, "the folder was opened read-only"
        run = {
            "data": data_state,
            "effort": asdict(elapsed or Elapsed()),
            "fingerprint": dict(self._fingerprint.values),
        }
        message = f"{self.directory / str(step)}: the checkpoint could not be written"
        try:
            with disk_errors_as_user_errors(f"{message} ({self.latest_description})"):
                self._manager.save(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(_saved_fields(state)),
                        run=ocp.args.JsonSave(run),
                    ),
                    force=True,
                )
            write_checksums(self.directory / str(step))
        except UserError:
            for path in self.directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(path, ignore_errors=True)
            raise

    def restore(self, template: TrainState, data_state: Any = None) -> Restored | None:
        """Read the newest readable checkpoint. Return None if there is no checkpoint at all.

        Args:
            template: Shapes, dtypes and shardings (`abstract_state`), on this mesh or another.
            data_state: A data state, whose types those of the checkpoint must have; None accepts
                any.

        Raises:
            UserError: If fingerprint or shapes are not those of this run, or if none can be read.
        """
        skipped: list[str] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                with silence_orbax():
                    restored = self._restore_step(step, template, data_state, tuple(skipped))
            except UserError:
                raise
            except Exception as error:  # noqa: BLE001  an older checkpoint may still be readable
                skipped.append(
                    f"{self.directory / str(step)}: cannot be read ({_describe_error(error)})"
                )
                continue
            if self._fingerprint is not None:
                self._rename_unreadable(step)
            return restored
        if skipped:
            raise UserError(*skipped, "No checkpoint is left: start in another run folder.")
        return None

    def close(self) -> None:
        """Stop Orbax's threads."""
        self._manager.close()

    def _restore_step(
        self, step: int, template: TrainState, data_state: Any, skipped: tuple[str, ...]
    ) -> Restored:
        path = self.directory / str(step)
        check_checksums(path)
        run_args = ocp.args.Composite(run=ocp.args.JsonRestore())
        run = pydantic.TypeAdapter(_RunData).validate_python(
            self._manager.restore(step, args=run_args)["run"]
        )
        if data_state is not None and _types(run.data) != _types(data_state):
            raise ValueError("the data state in run/metadata has other types")
        shapes = _array_specs(self._manager.item_metadata(step)["state"].tree)
        self._check_compatible(path, run.fingerprint, shapes, template)
        state_args = ocp.args.StandardRestore(_saved_fields(template))
        fields = self._manager.restore(step, args=ocp.args.Composite(state=state_args))["state"]
        return Restored(TrainState(**fields), run.data, run.effort, skipped)

    def _check_compatible(
        self,
        path: Path,
        saved_fingerprint: Mapping[str, Any],
        shapes: dict[str, str],
        template: TrainState,
    ) -> None:
        lines: list[str] = []
        if self._fingerprint is not None:
            lines += self._fingerprint.difference_lines(path, saved_fingerprint)
        lines += [
            f"{path}: `{name}` is {saved or 'missing'}, "
            f"and this config makes it {current or 'nothing'}."
            for name, saved, current in differences(shapes, _array_specs(template))
        ]
        if lines:
            raise UserError(*lines, CONTINUE_HINT)

    def _rename_unreadable(self, restored_step: int) -> None:
        """Rename checkpoints newer than the restored one, so that their steps can be saved."""
        for step in self._manager.all_steps():
            if step > restored_step and jax.process_index() == 0:
                (self.directory / str(step)).rename(self._unreadable_path(step))
        self._manager.reload()

    def _unreadable_path(self, step: int) -> Path:
        """Return a free path for a damaged checkpoint; a step may be damaged more than once."""
        names = (f"unreadable-{step}" + (f"-{n}" if n > 1 else "") for n in count(1))
        return next(p for name in names if not (p := self.directory / name).exists())


def _saved_fields(state: TrainState) -> dict[str, Any]:
    """Return the fields of a state to write, without `modules` where there are none.

    Orbax would write an empty `modules`, and then could not read checkpoints from before it.
    """
    fields = dict(vars(state))
    return fields if state.modules else {k: v for k, v in fields.items() if k != "modules"}


def saved_fingerprint(directory: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return path and fingerprint of the newest checkpoint whose metadata can be read.

    It takes no weights, so that a run can be refused before anything is loaded. None if there is
    no such checkpoint.
    """
    steps = [int(path.name) for path in directory.glob("[0-9]*") if path.name.isdecimal()]
    for step in sorted(steps, reverse=True):
        path = directory / str(step)
        try:
            fingerprint = json.loads((path / "run" / "metadata").read_bytes())["fingerprint"]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            continue
        if isinstance(fingerprint, dict):
            return path.absolute(), fingerprint
    return None


def _describe_error(error: Exception) -> str:
    if isinstance(error, pydantic.ValidationError):
        (first, *_) = error.errors()
        return f"run/metadata: {'.'.join(map(str, first['loc']))}: {first['msg']}"
    return (str(error).strip().splitlines() or [repr(error)])[0][:120]


def _types(value: Any) -> Any:
    """Return the types of all values in a JSON value, in its structure."""
    return jax.tree.map(type, value)


def _array_specs(tree: Any) -> dict[str, str]:
    """Return `float32[2, 3]` for each array of a tree, by its dotted name."""
    specs = jax.tree.map(lambda leaf: f"{jax.numpy.dtype(leaf.dtype)}{list(leaf.shape)}", tree)
    leaves = jax.tree.leaves_with_path(specs)
    return {jax.tree_util.keystr(path, simple=True, separator="."): spec for path, spec in leaves}
