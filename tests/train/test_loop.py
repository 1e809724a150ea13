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
from jaxdistill.train import Checkpoints, NonFiniteError, TrainState, train_loop
from jaxdistill.train.interrupt import Interrupt
from jaxdistill.types import Batch

MESH = make_mesh(MeshConfig())


class Counting:
    """An iterator whose batch n is full of n: easy to follow, and it can be rewound."""

    def __init__(self, at=0):
        self.at = at

    def __next__(self):
        self.at += 1
        full = np.full((4, 2), self.at, np.int32)
        return Batch(
            tokens=full,
            labels=full,
            loss_mask=np.ones((4, 2), np.float32),
            positions=full,
            segment_ids=full,
            example_ids=full + np.array([[0, 1], [0, 1], [10, 10], [-99, -99]]),
        )

    def get_state(self):
        return {"at": self.at}


@jax.jit
def step(state, teacher_params, batch):
    """A state that remembers the mean of the batches that it saw."""
    value = batch.tokens.astype(jnp.float32).mean()
    metrics = {"train/loss": value * teacher_params, "train/tokens": jnp.int32(8)}
    seen = state.params["seen"] + value * teacher_params
    return TrainState(state.step + 1, {"seen": seen}, ()), metrics


def fresh():
    return TrainState(jnp.int32(0), {"seen": jnp.float32(0)}, ())


def run(tmp_path=None, *, state=None, batches=None, num_steps=7, save_every_steps=3, **kwargs):
    checkpoints = None
    if tmp_path is not None:
        checkpoints = Checkpoints(tmp_path / "checkpoints", keep=3, fingerprint={})
    options = {"log_every_steps": 2, "trackers": [], "step": step, **kwargs}
    return train_loop(
        options.pop("step"),
        state or fresh(),
        jnp.float32(1),
        batches or Counting(),
        num_steps=num_steps,
        sharding=batch_sharding(MESH),
        checkpoints=checkpoints,
        save_every_steps=save_every_steps,
        **options,
    )


class Recorder:
    def __init__(self):
        self.lines = []

    def log_config(self, config):
        pass

    def log_metrics(self, step, values):
        self.lines.append((step, dict(values)))

    def close(self):
        pass


def test_every_batch_is_seen_once_and_the_record_is_at_its_steps():
    tracker = Recorder()
    hooked = []

    def hook(step, state):
        hooked.append((step, float(state.params["seen"])))
        return {"eval/seen": hooked[-1][1]}

    state = run(trackers=[tracker], hooks=[(3, hook)])
    assert int(state.step) == 7
    assert float(state.params["seen"]) == sum(range(1, 8))
    assert hooked == [(3, 6.0), (6, 21.0)]
    assert [
        (at, values["train/loss"]) for at, values in tracker.lines if "train/loss" in values
    ] == [
        (2, 2.0),
        (4, 4.0),
        (6, 6.0),
        (7, 7.0),
    ]
    assert [at for at, _ in tracker.lines] == [2, 3, 4, 6, 6, 7]
    for _, values in tracker.lines:
        timed = {name for name in values if name.startswith("time/")}
        assert timed == (
            {"time/seconds", "time/tokens_per_second"} if "train/loss" in values else set()
        )


def test_checkpoints_hold_the_place_in_the_data(tmp_path):
    run(tmp_path)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["3", "6", "7"]
    restored = Checkpoints(tmp_path / "checkpoints", keep=3, fingerprint={}).restore(like(fresh()))
    assert restored.data_state == {"at": 7}
    assert float(restored.state.params["seen"]) == sum(range(1, 8))


def like(state):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


@pytest.mark.parametrize("bad_step", [1, 4, 6, 7])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, bad_step, value):
    def breaking(state, teacher_params, batch):
        factor = jnp.where(state.step + 1 == bad_step, value, teacher_params)
        return step(state, factor, batch)

    tracker = Recorder()
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path, step=breaking, trackers=[tracker])
    assert isinstance(caught.value, UserError)
    where, rows, cure = caught.value.lines
    assert where == f"step {bad_step}: train/loss is {value}."
    assert rows.endswith(f"rows {bad_step}, {bad_step + 1}, {bad_step + 10}.")
    saved = [saved for saved in (3, 6) if saved < bad_step]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == [str(one) for one in saved]
    good = f"{tmp_path}/checkpoints/{saved[-1]}" if saved else "no checkpoint before it"
    assert good in cure
    assert all(at < bad_step for at, _ in tracker.lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(
    tmp_path, monkeypatch, number, capfd
):
    console = Console(file=io.StringIO(), width=40)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    before = signal.getsignal(number)

    def hook(step, state):
        os.kill(os.getpid(), number)
        return {}

    tracker = JsonlTracker(tmp_path / "metrics.jsonl")
    state = run(tmp_path, trackers=[tracker], hooks=[(4, hook)])
    tracker.close()
    assert int(state.step) == 5
    text = console.file.getvalue()
    assert f"Stopped after step 5 of 7, saved in {tmp_path}/checkpoints/5." in text
    assert "The same command continues" in text
    assert "once more stops at once" in capfd.readouterr().err
    assert signal.getsignal(number) == before

    restored = Checkpoints(tmp_path / "checkpoints", keep=3, fingerprint={}).restore(like(state))
    tracker = JsonlTracker(tmp_path / "metrics.jsonl", restored_step=5)
    state = run(
        tmp_path,
        state=restored.state,
        batches=Counting(**restored.data_state),
        trackers=[tracker],
        effort=restored.elapsed,
    )
    tracker.close()
    assert float(state.params["seen"]) == sum(range(1, 8))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == [2, 4, 6, 7]
    # Step 5 was saved between two records: what it cost is not lost.
    seconds = [line["time/seconds"] for line in lines if "time/seconds" in line]
    assert seconds == sorted(seconds)
    assert training_effort(lines) == (7 * 8, pytest.approx(seconds[-1]))


def test_a_second_signal_is_not_held_back(capfd):
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.signal_name == "SIGINT"
        assert interrupt.should_stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            assert not interrupt.should_stop()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_finished_run_is_left_alone(tmp_path):
    done = dataclasses.replace(fresh(), step=jnp.int32(7))
    batches = Counting()
    assert run(tmp_path, state=done, batches=batches) is done
    assert batches.at == 0
    assert os.listdir(tmp_path / "checkpoints") == []


def test_the_next_batch_is_made_before_numbers_are_read():
    order = []

    class Watched(Counting):
        def __next__(self):
            order.append(f"make {self.at + 1}")
            return super().__next__()

    class Watching(Recorder):
        def log_metrics(self, step, values):
            order.append(f"read {step}")

    run(batches=Watched(), trackers=[Watching()], log_every_steps=1, num_steps=3)
    assert order == ["make 1", "make 2", "read 1", "make 3", "read 2", "read 3"]
