"""Checkpoints of a run, written by Orbax: train state, data state and fingerprint.

A checkpoint is written under a temporary name and renamed when it is complete, so that a killed
run still has the previous one. Saving is synchronous: the checkpoint is on disk when `save`
returns, and a full disk is an error of that step, not of a later one.
"""

import contextlib
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxdistill.errors import UserError
from jaxdistill.train.state import TrainState


@dataclass(frozen=True)
class Elapsed:
    """Training time of a run up to now and up to its last record, and tokens since that record."""

    seconds: float = 0.0
    recorded_seconds: float = 0.0
    unrecorded_tokens: int = 0


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
        fingerprint: JSON values that must not change when the run continues, by dotted name.
            None opens the folder read-only, as the run may be going on in another process: only
            shapes are compared, and nothing is written, renamed or cleaned up.
    """

    def __init__(
        self, directory: Path, *, keep: int = 1, fingerprint: Mapping[str, Any] | None = None
    ):
        self.directory = directory.absolute()
        self._fingerprint = None if fingerprint is None else dict(fingerprint)
        is_read_only = fingerprint is None
        with _disk_errors_as_user_errors(f"{directory}: no checkpoint can be written here"):
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
        effort = asdict(elapsed or Elapsed())
        run = {"data": data_state, "effort": effort, "fingerprint": self._fingerprint}
        message = f"{self.directory / str(step)}: the checkpoint could not be written"
        try:
            with _disk_errors_as_user_errors(f"{message} ({self.latest_description})"):
                self._manager.save(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(_saved_fields(state)),
                        run=ocp.args.JsonSave(run),
                    ),
                    force=True,
                )
        except UserError:
            for path in self.directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(path, ignore_errors=True)
            raise

    def restore(self, template: TrainState) -> Restored | None:
        """Read the newest readable checkpoint. Return None if there is no checkpoint at all.

        Args:
            template: Shapes, dtypes and shardings (`abstract_state`), on this mesh or another.

        Raises:
            UserError: If fingerprint or shapes are not those of this run, or if none can be read.
        """
        skipped: list[str] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                with _silence_orbax():
                    restored = self._restore_step(step, template, tuple(skipped))
            except UserError:
                raise
            except Exception as error:  # noqa: BLE001  an older checkpoint may still be readable
                reason = (str(error).strip().splitlines() or [repr(error)])[0][:120]
                skipped.append(f"{self.directory / str(step)}: cannot be read ({reason})")
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

    def _restore_step(self, step: int, template: TrainState, skipped: tuple[str, ...]) -> Restored:
        run_args = ocp.args.Composite(run=ocp.args.JsonRestore())
        run = self._manager.restore(step, args=run_args)["run"]
        shapes = _array_specs(self._manager.item_metadata(step)["state"].tree)
        self._check_compatible(self.directory / str(step), run["fingerprint"], shapes, template)
        state_args = ocp.args.StandardRestore(_saved_fields(template))
        fields = self._manager.restore(step, args=ocp.args.Composite(state=state_args))["state"]
        elapsed = Elapsed(**run.get("effort", {}))
        return Restored(TrainState(**fields), run["data"], elapsed, skipped)

    def _check_compatible(
        self,
        path: Path,
        saved_fingerprint: dict[str, Any],
        shapes: dict[str, str],
        template: TrainState,
    ) -> None:
        fingerprint = saved_fingerprint if self._fingerprint is None else self._fingerprint
        lines = [
            f"{path}: was written with {name} = {saved!r}, not {current!r}."
            for name, saved, current in _differences(saved_fingerprint, fingerprint)
        ]
        if len(lines) > 4:
            lines = [*lines[:3], f"{path}: {len(lines) - 3} more fields differ."]
        lines += [
            f"{path}: `{name}` is {saved or 'missing'}, "
            f"and this config makes it {current or 'nothing'}."
            for name, saved, current in _differences(shapes, _array_specs(template))
        ]
        if lines:
            raise UserError(
                *lines,
                "Continue with the config and the data that the run began with, or choose another "
                "run folder (`output=...`).",
            )

    def _rename_unreadable(self, restored_step: int) -> None:
        """Rename checkpoints newer than the restored one, so that their steps can be saved."""
        for step in self._manager.all_steps():
            if step > restored_step and jax.process_index() == 0:
                path = self.directory / str(step)
                path.rename(path.with_name(f"unreadable-{step}"))
        self._manager.reload()


def _saved_fields(state: TrainState) -> dict[str, Any]:
    """Return the fields of a state to write, without `modules` where there are none.

    Orbax would write an empty `modules`, and then could not read checkpoints from before it.
    """
    fields = dict(vars(state))
    return fields if state.modules else {k: v for k, v in fields.items() if k != "modules"}


def _differences(saved: dict[str, Any], current: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return name, saved and current value of each entry that differs; None for no value."""
    values = [(name, saved.get(name), current.get(name)) for name in sorted({*saved, *current})]
    return [difference for difference in values if difference[1] != difference[2]]


def _array_specs(tree: Any) -> dict[str, str]:
    """Return `float32[2, 3]` for each array of a tree, by its dotted name."""
    specs = jax.tree.map(lambda leaf: f"{jax.numpy.dtype(leaf.dtype)}{list(leaf.shape)}", tree)
    leaves = jax.tree.leaves_with_path(specs)
    return {jax.tree_util.keystr(path, simple=True, separator="."): spec for path, spec in leaves}


@contextlib.contextmanager
def _disk_errors_as_user_errors(message: str) -> Iterator[None]:
    """Turn errors of the file system into one line that begins with `message`."""
    try:
        with _silence_orbax():
            yield
    except (OSError, ValueError) as error:
        # TensorStore reports the system's error number inside the text of a ValueError.
        match = re.search(r"os_error_code='(\d+)'", str(error))
        number = int(match[1]) if match else getattr(error, "errno", None)
        if number is None:
            raise
        cure = "Fix this, and run the same command again: it continues."
        raise UserError(f"{message}: {os.strerror(number)}. {cure}") from None


@contextlib.contextmanager
def _silence_orbax() -> Iterator[None]:
    """Keep Orbax's tracebacks off the console; what matters is raised."""
    logger, hook = logging.getLogger("absl"), sys.unraisablehook
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    try:
        yield
    except Exception:
        # When one array fails, Orbax closes its event loop. TensorStore's threads then cannot
        # report the other arrays, and would print that. Wait until they have tried.
        time.sleep(0.2)
        raise
    finally:
        logger.setLevel(level)
        sys.unraisablehook = hook
