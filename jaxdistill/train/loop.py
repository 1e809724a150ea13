"""Training loop: batches, steps, records, hooks and checkpoints, in the order that they happen."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
import rich
from jax.sharding import NamedSharding
from rich.console import Console

from jaxdistill.errors import UserError
from jaxdistill.sharding import shard_batch
from jaxdistill.track import Progress, Tracker
from jaxdistill.train.checkpoint import Checkpoints, Elapsed
from jaxdistill.train.interrupt import Interrupt
from jaxdistill.train.state import TrainState
from jaxdistill.train.step import Frozen, Metrics, StepFunction
from jaxdistill.types import Batch


class Hook(NamedTuple):
    """Function to call after every `every_steps`-th step; its values are recorded."""

    every_steps: int
    function: Callable[[int, TrainState], Mapping[str, float]]


@runtime_checkable
class BatchIterator(Protocol):
    """Endless iterator over batches of NumPy arrays whose state is JSON."""

    def __next__(self) -> Batch: ...

    def get_state(self) -> Any:
        """Return the state after the last returned batch; prepared batches do not count."""
        ...


class NonFiniteError(UserError):
    """Loss or gradient that is infinite or not a number."""


def train_loop(
    step: StepFunction,
    state: TrainState,
    frozen: Frozen,
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
    elapsed: Elapsed | None = None,
) -> TrainState:
    """Train until `num_steps` steps are done, or until a signal asks to stop.

    Metrics are read one step late, so that the next batch is prepared while the devices work.
    Before a hook or a checkpoint they are read at once. A state that is not finite is therefore
    never saved, and a checkpoint is never newer than its record.

    Args:
        step: The compiled step (`jit_step`).
        state: State to start from, new or restored. It is donated.
        frozen: Parameters of the teacher and fitted arrays of objectives.
        batches: The data, the same in every process.
        num_steps: Number of steps in the whole run.
        sharding: Sharding of a batch (`batch_sharding`).
        trackers: Trackers to record with; empty on processes other than 0.
        log_every_steps: Record the step's metrics at multiples of this step, and at the last step.
        hooks: Further measurements.
        checkpoints: Where to save; None saves nothing.
        save_every_steps: Save at multiples of this step, at the last step and after a signal.
        source_of: Returns the source of an example by its id, for messages.
        elapsed: Time and tokens of the run up to its restored checkpoint (`Restored.elapsed`).

    Returns:
        The state after the last completed step, whose number is `state.step`.

    Raises:
        NonFiniteError: Naming the step, the sources of its batch and the last good checkpoint.
    """
    done = int(state.step)
    elapsed = elapsed or Elapsed()
    log = _MetricLogger(trackers, num_steps, log_every_steps, checkpoints, source_of, elapsed)
    console = rich.get_console() if jax.process_index() == 0 else Console(quiet=True)
    is_stopping = False
    with (
        Interrupt.catch() as interrupt,
        Progress("train", num_steps, completed=done, console=console) as progress,
    ):
        while done < num_steps and not is_stopping:
            batch = next(batches)
            state, metrics = step(state, frozen, shard_batch(batch, sharding))
            done += 1
            log.flush(progress)
            log.pending = _PendingStep(done, metrics, batch)

            is_stopping = interrupt.should_stop()
            is_last = is_stopping or done == num_steps
            due_hooks = [hook for hook in hooks if done % hook.every_steps == 0]
            is_saved = checkpoints and (is_last or done % save_every_steps == 0)
            if due_hooks or is_saved or is_last:
                log.flush(progress)
            if checkpoints and is_stopping:  # a scheduler may not wait for slow hooks
                checkpoints.save(state, batches.get_state(), log.elapsed())
            for hook in due_hooks:
                log.record(done, hook.function(done, state))
            if checkpoints and is_saved:
                checkpoints.save(state, batches.get_state(), log.elapsed())
    if done < num_steps:
        line = _stop_message(done, num_steps, checkpoints)
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return state


class _PendingStep(NamedTuple):
    """Step whose metrics have not been read yet."""

    step: int
    metrics: Metrics
    batch: Batch


@dataclass
class _MetricLogger:
    """Reader of a step's metrics: checks that they are finite and passes them to the trackers."""

    trackers: Sequence[Tracker]
    num_steps: int
    log_every_steps: int
    checkpoints: Checkpoints | None
    source_of: Callable[[int], str]
    elapsed_before: Elapsed
    pending: _PendingStep | None = None

    def __post_init__(self) -> None:
        # The time of a continued run is the sum over its parts.
        self._start = time.monotonic() - self.elapsed_before.seconds
        self._recorded_at = self._start + self.elapsed_before.recorded_seconds
        self._unrecorded_tokens = self.elapsed_before.unrecorded_tokens

    def elapsed(self) -> Elapsed:
        """Return the time and tokens of the run so far."""
        return Elapsed(
            seconds=time.monotonic() - self._start,
            recorded_seconds=self._recorded_at - self._start,
            unrecorded_tokens=self._unrecorded_tokens,
        )

    def flush(self, progress: Progress) -> None:
        """Wait for the pending step, if any, and record it."""
        if self.pending is None:
            return
        pending, self.pending = self.pending, None
        values = {name: value.item() for name, value in jax.device_get(pending.metrics).items()}
        if bad := [name for name, value in values.items() if not math.isfinite(value)]:
            raise self._nonfinite_error(pending, {name: values[name] for name in bad})
        self._unrecorded_tokens += values["train/tokens"]
        progress.advance(tokens=values["train/tokens"], note=f"loss {values['train/loss']:.4g}")
        if pending.step % self.log_every_steps == 0 or pending.step == self.num_steps:
            self.record(pending.step, {**values, **self._times()})

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Pass metrics to every tracker."""
        for tracker in self.trackers:
            tracker.log_metrics(step, values)

    def _times(self) -> dict[str, float]:
        now = time.monotonic()
        speed = self._unrecorded_tokens / max(now - self._recorded_at, 1e-9)
        self._recorded_at, self._unrecorded_tokens = now, 0
        return {"time/seconds": now - self._start, "time/tokens_per_second": speed}

    def _nonfinite_error(self, pending: _PendingStep, bad: Mapping[str, float]) -> NonFiniteError:
        values = ", ".join(f"{name} is {value}" for name, value in bad.items())
        example_ids = np.unique(pending.batch.example_ids)
        sources = [self.source_of(int(number)) for number in example_ids[example_ids >= 0]]
        last_good = f"; {self.checkpoints.latest_description}" if self.checkpoints else ""
        return NonFiniteError(
            f"step {pending.step}: {values}.",
            f"The batch was made of the rows {', '.join(sources)}.",
            f"It was not saved{last_good}. Look at these rows, or lower "
            "`train.optimizer.learning_rate` or the `weight` of an objective.",
        )


def _stop_message(done: int, num_steps: int, checkpoints: Checkpoints | None) -> str:
    if checkpoints is None:
        return f"Stopped after step {done} of {num_steps}; nothing is saved."
    return (
        f"Stopped after step {done} of {num_steps}, saved in {checkpoints.directory / str(done)}. "
        "The same command continues from there."
    )
