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
class BatchIterator(Protocol):
    """An endless iterator over batches of NumPy arrays that can say where it is, as JSON."""

    def __next__(self) -> Batch:
        """The next batch."""
        ...

    def get_state(self) -> Any:
        """Where the iterator is: what has been handed out, and not what was made ahead."""
        ...


class NonFiniteError(UserError):
    """The loss or the gradient became infinite or not a number."""


def train_loop(
    step: StepFunction,
    state: TrainState,
    teacher_params: Any,
    batches: BatchIterator,
    *,
    num_steps: int,
    sharding: NamedSharding,
    trackers: Sequence[Tracker],
    log_every_steps: int,
    hooks: Sequence[Hook] = (),
    checkpoints: Checkpoints | None = None,
    save_every_steps: int = 1,
    source_of: Callable[[int], str] = str,
    elapsed: Mapping[str, float] | None = None,
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
    log = _MetricLogger(trackers, num_steps, log_every_steps, checkpoints, source_of, elapsed or {})
    console = rich.get_console() if jax.process_index() == 0 else Console(quiet=True)
    stopping = False
    with (
        Interrupt() as interrupt,
        Progress("train", num_steps, completed=done, console=console) as progress,
    ):
        while done < num_steps and not stopping:
            batch = next(batches)
            state, metrics = step(state, teacher_params, _shard_batch(batch, sharding))
            done += 1
            log.flush(progress)
            log.pending = _PendingStep(done, metrics, batch)

            stopping = interrupt.should_stop()
            is_last = stopping or done == num_steps
            due = [hook for every, hook in hooks if done % every == 0]
            is_saved = checkpoints and (is_last or done % save_every_steps == 0)
            if due or is_saved or is_last:
                log.flush(progress)
            if checkpoints and stopping:  # a scheduler may not wait for what is measured next
                checkpoints.save(state, batches.get_state(), log.elapsed())
            for hook in due:
                log.record(done, hook(done, state))
            if checkpoints and is_saved:
                checkpoints.save(state, batches.get_state(), log.elapsed())
    if done < num_steps:
        line = _stop_message(done, num_steps, checkpoints)
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return state


@dataclass(frozen=True)
class _PendingStep:
    """A step whose numbers have not been read yet."""

    step: int
    metrics: Metrics
    batch: Batch


class _MetricLogger:
    """Reads the numbers of a step, checks them, and hands them on."""

    def __init__(
        self,
        trackers: Sequence[Tracker],
        num_steps: int,
        log_every_steps: int,
        checkpoints: Checkpoints | None,
        source_of: Callable[[int], str],
        elapsed: Mapping[str, float],
    ):
        self.pending: _PendingStep | None = None
        self._trackers = trackers
        self._num_steps = num_steps
        self._log_every_steps = log_every_steps
        self._checkpoints = checkpoints
        self._source_of = source_of
        # A run that goes on has cost what its parts cost together.
        self._start = time.monotonic() - elapsed.get("seconds", 0)
        self._recorded_at = self._start + elapsed.get("recorded_seconds", 0)
        self._unrecorded_tokens = elapsed.get("unrecorded_tokens", 0)

    def elapsed(self) -> dict[str, float]:
        """The seconds so far, those up to the last record, and the tokens since then."""
        return {
            "seconds": time.monotonic() - self._start,
            "recorded_seconds": self._recorded_at - self._start,
            "unrecorded_tokens": self._unrecorded_tokens,
        }

    def flush(self, progress: Progress) -> None:
        """Waits for the pending step, if there is one, and records it."""
        if self.pending is None:
            return
        pending, self.pending = self.pending, None
        values = {name: value.item() for name, value in jax.device_get(pending.metrics).items()}
        if bad := [name for name, value in values.items() if not math.isfinite(value)]:
            raise self._nonfinite_error(pending, {name: values[name] for name in bad})
        self._unrecorded_tokens += values["train/tokens"]
        progress.advance(tokens=values["train/tokens"], note=f"loss {values['train/loss']:.4g}")
        if pending.step % self._log_every_steps == 0 or pending.step == self._num_steps:
            self.record(pending.step, {**values, **self._times()})

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Hands numbers to every tracker."""
        for tracker in self._trackers:
            tracker.log_metrics(step, values)

    def _times(self) -> dict[str, float]:
        now = time.monotonic()
        speed = self._unrecorded_tokens / max(now - self._recorded_at, 1e-9)
        self._recorded_at, self._unrecorded_tokens = now, 0
        return {"time/seconds": now - self._start, "time/tokens_per_second": speed}

    def _nonfinite_error(self, pending: _PendingStep, bad: Mapping[str, float]) -> NonFiniteError:
        named = ", ".join(f"{name} is {value}" for name, value in bad.items())
        numbers = np.unique(pending.batch.example_ids)
        rows = [self._source_of(int(number)) for number in numbers[numbers >= 0]]
        latest_description = (
            f"; {self._checkpoints.latest_description}" if self._checkpoints else ""
        )
        return NonFiniteError(
            f"step {pending.step}: {named}.",
            f"The batch was made of the rows {', '.join(rows)}.",
            f"It was not saved{latest_description}. Look at these rows, or lower "
            "`train.optimizer.learning_rate` or the `weight` of an objective.",
        )


def _shard_batch(batch: Batch, sharding: NamedSharding) -> Batch:
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, array, array.shape), batch
    )


def _stop_message(done: int, num_steps: int, checkpoints: Checkpoints | None) -> str:
    if checkpoints is None:
        return f"Stopped after step {done} of {num_steps}; nothing is saved."
    return (
        f"Stopped after step {done} of {num_steps}, saved in {checkpoints.directory / str(done)}. "
        "The same command continues from there."
    )
