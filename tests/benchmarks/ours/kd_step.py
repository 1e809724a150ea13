"""One step of logit distillation, online teacher, AdamW, clipping: argument NAME[+NAME]."""

import sys

import jax
import numpy as np
import shapes
from measure import repeat

from jaxdistill.models import FAMILIES, forward_batch, init_params, lm_head, parameter_axes
from jaxdistill.objectives import OBJECTIVES
from jaxdistill.sharding import MeshConfig, batch_sharding, make_mesh, named_shardings
from jaxdistill.teachers.online import online_signal
from jaxdistill.train import AdamW, init_state, jit_step, make_step, state_shardings
from jaxdistill.types import Batch, HiddenSignal

family = FAMILIES["llama"]
teacher, student = (
    family.decoder_config({**shapes.CONFIG, "num_hidden_layers": layers})
    for layers in (shapes.LAYERS, shapes.STUDENT_LAYERS)
)
teacher_params = init_params(teacher, jax.random.key(0))
params = init_params(student, jax.random.key(1))
names = sys.argv[1].split("+")
options = {"jensen_shannon": {"beta": shapes.BETA}}
objectives = tuple(
    OBJECTIVES[name](weight=1 / len(names), **options.get(name, {})) for name in names
)
mesh = make_mesh(MeshConfig())
axes = parameter_axes(student)
adam = AdamW(learning_rate=1e-4)
optimizer = adam.make_optimizer(100, axes)
places = state_shardings(mesh, params, named_shardings(mesh, axes, params), optimizer)
state = init_state(params, optimizer, places)
del params
step = jit_step(
    make_step(
        student_signal=lambda p, batch: HiddenSignal(
            forward_batch(student, p, batch).hidden, lm_head(student, p)
        ),
        teacher_signal=lambda p, batch: online_signal(
            teacher, p, batch, vocab_size=teacher.vocab_size
        ),
        objectives=objectives,
        optimizer=optimizer,
        learning_rate=adam.learning_rate_schedule(100),
        shardings=places,
        mesh=mesh,
    ),
    places,
    named_shardings(mesh, parameter_axes(teacher), teacher_params),
    mesh,
)
size = shapes.BATCH, shapes.LENGTH
tokens = np.random.default_rng(0).integers(0, teacher.vocab_size, (size[0], size[1] + 1), np.int32)
batch = Batch(
    tokens=tokens[:, :-1],
    labels=tokens[:, 1:],
    loss_mask=np.ones(size, np.float32),
    positions=np.tile(np.arange(size[1], dtype=np.int32), (size[0], 1)),
    segment_ids=np.ones(size, np.int32),
    example_ids=np.zeros(size, np.int32),
)
batch = jax.device_put(batch, batch_sharding(mesh))


def work() -> None:
    """A step, until its numbers are there."""
    global state
    state, metrics = step(state, teacher_params, batch)
    jax.block_until_ready((state, metrics))


repeat(work, repeats=5, units=shapes.BATCH * shapes.LENGTH)
