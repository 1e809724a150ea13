"""One training step with a teacher of another tokenizer. Arguments: FOLDER CASE.

CASE is `uld_exact`, `uld_top_k`, `gold_exact` or `gold_top_k`.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import shapes
from timing import time_repeats

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

folder, (name, _, method) = Path(sys.argv[1]), sys.argv[2].partition("_")
student, teacher = (jaxdistill.load(folder / side) for side in ("student", "teacher"))
options = {"align": "spans"} if name == "uld" else {}
objective = OBJECTIVES[name](k=1024 if method == "top_k" else None, **options)
token_bytes = [align.text_token_bytes(model.tokenizer) for model in (student, teacher)]
student_tables, teacher_tables = (
    VocabTables(matches, *align.padded_token_bytes(tokens), align.word_boundaries(tokens))
    for matches, tokens in zip(
        align.exact_matches(token_bytes[0], token_bytes[1]), token_bytes, strict=True
    )
)
lines = (folder / "rows.jsonl").read_text().splitlines()
rows = [
    parse_row(json.loads(line), source="", row_id=row_id, as_chat=False)
    for row_id, line in enumerate(lines)
]
examples, _ = tokenize_rows(
    rows,
    data.Renderer(student.tokenizer),
    loss_on="completion",
    length=shapes.CROSS_TOKENIZER_LENGTH,
    truncation="cut_end",
    teacher_view=data.TeacherView(data.Renderer(teacher.tokenizer), objective.alignment_rule),
)
(batch,) = data.ordered_batches(
    examples,
    length=shapes.CROSS_TOKENIZER_LENGTH,
    batch_size=shapes.CROSS_TOKENIZER_BATCH_SIZE,
    pack=False,
)
mesh = make_mesh(MeshConfig())
axes = parameter_axes(student.config)
adam = AdamW(learning_rate=1e-4)
optimizer = adam.make_optimizer(100, axes)
shardings = state_shardings(
    mesh, student.params, named_shardings(mesh, axes, student.params), optimizer
)
state = init_state(student.params, optimizer, shardings)
student_config, student_vocab_size = student.config, student.vocab_size
teacher_config, teacher_vocab_size = teacher.config, teacher.vocab_size
teacher_params = teacher.params
del student, teacher


def student_signal(params, batch):
    """Compute the student's hidden states, and its LM head with vocabulary tables."""
    head = lm_head(student_config, params, vocab_size=student_vocab_size)
    hidden = forward_batch(student_config, params, batch).hidden
    return HiddenSignal(hidden, replace(head, vocab_tables=student_tables))


def teacher_signal(params, batch):
    """Compute the teacher's hidden states, and its LM head with vocabulary tables."""
    signal = online_signal(teacher_config, params, batch, vocab_size=teacher_vocab_size)
    return replace(signal, lm_head=replace(signal.lm_head, vocab_tables=teacher_tables))


step = jit_step(
    make_step(
        student_signal=student_signal,
        teacher_signal=teacher_signal,
        objectives=(objective,),
        optimizer=optimizer,
        learning_rate=adam.learning_rate_schedule(100),
        shardings=shardings,
        mesh=mesh,
    ),
    shardings,
    named_shardings(mesh, parameter_axes(teacher_config), teacher_params),
    mesh,
)
batch = jax.device_put(batch, batch_sharding(mesh))


def train_step() -> None:
    """Run one training step and wait for its results."""
    global state
    state, metrics = step(state, teacher_params, batch)
    jax.block_until_ready((state, metrics))
    assert np.isfinite(metrics["train/loss"])


units = shapes.CROSS_TOKENIZER_BATCH_SIZE * shapes.CROSS_TOKENIZER_LENGTH
time_repeats(train_step, repeats=3, units=units)
