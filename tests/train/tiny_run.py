"""Tiny training run: real decoders and batches, random weights.

`python tiny_run.py FOLDER` trains it, or continues a killed run; tests also import its parts.
"""

import dataclasses
import functools
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import models
from jaxdistill.data import shuffled_batches
from jaxdistill.data.examples import Example
from jaxdistill.models import decoder
from jaxdistill.models.execution import Execution
from jaxdistill.objectives import OBJECTIVES, init_modules, learning_rate_scales
from jaxdistill.objectives.base import joint_taps
from jaxdistill.sharding import MeshConfig, batch_sharding, make_mesh, named_shardings
from jaxdistill.taps import Taps
from jaxdistill.track import JsonlTracker
from jaxdistill.train import (
    AdamW,
    Checkpoints,
    Fingerprint,
    Frozen,
    GradientBalance,
    Hook,
    TrainState,
    abstract_state,
    init_state,
    jit_step,
    last_shared_layer,
    make_step,
    state_shardings,
    train_loop,
)
from jaxdistill.train.step import StepFunction
from jaxdistill.types import Batch, HiddenSignal

VOCAB_SIZE = 37  # the LM heads have 40 rows: three of them are padding
LENGTH, BATCH_SIZE, STEPS = 24, 8, 12

STUDENT = models.DecoderConfig(
    vocab_size=40,
    embed_dim=16,
    mlp_dim=24,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    layers=(models.LayerKind(rope=models.Rope(base=10_000.0)),) * 2,
    max_positions=64,
    query_scale=8**-0.5,
    has_tied_embeddings=True,
)
TEACHER = dataclasses.replace(STUDENT, embed_dim=24, layers=STUDENT.layers[:1] * 3)


def examples(count: int = 40) -> list[Example]:
    """Return examples of different lengths, whose first tokens (the prompt) are not scored."""
    random = np.random.default_rng(0)
    rows = []
    for row_id in range(count):
        size = int(random.integers(4, LENGTH))
        tokens = random.integers(1, VOCAB_SIZE, size).astype(np.int32)
        is_scored = np.arange(size) >= max(1, size // 3)
        rows.append(
            Example(tokens=tokens, loss_mask=is_scored, row_id=row_id, num_bytes=size, source="")
        )
    return rows


def data(batch_size: int = BATCH_SIZE) -> Any:
    return shuffled_batches(examples(), length=LENGTH, batch_size=batch_size, pack=True, seed=3)


@dataclasses.dataclass(frozen=True)
class Tiny:
    """Parts of a run on one mesh. The step donates its state: pass a copy."""

    mesh: jax.sharding.Mesh
    step: StepFunction
    state: TrainState
    template: TrainState
    frozen: Frozen


@functools.cache
def fresh_params(config: models.DecoderConfig, seed: int, dtype: str = "float32") -> Any:
    """Return random parameters, norms too, from NumPy, which compiles nothing."""
    random = np.random.default_rng(seed)
    with jax.ensure_compile_time_eval():  # they are kept, and may be made while a step is traced
        return jax.tree.map(
            lambda leaf: jnp.asarray(random.normal(0.1, 0.2, leaf.shape), leaf.dtype),
            decoder.abstract_params(config, dtype),
        )


@functools.cache
def assemble(
    mesh_config: MeshConfig | None = None,
    *,
    devices: int = 4,
    accumulate: int = 1,
    chunk_size: int = 16,
    objectives: tuple[str, ...] = ("forward_kl", "cross_entropy"),
    weights: tuple[Any, ...] = (0.5, 1.5, 2.5, 3.5, 4.5),
    optimizer: AdamW = AdamW(learning_rate=0.01, warmup_steps=3, weight_decay=0.1),  # noqa: B008
    num_steps: int = STEPS,
    student: models.DecoderConfig = STUDENT,
    dtype: str = "float32",
    is_balanced: bool = False,
) -> Tiny:
    """Build a tiny run on a mesh of `devices` devices."""
    mesh = make_mesh(mesh_config or MeshConfig(), jax.devices()[:devices])
    axes = decoder.parameter_axes(student)
    shapes = decoder.abstract_params(student, dtype)
    widths = [models.DecoderModel(config).widths for config in (student, TEACHER)]
    chosen = [
        OBJECTIVES[name](weight=weight).bind(*widths)
        for name, weight in zip(objectives, weights, strict=False)
    ]
    taps = joint_taps(chosen)
    modules = init_modules(chosen, 7, *widths)
    transform = optimizer.make_optimizer(
        num_steps,
        {**axes, **jax.tree.map(lambda leaf: (None,) * leaf.ndim, modules)},
        learning_rate_scales(chosen),
    )
    param_shardings = named_shardings(mesh, axes, shapes)
    shardings = state_shardings(mesh, shapes, param_shardings, transform, modules)
    teacher_axes = decoder.parameter_axes(TEACHER)
    teacher_params = fresh_params(TEACHER, 1)
    teacher_shardings = named_shardings(mesh, teacher_axes, teacher_params)

    def signal(
        config: models.DecoderConfig, taps: Taps, params: Any, batch: Batch, **options: Any
    ) -> HiddenSignal:
        model = models.DecoderModel(config, Execution(mesh))
        return model.signal(params, batch, vocab_size=VOCAB_SIZE, taps=taps, **options)

    balance = None
    if is_balanced:
        layer = last_shared_layer(chosen, widths[0])
        tapped = functools.partial(signal, student, taps[0] | Taps(hidden=(layer,)))
        balance = GradientBalance(layer, widths[0].hidden, tapped)

    needs_teacher = any(objective.needs_teacher for objective in chosen)
    step = make_step(
        student_signal=functools.partial(signal, student, taps[0]),
        teacher_signal=functools.partial(signal, TEACHER, taps[1]) if needs_teacher else None,
        objectives=chosen,
        optimizer=transform,
        learning_rate=optimizer.learning_rate_schedule(num_steps),
        shardings=shardings,
        mesh=mesh,
        accumulate=accumulate,
        chunk_size=chunk_size,
        balance=balance,
    )
    return Tiny(
        mesh,
        jit_step(step, shardings, teacher_shardings, mesh),
        init_state(fresh_params(student, 0, dtype), transform, shardings, modules),
        abstract_state(shapes, transform, shardings, modules),
        Frozen(jax.device_put(teacher_params, teacher_shardings)),
    )


def main(folder: Path, pause_seconds: float = 0.0) -> None:
    """Train for `STEPS` steps, save every third, and write the parameters to `params.npz`."""
    tiny = assemble(devices=1)
    checkpoints = Checkpoints(folder / "checkpoints", keep=2, fingerprint=Fingerprint({"seed": 3}))
    restored = checkpoints.restore(tiny.template)
    state, iterator = tiny.state, data()
    if restored is not None:
        state = restored.state
        iterator.set_state(restored.data_state)
    step = int(state.step) if restored is not None else None
    tracker = JsonlTracker(folder / "metrics.jsonl", restored_step=step)

    def pause(step: int, state: TrainState) -> dict[str, float]:
        time.sleep(pause_seconds)  # gives a test the time to kill this process
        return {"eval/first": float(state.params["final_norm"]["scale"][0])}

    state = train_loop(
        tiny.step,
        state,
        tiny.frozen,
        iterator,
        num_steps=STEPS,
        sharding=batch_sharding(tiny.mesh),
        trackers=[tracker],
        log_every_steps=1,
        hooks=[Hook(2, pause)],
        checkpoints=checkpoints,
        save_every_steps=3,
    )
    tracker.close()
    checkpoints.close()
    flat = jax.tree_util.tree_leaves_with_path(state.params)
    np.savez(folder / "params.npz", **{jax.tree_util.keystr(path): leaf for path, leaf in flat})


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(float, sys.argv[2:]))
