"""The training loop: its order can be read from top to bottom."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import rich
from jax.sharding import NamedSharding
from rich.console import Console

from jaxdistill.errors import UserError
from jaxdistill.track import Progress, Tracker
from jaxdistill.train.checkpoint import Checkpoints
from jaxdistill.train.interrupt import Interrupt
from jaxdistill.train.state import TrainState
from jaxdistill.train.step import Metrics, StepFunction
from jaxdistill.types import Batch

Hook = tuple[int, Callable[[int, TrainState], Mapping[str, float]]]
"""`(every, function)`: at each step that `every` divides, the numbers to be recorded with it."""


@runtime_checkable
class Batches(Protocol):
    """An endless iterator over batches of NumPy arrays that can say where it is, as JSON."""

    def __next__(self) -> Batch:
        """The next batch."""
        ...

    def get_state(self) -> Any:
        """Where the iterator is: what has been handed out, and not what was made ahead."""
        ...


class NonFiniteError(UserError):
    """The loss or the gradient became infinite or not a number."""


def train(
    step: StepFunction,
    state: TrainState,
    teacher_params: Any,
    batches: Batches,
    *,
    num_steps: int,
    sharding: NamedSharding,
    trackers: Sequence[Tracker],
    log_every_steps: int,
    hooks: Sequence[Hook] = (),
    checkpoints: Checkpoints | None = None,
    save_every_steps: int = 1,
    place_of: Callable[[int], str] = str,
    effort: Mapping[str, float] | None = None,
) -> TrainState:
    """Trains until `num_steps` steps are done, or until a signal asks to stop.

    Numbers are read one step late, so that the next batch is made while the devices work; before
    a hook or a checkpoint they are read at once, so that a state that is not finite is never
    saved and a record is never younger than its checkpoint.

    Args:
        step: The compiled step (`jit_step`).
        state: Where to begin: fresh or restored. It is donated.
        teacher_params: Handed to the step.
        batches: The data. Every process reads the same batches and keeps its devices' share.
        num_steps: How many steps the whole run has.
        sharding: How a batch is split (`batch_sharding`).
        trackers: Where numbers go; empty on processes other than 0.
        log_every_steps: The step's own numbers are recorded whenever this divides the step, and
            at the last one.
        hooks: What else is measured.
        checkpoints: Where to save; None saves nothing.
        save_every_steps: How often; the last step, and the one after a signal, are saved too.
        place_of: Where the row of a number stands, in words.
        effort: What the run had cost when its checkpoint was saved (`Restored.effort`).

    Returns:
        The state after the last step that was made; `state.step` tells which.

    Raises:
        NonFiniteError: naming the step, the rows of its batch, and the last good checkpoint.
    """
    done = int(state.step)
    log = _Log(trackers, num_steps, log_every_steps, checkpoints, place_of, effort or {})
    console = rich.get_console() if jax.process_index() == 0 else Console(quiet=True)
    stopping = False
    with (
        Interrupt() as interrupt,
        Progress("train", num_steps, completed=done, console=console) as progress,
    ):
        while done < num_steps and not stopping:
            batch = next(batches)
            state, metrics = step(state, teacher_params, _placed(batch, sharding))
            done += 1
            log.settle(progress)
            log.pending = _Pending(done, metrics, batch)

            stopping = interrupt.agreed()
            is_last = stopping or done == num_steps
            due = [hook for every, hook in hooks if done % every == 0]
            is_saved = checkpoints and (is_last or done % save_every_steps == 0)
            if due or is_saved or is_last:
                log.settle(progress)
            if checkpoints and stopping:  # a scheduler may not wait for what is measured next
                checkpoints.save(state, batches.get_state(), log.effort())
            for hook in due:
                log.record(done, hook(done, state))
            if checkpoints and is_saved:
                checkpoints.save(state, batches.get_state(), log.effort())
    if done < num_steps:
        line = _farewell(done, num_steps, checkpoints)
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return state


@dataclass(frozen=True)
class _Pending:
    """A step whose numbers have not been read yet."""

    step: int
    metrics: Metrics
    batch: Batch


class _Log:
    """Reads the numbers of a step, checks them, and hands them on."""

    def __init__(
        self,
        trackers: Sequence[Tracker],
        num_steps: int,
        log_every_steps: int,
        checkpoints: Checkpoints | None,
        place_of: Callable[[int], str],
        effort: Mapping[str, float],
    ):
        self.pending: _Pending | None = None
        self._trackers = trackers
        self._num_steps = num_steps
        self._log_every_steps = log_every_steps
        self._checkpoints = checkpoints
        self._place_of = place_of
        # A run that goes on has cost what its parts cost together.
        self._start = time.monotonic() - effort.get("seconds", 0)
        self._since = self._start + effort.get("recorded_seconds", 0)
        self._tokens = effort.get("unrecorded_tokens", 0)

    def effort(self) -> dict[str, float]:
        """The seconds so far, those up to the last record, and the tokens since then."""
        return {
            "seconds": time.monotonic() - self._start,
            "recorded_seconds": self._since - self._start,
            "unrecorded_tokens": self._tokens,
        }

    def settle(self, progress: Progress) -> None:
        """Waits for the pending step, if there is one, and records it."""
        if self.pending is None:
            return
        pending, self.pending = self.pending, None
        values = {name: value.item() for name, value in jax.device_get(pending.metrics).items()}
        if bad := [name for name, value in values.items() if not math.isfinite(value)]:
            raise self._not_finite(pending, {name: values[name] for name in bad})
        self._tokens += values["train/tokens"]
        progress.advance(tokens=values["train/tokens"], note=f"loss {values['train/loss']:.4g}")
        if pending.step % self._log_every_steps == 0 or pending.step == self._num_steps:
            self.record(pending.step, {**values, **self._times()})

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Hands numbers to every tracker."""
        for tracker in self._trackers:
            tracker.metrics(step, values)

    def _times(self) -> dict[str, float]:
        now = time.monotonic()
        speed = self._tokens / max(now - self._since, 1e-9)
        self._since, self._tokens = now, 0
        return {"time/seconds": now - self._start, "time/tokens_per_second": speed}

    def _not_finite(self, pending: _Pending, bad: Mapping[str, float]) -> NonFiniteError:
        named = ", ".join(f"{name} is {value}" for name, value in bad.items())
        numbers = np.unique(pending.batch.row_ids)
        rows = [self._place_of(int(number)) for number in numbers[numbers >= 0]]
        last_good = f"; {self._checkpoints.last_good}" if self._checkpoints else ""
        return NonFiniteError(
            f"step {pending.step}: {named}.",
            f"The batch was made of the rows {', '.join(rows)}.",
            f"It was not saved{last_good}. Look at these rows, or lower "
            "`train.optimizer.learning_rate` or the `weight` of an objective.",
        )


def _placed(batch: Batch, sharding: NamedSharding) -> Batch:
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, array, array.shape), batch
    )


def _farewell(done: int, num_steps: int, checkpoints: Checkpoints | None) -> str:
    if checkpoints is None:
        return f"Stopped after step {done} of {num_steps}; nothing is saved."
    return (
        f"Stopped after step {done} of {num_steps}, saved in {checkpoints.directory / str(done)}. "
        "The same command continues from there."
    )
