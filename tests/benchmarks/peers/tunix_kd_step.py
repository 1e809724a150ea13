"""Peer of `ours/kd_step.py`: Tunix's distillation trainer."""

import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import shapes
from flax import nnx
from timing import print_timings
from tunix.distillation.distillation_trainer import TrainingInput
from tunix.models.llama3.model import Llama3
from tunix_trainer import VOCAB_SIZE, make_config, make_trainer

WARM_UP, STEPS = 2, 5
batch_shape = shapes.BATCH_SIZE, shapes.LENGTH


def make_model(num_layers: int) -> Llama3:
    """Return a model of `num_layers` layers in float32."""
    model = Llama3(make_config(num_layers), rngs=nnx.Rngs(0))
    nnx.update(model, jax.tree.map(lambda a: a.astype(jnp.float32), nnx.state(model)))
    return model


def repeat_batch(request_times: list[float]) -> Iterator[TrainingInput]:
    """Yield one batch repeatedly; append the time of each request to `request_times`."""
    tokens = np.random.default_rng(0).integers(0, VOCAB_SIZE, batch_shape, np.int32)
    for _ in range(WARM_UP + STEPS + 1):
        request_times.append(time.perf_counter())
        yield TrainingInput(input_tokens=tokens, input_mask=np.ones(batch_shape, bool))


with jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp")):
    request_times: list[float] = []
    student, teacher = make_model(shapes.NUM_STUDENT_LAYERS), make_model(shapes.NUM_LAYERS)
    make_trainer(student, teacher, WARM_UP + STEPS + 1).train(repeat_batch(request_times))
seconds = np.diff(request_times)[WARM_UP:].tolist()
print_timings(seconds, units=shapes.BATCH_SIZE * shapes.LENGTH)
