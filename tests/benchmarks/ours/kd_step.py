"""One step of distillation: online teacher, AdamW, clipping. Argument: NAME[+NAME]."""

import sys
from functools import partial

import jax
import numpy as np
import shapes
from timing import time_repeats

from jaxdistill.models import FAMILIES, DecoderModel
from jaxdistill.objectives import OBJECTIVES, init_modules
from jaxdistill.objectives.base import joint_taps
from jaxdistill.sharding import MeshConfig, batch_sharding, make_mesh, named_shardings
from jaxdistill.teachers.online import online_signal
from jaxdistill.train import AdamW, Frozen, init_state, jit_step, make_step, state_shardings
from jaxdistill.types import Batch

family = FAMILIES["llama"]
teacher, student = (
    DecoderModel(family.decoder_config({**shapes.CONFIG, "num_hidden_layers": num_layers}))
    for num_layers in (shapes.NUM_LAYERS, shapes.NUM_STUDENT_LAYERS)
)
teacher_params = teacher.init_params(jax.random.key(0))
params = student.init_params(jax.random.key(1))
names = sys.argv[1].split("+")
options = {"jensen_shannon": {"beta": shapes.BETA}}
objectives = tuple(
    OBJECTIVES[name](weight=1 / len(names), **options.get(name, {})).bind(
        student.widths, teacher.widths
    )
    for name in names
)
modules = init_modules(objectives, 0, student.widths, teacher.widths)
student_taps, teacher_taps = joint_taps(objectives)
mesh = make_mesh(MeshConfig())
axes = student.axes()
adam = AdamW(learning_rate=1e-4)
module_axes = jax.tree.map(lambda leaf: (None,) * leaf.ndim, modules)
optimizer = adam.make_optimizer(100, {**axes, **module_axes})
shardings = state_shardings(mesh, params, named_shardings(mesh, axes, params), optimizer, modules)
state = init_state(params, optimizer, shardings, modules)
del params
step = jit_step(
    make_step(
        student_signal=partial(student.signal, taps=student_taps),
        teacher_signal=lambda p, batch: online_signal(
            teacher, p, batch, vocab_size=teacher.vocab_size, taps=teacher_taps
        ),
        objectives=objectives,
        optimizer=optimizer,
        learning_rate=adam.learning_rate_schedule(100),
        shardings=shardings,
        mesh=mesh,
    ),
    shardings,
    named_shardings(mesh, teacher.axes(), teacher_params),
    mesh,
)
batch_shape = shapes.BATCH_SIZE, shapes.LENGTH
rng = np.random.default_rng(0)
tokens = rng.integers(0, teacher.vocab_size, (shapes.BATCH_SIZE, shapes.LENGTH + 1), np.int32)
batch = Batch(
    tokens=tokens[:, :-1],
    labels=tokens[:, 1:],
    loss_mask=np.ones(batch_shape, np.float32),
    positions=np.tile(np.arange(shapes.LENGTH, dtype=np.int32), (shapes.BATCH_SIZE, 1)),
    segment_ids=np.ones(batch_shape, np.int32),
    example_ids=np.zeros(batch_shape, np.int32),
)
batch = jax.device_put(batch, batch_sharding(mesh))


def train_step() -> None:
    """Run one training step and wait for its results."""
    global state
    state, metrics = step(state, Frozen(teacher_params), batch)
    jax.block_until_ready((state, metrics))


time_repeats(train_step, repeats=5, units=shapes.BATCH_SIZE * shapes.LENGTH)
