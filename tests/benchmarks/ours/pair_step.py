"""One step with a teacher of another tokenizer: arguments FOLDER uld|gold_top_k|exact."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import shapes
from measure import repeat

import jaxdistill
from jaxdistill import align, data
from jaxdistill.data.row_formats import parse_row
from jaxdistill.data.tokenization import tokenize_rows
from jaxdistill.models import forward_batch, lm_head, parameter_axes
from jaxdistill.objectives import OBJECTIVES
from jaxdistill.sharding import MeshConfig, batch_sharding, make_mesh, named_shardings
from jaxdistill.teachers.online import online_signal
from jaxdistill.train import AdamW, init_state, jit_step, make_step, state_shardings
from jaxdistill.types import HiddenSignal, VocabTables

folder, (name, _, part) = Path(sys.argv[1]), sys.argv[2].partition("_")
student, teacher = (jaxdistill.load(folder / side) for side in ("student", "teacher"))
fields = {"align": "spans"} if name == "uld" else {}
objective = OBJECTIVES[name](k=1024 if part == "top_k" else None, **fields)
sides = [align.text_token_bytes(model.tokenizer) for model in (student, teacher)]
words = [
    VocabTables(twins, *align.padded_token_bytes(side), align.word_boundaries(side))
    for twins, side in zip(align.exact_matches(*sides), sides, strict=True)
]
lines = (folder / "rows.jsonl").read_text().splitlines()
rows = [
    parse_row(json.loads(line), source="", row_id=number, as_chat=False)
    for number, line in enumerate(lines)
]
examples, _ = tokenize_rows(
    rows,
    data.Renderer(student.tokenizer),
    loss_on="completion",
    length=shapes.PAIR_LENGTH,
    truncation="cut_end",
    teacher_view=data.TeacherView(data.Renderer(teacher.tokenizer), objective.alignment),
)
(batch,) = data.ordered_batches(
    examples, length=shapes.PAIR_LENGTH, batch_size=shapes.PAIR_BATCH, pack=False
)
mesh = make_mesh(MeshConfig())
axes = parameter_axes(student.config)
adam = AdamW(learning_rate=1e-4)
optimizer = adam.make_optimizer(100, axes)
places = state_shardings(
    mesh, student.params, named_shardings(mesh, axes, student.params), optimizer
)
state = init_state(student.params, optimizer, places)
configs, teacher_params = (student.config, teacher.config), teacher.params
sizes = student.vocab_size, teacher.vocab_size
del student, teacher


def teach(params, batch):
    """What the teacher says, and what its words are to the student."""
    said = online_signal(configs[1], params, batch, vocab_size=sizes[1])
    return replace(said, head=replace(said.lm_head, vocab_tables=words[1]))


def learn(params, batch):
    """What the student says, and what its words are to the teacher."""
    unembedding = replace(lm_head(configs[0], params, vocab_size=sizes[0]), vocab_tables=words[0])
    return HiddenSignal(forward_batch(configs[0], params, batch).hidden, unembedding)


step = jit_step(
    make_step(
        student_signal=learn,
        teacher_signal=teach,
        objectives=(objective,),
        optimizer=optimizer,
        learning_rate=adam.learning_rate_schedule(100),
        shardings=places,
        mesh=mesh,
    ),
    places,
    named_shardings(mesh, parameter_axes(configs[1]), teacher_params),
    mesh,
)
batch = jax.device_put(batch, batch_sharding(mesh))


def work() -> None:
    """A step, until its numbers are there."""
    global state
    state, metrics = step(state, teacher_params, batch)
    jax.block_until_ready((state, metrics))
    assert np.isfinite(metrics["train/loss"])


repeat(work, repeats=3, units=shapes.PAIR_BATCH * shapes.PAIR_LENGTH)
