"""The same step with Tunix."""

import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import shapes
from flax import nnx
from measure import tell
from tunix.distillation.distillation_trainer import TrainingInput
from tunix.models.llama3.model import Llama3
from tunix_parts import config, trainer, words

WARM_UP, STEPS = 2, 5
size = shapes.BATCH, shapes.LENGTH


def model(layers: int) -> Llama3:
    """A model of `layers` layers, in float32."""
    made = Llama3(config(layers), rngs=nnx.Rngs(0))
    nnx.update(made, jax.tree.map(lambda a: a.astype(jnp.float32), nnx.state(made)))
    return made


def batches(times: list[float]) -> Iterator[TrainingInput]:
    """The same batch again and again, and when each was asked for."""
    tokens = np.random.default_rng(0).integers(0, words, size, np.int32)
    for _ in range(WARM_UP + STEPS + 1):
        times.append(time.perf_counter())
        yield TrainingInput(input_tokens=tokens, input_mask=np.ones(size, bool))


with jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp")):
    asked: list[float] = []
    student, teacher = model(shapes.STUDENT_LAYERS), model(shapes.LAYERS)
    trainer(student, teacher, WARM_UP + STEPS + 1).train(batches(asked))
tell(np.diff(asked)[WARM_UP:].tolist(), units=shapes.BATCH * shapes.LENGTH)
