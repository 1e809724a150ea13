import dataclasses
import io
import json
import math
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich
from rich.console import Console

from jaxdistill.errors import UserError
from jaxdistill.report import training_effort
from jaxdistill.sharding import MeshConfig, batch_sharding, make_mesh
from jaxdistill.track import JsonlTracker
from jaxdistill.train import (
    Checkpoints,
    Fingerprint,
    Frozen,
    Hook,
    NonFiniteError,
    TrainState,
    train_loop,
)
from jaxdistill.train.interrupt import Interrupt
from jaxdistill.types import Batch

MESH = make_mesh(MeshConfig())


class CountingBatches:
    """Iterator whose n-th batch holds the number n everywhere; its state can be restored."""

    def __init__(self, at=0):
        self.at = at

    def __next__(self):
        self.at += 1
        tokens = np.full((4, 2), self.at, np.int32)
        return Batch(
            tokens=tokens,
            labels=tokens,
            loss_mask=np.ones((4, 2), np.float32),
            positions=tokens,
            segment_ids=tokens,
            example_ids=tokens + np.array([[0, 1], [0, 1], [10, 10], [-99, -99]]),
        )

    def get_state(self):
        return {"at": self.at}


@jax.jit
def step(state, frozen, batch):
    """Add the mean of the batch to the state."""
    value = batch.tokens.astype(jnp.float32).mean()
    metrics = {"train/loss": value * frozen.teacher["factor"], "train/tokens": jnp.int32(8)}
    total = state.params["total"] + value * frozen.teacher["factor"]
    return TrainState(state.step + 1, {"total": total}, ()), metrics


def initial_state():
    return TrainState(jnp.int32(0), {"total": jnp.float32(0)}, ())


def run(tmp_path=None, *, state=None, batches=None, num_steps=7, save_every_steps=3, **kwargs):
    checkpoints = None
    if tmp_path is not None:
        checkpoints = Checkpoints(tmp_path / "checkpoints", keep=3, fingerprint=Fingerprint())
    options = {"log_every_steps": 2, "trackers": [], "step": step, **kwargs}
    return train_loop(
        options.pop("step"),
        state or initial_state(),
        Frozen({"factor": jnp.float32(1)}),
        batches or CountingBatches(),
        num_steps=num_steps,
        sharding=batch_sharding(MESH),
        checkpoints=checkpoints,
        save_every_steps=save_every_steps,
        **options,
    )


class RecordingTracker:
    def __init__(self):
        self.lines = []

    def log_config(self, config):
        pass

    def log_metrics(self, step, values):
        self.lines.append((step, dict(values)))

    def close(self):
        pass


def test_every_batch_is_used_once_and_records_have_their_steps():
    tracker = RecordingTracker()
    hook_calls = []

    def hook(step, state):
        hook_calls.append((step, float(state.params["total"])))
        return {"eval/total": hook_calls[-1][1]}

    state = run(trackers=[tracker], hooks=[Hook(3, hook)])
    assert int(state.step) == 7
    assert float(state.params["total"]) == sum(range(1, 8))
    assert hook_calls == [(3, 6.0), (6, 21.0)]
    losses = [(at, values["train/loss"]) for at, values in tracker.lines if "train/loss" in values]
    assert losses == [(2, 2.0), (4, 4.0), (6, 6.0), (7, 7.0)]
    assert [at for at, _ in tracker.lines] == [2, 3, 4, 6, 6, 7]
    for _, values in tracker.lines:
        times = {name for name in values if name.startswith("time/")}
        expected = {"time/seconds", "time/tokens_per_second"} if "train/loss" in values else set()
        assert times == expected


def test_checkpoints_hold_the_state_of_the_data(tmp_path):
    run(tmp_path)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["3", "6", "7"]
    restored = Checkpoints(tmp_path / "checkpoints", keep=3, fingerprint=Fingerprint()).restore(
        template(initial_state())
    )
    assert restored.data_state == {"at": 7}
    assert float(restored.state.params["total"]) == sum(range(1, 8))


def template(state):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


@pytest.mark.parametrize(
    ("bad_step", "value"), [(1, math.nan), (4, math.inf), (6, math.nan), (7, math.nan)]
)
def test_nonfinite_loss_stops_the_run(tmp_path, bad_step, value):
    def failing_step(state, frozen, batch):
        factor = jnp.where(state.step + 1 == bad_step, value, frozen.teacher["factor"])
        return step(state, Frozen({"factor": factor}), batch)

    tracker = RecordingTracker()
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path, step=failing_step, trackers=[tracker])
    assert isinstance(caught.value, UserError)
    message, rows, cure = caught.value.lines
    assert message == f"step {bad_step}: train/loss is {value}."
    assert rows.endswith(f"rows {bad_step}, {bad_step + 1}, {bad_step + 10}.")
    saved_steps = [step for step in (3, 6) if step < bad_step]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == [str(step) for step in saved_steps]
    last_good = "no checkpoint before it"
    if saved_steps:
        last_good = f"{tmp_path}/checkpoints/{saved_steps[-1]}"
    assert last_good in cure
    assert all(at < bad_step for at, _ in tracker.lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_after_the_step_saves_and_tells_how_to_continue(
    tmp_path, monkeypatch, number, capfd
):
    console = Console(file=io.StringIO(), width=40)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    before = signal.getsignal(number)

    def hook(step, state):
        os.kill(os.getpid(), number)
        return {}

    tracker = JsonlTracker(tmp_path / "metrics.jsonl")
    state = run(tmp_path, trackers=[tracker], hooks=[Hook(4, hook)])
    tracker.close()
    assert int(state.step) == 5
    text = console.file.getvalue()
    assert f"Stopped after step 5 of 7, saved in {tmp_path}/checkpoints/5." in text
    assert "The same command continues" in text
    assert "once more stops at once" in capfd.readouterr().err
    assert signal.getsignal(number) == before

    restored = Checkpoints(tmp_path / "checkpoints", keep=3, fingerprint=Fingerprint()).restore(
        template(state)
    )
    tracker = JsonlTracker(tmp_path / "metrics.jsonl", restored_step=5)
    state = run(
        tmp_path,
        state=restored.state,
        batches=CountingBatches(**restored.data_state),
        trackers=[tracker],
        elapsed=restored.elapsed,
    )
    tracker.close()
    assert float(state.params["total"]) == sum(range(1, 8))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == [2, 4, 6, 7]
    # Step 5 was saved between two records: its time and tokens are not lost.
    seconds = [line["time/seconds"] for line in lines if "time/seconds" in line]
    assert seconds == sorted(seconds)
    assert training_effort(lines) == (7 * 8, pytest.approx(seconds[-1]))


def test_second_signal_acts_at_once(capfd):
    with Interrupt.catch() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.signal_name == "SIGINT"
        assert interrupt.should_stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupt.catch() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            assert not interrupt.should_stop()
    finally:
        signal.signal(signal.SIGINT, before)


def test_finished_run_does_not_change(tmp_path):
    done = dataclasses.replace(initial_state(), step=jnp.int32(7))
    batches = CountingBatches()
    assert run(tmp_path, state=done, batches=batches) is done
    assert batches.at == 0
    assert os.listdir(tmp_path / "checkpoints") == []


def test_next_batch_is_prepared_before_metrics_are_read():
    events = []

    class ObservedBatches(CountingBatches):
        def __next__(self):
            events.append(f"make {self.at + 1}")
            return super().__next__()

    class ObservedTracker(RecordingTracker):
        def log_metrics(self, step, values):
            events.append(f"read {step}")

    run(batches=ObservedBatches(), trackers=[ObservedTracker()], log_every_steps=1, num_steps=3)
    assert events == ["make 1", "make 2", "read 1", "make 3", "read 2", "read 3"]
