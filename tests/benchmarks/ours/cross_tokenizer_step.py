"""One training step with a teacher of another tokenizer. Arguments: FOLDER CASE.

CASE is `uld_exact`, `uld_top_k`, `gold_exact` or `gold_top_k`.
"""

import json
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import shapes
from timing import time_repeats

import jaxdistill
from jaxdistill import align, data
from jaxdistill.data.row_formats import parse_row
from jaxdistill.data.tokenization import tokenize_rows
from jaxdistill.objectives import OBJECTIVES
from jaxdistill.sharding import MeshConfig, batch_sharding, make_mesh, named_shardings
from jaxdistill.teachers.online import online_signal
from jaxdistill.train import AdamW, Frozen, init_state, jit_step, make_step, state_shardings
from jaxdistill.types import VocabTables

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
axes = student.language_model.axes()
adam = AdamW(learning_rate=1e-4)
optimizer = adam.make_optimizer(100, axes)
shardings = state_shardings(
    mesh, student.params, named_shardings(mesh, axes, student.params), optimizer
)
state = init_state(student.params, optimizer, shardings)
student_signal = partial(
    student.language_model.signal, vocab_size=student.vocab_size, vocab_tables=student_tables
)
teacher_signal = partial(
    online_signal,
    teacher.language_model,
    vocab_size=teacher.vocab_size,
    vocab_tables=teacher_tables,
)
teacher_shardings = named_shardings(mesh, teacher.language_model.axes(), teacher.params)
teacher_params = teacher.params
del student, teacher

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
    teacher_shardings,
    mesh,
)
batch = jax.device_put(batch, batch_sharding(mesh))


def train_step() -> None:
    """Run one training step and wait for its results."""
    global state
    state, metrics = step(state, Frozen(teacher_params), batch)
    jax.block_until_ready((state, metrics))
    assert np.isfinite(metrics["train/loss"])


units = shapes.CROSS_TOKENIZER_BATCH_SIZE * shapes.CROSS_TOKENIZER_LENGTH
time_repeats(train_step, repeats=3, units=units)
