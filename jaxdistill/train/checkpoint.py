"""Checkpoints through Orbax: state, place in the data, and what the run was.

A checkpoint is written beside its place and renamed when it is whole, so that a killed run leaves
the one before it. Saving is synchronous: when `save` returns, the checkpoint is there, and a full
disk is an error of this step and not of a later one.
"""

import contextlib
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxdistill.errors import UserError
from jaxdistill.train.state import TrainState


@dataclass(frozen=True)
class Restored:
    """What a run continues from.

    Attributes:
        state: The state, placed as it was asked for.
        data: The state of the data iterator.
        effort: What the run had cost by then (`train.loop`); empty where nobody wrote it down.
        skipped: A line for each newer checkpoint that could not be read.
    """

    state: TrainState
    data_state: Any
    elapsed: Mapping[str, float]
    skipped: tuple[str, ...]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: Where they are; made if it is not there.
        keep: How many of the latest are kept.
        fingerprint: What must not change when the run continues, by dotted name; JSON values.
            None only looks: nothing is compared but shapes, and nothing is written, renamed or
            cleaned, for the run may be going on in another process.
    """

    def __init__(
        self, directory: Path, *, keep: int = 1, fingerprint: Mapping[str, Any] | None = None
    ):
        self.directory = directory.absolute()
        self._fingerprint = None if fingerprint is None else dict(fingerprint)
        only_looks = fingerprint is None
        with _reraise_disk_errors(f"{directory}: no checkpoint can be written here"):
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=None if only_looks else keep,
                    enable_async_checkpointing=False,
                    cleanup_tmp_directories=not only_looks,
                    create=not only_looks,
                    read_only=only_looks,
                ),
                item_handlers={
                    "state": ocp.StandardCheckpointHandler(),
                    "run": ocp.JsonCheckpointHandler(),
                },
            )

    @property
    def latest_step(self) -> int | None:
        """The step of the newest checkpoint."""
        return self._manager.latest_step()

    @property
    def latest_description(self) -> str:
        """A few words that say which checkpoint a run could continue from."""
        if self.latest_step is None:
            return "there is no checkpoint before it"
        return f"the last good one is {self.directory / str(self.latest_step)}"

    def save(
        self, state: TrainState, data_state: Any, elapsed: Mapping[str, float] | None = None
    ) -> None:
        """Writes a checkpoint of `state` and the data iterator's state, unless it is there.

        Args:
            state: The state.
            data: The data iterator's.
            effort: What the run has cost so far; numbers by name.

        Raises:
            UserError: when the disk does not take it; those before are untouched.
        """
        step = int(state.step)
        if step == self.latest_step:
            return
        run = {"data": data_state, "effort": dict(elapsed or {}), "fingerprint": self._fingerprint}
        what = f"{self.directory / str(step)}: the checkpoint could not be written"
        try:
            with _reraise_disk_errors(f"{what} ({self.latest_description})"):
                self._manager.save(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(_saved_fields(state)),
                        run=ocp.args.JsonSave(run),
                    ),
                    force=True,
                )
        except UserError:
            self._remove_unfinished()
            raise

    def restore(self, template: TrainState) -> Restored | None:
        """The newest checkpoint that can be read, or None when there is none at all.

        Args:
            like: Shapes, dtypes and shardings (see `abstract_state`); the mesh may be another
                than the one that the checkpoint was written on.

        Raises:
            UserError: when the run that wrote it differs from this one in what must not change,
                or when there are checkpoints and none can be read.
        """
        skipped: list[str] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            place = self.directory / str(step)
            try:
                with _silence_orbax():
                    run, shapes = self._read_metadata(step)
                    self._check_compatible(place, run["fingerprint"], shapes, template)
                    parts = self._manager.restore(
                        step,
                        args=ocp.args.Composite(
                            state=ocp.args.StandardRestore(_saved_fields(template))
                        ),
                    )["state"]
            except UserError:
                raise
            except Exception as error:  # noqa: BLE001  whatever it is, an older one may be whole
                reason = str(error).strip().splitlines()
                skipped.append(
                    f"{place}: cannot be read ({reason[0][:120] if reason else error!r})"
                )
                continue
            if self._fingerprint is not None:
                self._rename_unreadable(step)
            return Restored(TrainState(**parts), run["data"], run.get("effort", {}), tuple(skipped))
        if skipped:
            raise UserError(*skipped, "No checkpoint is left: start in another run folder.")
        return None

    def close(self) -> None:
        """Ends Orbax's threads."""
        self._manager.close()

    def _read_metadata(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The JSON part of a checkpoint, and its arrays' shapes and dtypes by name."""
        run = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))[
            "run"
        ]
        tree = self._manager.item_metadata(step)["state"].tree
        return run, _array_specs(tree)

    def _check_compatible(
        self,
        path: Path,
        saved_fingerprint: dict[str, Any],
        shapes: dict[str, str],
        template: TrainState,
    ) -> None:
        now = saved_fingerprint if self._fingerprint is None else self._fingerprint
        lines = [
            f"{path}: was written with {name} = {saved_fingerprint.get(name)!r}, not {now.get(name)!r}."
            for name in sorted({*saved_fingerprint, *now})
            if saved_fingerprint.get(name) != now.get(name)
        ]
        wanted = _array_specs(template)
        lines += [
            f"{path}: `{name}` is {shapes.get(name, 'missing')}, "
            f"and this config makes it {wanted.get(name, 'nothing')}."
            for name in sorted({*shapes, *wanted})
            if shapes.get(name) != wanted.get(name)
        ]
        if lines:
            raise UserError(
                *lines,
                "Continue with the config and the data that the run began with, or choose another "
                "run folder (`output=...`).",
            )

    def _rename_unreadable(self, restored_step: int) -> None:
        """Renames newer checkpoints, none of which could be read, so that steps can be saved."""
        for step in self._manager.all_steps():
            if step > restored_step and jax.process_index() == 0:
                place = self.directory / str(step)
                place.rename(place.with_name(f"unreadable-{step}"))
        self._manager.reload()

    def _remove_unfinished(self) -> None:
        for place in self.directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(place, ignore_errors=True)


def _saved_fields(state: TrainState) -> dict[str, Any]:
    """What is written of a state, by name: no modules where no objective has any.

    Orbax would write that there are none, and not read what was written when nobody had them.
    """
    parts = dict(vars(state))
    return parts if state.modules else {k: part for k, part in parts.items() if k != "modules"}


def _array_specs(tree: Any) -> dict[str, str]:
    """`float32[2, 3]` for each array of a tree, by its dotted name."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): (
            f"{jax.numpy.dtype(leaf.dtype)}{list(leaf.shape)}"
        )
        for path, leaf in leaves
    }


@contextlib.contextmanager
def _reraise_disk_errors(what: str) -> Iterator[None]:
    """Turns what the file system refuses into one line."""
    try:
        with _silence_orbax():
            yield
    except (OSError, ValueError) as error:
        # TensorStore reports the system's error number inside the text of a ValueError.
        found = re.search(r"os_error_code='(\d+)'", str(error))
        number = int(found[1]) if found else getattr(error, "errno", None)
        if number is None:
            raise
        cure = "Mend that, and the same command goes on."
        raise UserError(f"{what}: {os.strerror(number)}. {cure}") from None


@contextlib.contextmanager
def _silence_orbax() -> Iterator[None]:
    """Without Orbax's own tracebacks on the console: what matters is raised."""
    logger, hook = logging.getLogger("absl"), sys.unraisablehook
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    try:
        yield
    except Exception:
        # When one array fails Orbax closes its event loop, and TensorStore's threads then find
        # nobody to tell of the others. They would say so on the console.
        time.sleep(0.2)
        raise
    finally:
        logger.setLevel(level)
        sys.unraisablehook = hook
