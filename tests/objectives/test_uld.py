"""ULD and GOLD beside TRL's numbers and the official rule, and pairs of places in any batch."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.align import letters
from jaxdistill.data.beside import Beside
from jaxdistill.data.examples import Covered, Encoded, Example
from jaxdistill.data.pack import sequence
from jaxdistill.data.templates import Templates, Turn
from jaxdistill.objectives import OBJECTIVES, weighted_loss
from jaxdistill.objectives.pair import pair
from jaxdistill.types import Head, Signal, Words
from tests import tiny

GOLDEN = json.loads((Path(__file__).parent / "golden_trl_uld.json").read_text())
LENGTH = 9
WORDS = [
    Words(np.array([other.get(word, -1) for word in own]), *letters([b"a"] * len(own)))
    for own, other in (GOLDEN["vocabularies"], GOLDEN["vocabularies"][::-1])
]
TEMPLATES = Templates(tiny.tokenizer())


def encoded(tokens, ends, *, has_mark=False, prompt=GOLDEN["prompt"]):
    """A row whose answer reaches these bytes, with the mark that ends it.

    Its tokens are not the tokenizer's words for it, so bytes are counted as offsets tell them.
    """
    size, answer = max(ends, default=0), (prompt, prompt + max(ends, default=0))
    text = "." * answer[1]
    reached = [*range(1, prompt + 1), *(prompt + end for end in ends)]
    reached += [prompt + size] * has_mark
    tokens = np.array(tokens[: len(reached)])
    turn_ids = np.where(np.arange(len(reached)) >= prompt, 0, -1)
    is_special = np.zeros(len(reached), bool)
    is_special[len(reached) - has_mark :] = True
    begins, ends = np.array([0, *reached[:-1]]), np.array(reached)
    covered = Covered(text, begins, ends, is_special, (Turn(answer, answer),), turn_ids)
    return Encoded(tokens, turn_ids >= 0, covered)


def example(row, number, alignment, tokens):
    """A row of the golden file as the data room makes it; None where nothing can be compared."""
    mine = encoded(tokens[0][number], row["student"], has_mark=True)
    theirs = encoded(tokens[1][number], row["teacher"])
    beside = Beside(TEMPLATES, alignment)
    found = beside.counterpart(mine, theirs, TEMPLATES, LENGTH, "cut_end")
    if found == "unpaired":
        return None
    return Example(mine.tokens, mine.loss_mask, number, f"row {number}", 1, found)


def loss(objective, student_logits, teacher_logits, batch, *, num_groups=1):
    """The mean over what counts, of logits that are given as hidden states."""
    student, teacher = (
        Signal(hidden, Head(jnp.eye(hidden.shape[-1]), words=words))
        for hidden, words in zip((student_logits, teacher_logits), WORDS, strict=True)
    )
    merge = objective.alignment.by == "spans"
    rows = pair(student, teacher, batch, num_groups=num_groups, merge=merge)
    total, _ = weighted_loss(
        (objective,), jnp.ones(1), rows, student.head, teacher.head, chunk_rows=4
    )
    return total / rows.pair_mask.sum()


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: str(c["ours"]))
@pytest.mark.parametrize("k", [None, 11])
def test_it_is_trls(case, k):
    fields = dict(case["ours"])
    objective = OBJECTIVES[fields.pop("type")](**fields, k=k)
    made = [
        example(row, number, objective.alignment, GOLDEN["tokens"])
        for number, row in enumerate(GOLDEN["rows"])
    ]
    assert made[-1] is None  # an empty answer: TRL counts it as a row of loss 0
    kept = len(made) - 1
    batch = jax.tree.map(
        lambda *rows: np.stack(rows),
        *(sequence([one], LENGTH, is_paired=True) for one in made[:-1]),
    )
    student, teacher = (jnp.array(side, jnp.float32)[:kept] for side in GOLDEN["logits"])
    value, gradient = jax.value_and_grad(lambda x: loss(objective, x, teacher, batch))(student)
    scale = kept / len(made)
    np.testing.assert_allclose(scale * value, case["value"], rtol=1e-5)
    np.testing.assert_allclose(
        scale * gradient, np.array(case["gradient"])[:kept], rtol=1e-5, atol=1e-7
    )


def official(student_logits, teacher_logits, row, prompt=GOLDEN["prompt"]):
    """The rule of the paper's code, as it is written, for one row."""
    counts = len(row["student"]), len(row["teacher"])
    size = min(counts)
    sides = []
    for logits in (student_logits, teacher_logits):
        window = np.float64(logits[prompt - 1 : prompt - 1 + size])
        probs = np.exp(window) / np.exp(window).sum(-1, keepdims=True)
        sides.append(-np.sort(-probs, axis=-1))
    words = max(side.shape[-1] for side in sides)
    p, q = (np.pad(side, ((0, 0), (0, words - side.shape[-1]))) for side in sides)
    return np.abs(p - q).sum() / size


@pytest.mark.parametrize("kind", ["random", "one-hot", "ties", "impossible"])
def test_it_is_the_official_rule_on_odd_rows(kind):
    random = np.random.default_rng(3)
    rows = [row for row in GOLDEN["rows"] if row["student"]]
    shapes = [np.shape(side)[1:] for side in GOLDEN["logits"]]
    student, teacher = (random.normal(size=(len(rows), *shape)) * 3 for shape in shapes)
    if kind == "one-hot":
        student, teacher = (100.0 * (x == x.max(-1, keepdims=True)) for x in (student, teacher))
    if kind == "ties":
        student, teacher = np.round(student / 3), np.zeros_like(teacher)
    if kind == "impossible":
        teacher[..., 1:4] = -1e30
    objective = OBJECTIVES["uld"]()
    made = [example(row, n, objective.alignment, GOLDEN["tokens"]) for n, row in enumerate(rows)]
    batch = jax.tree.map(
        lambda *parts: np.stack(parts), *(sequence([one], LENGTH, is_paired=True) for one in made)
    )
    found, gradient = jax.value_and_grad(loss, argnums=1)(
        objective, jnp.float32(student), jnp.float32(teacher), batch
    )
    expected = np.mean([official(*one) for one in zip(student, teacher, rows, strict=True)])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.isfinite(gradient).all()
    # Nothing before the last place of the prompt is looked at, and nothing behind what is compared.
    np.testing.assert_array_equal(gradient[:, : GOLDEN["prompt"] - 1], 0)
    for row, of_row in zip(rows, gradient, strict=True):
        size = min(len(row["student"]), len(row["teacher"]))
        np.testing.assert_array_equal(of_row[GOLDEN["prompt"] - 1 + size :], 0)


@pytest.mark.parametrize("name", ["uld", "alm"])
def test_packing_and_groups_of_devices_change_nothing(name):
    align = {"align": "spans", "average": "groups"} if name == "uld" else {}
    objective = OBJECTIVES[name](**align)
    rows = [row for row in GOLDEN["rows"] if row["student"]]
    made = [example(row, n, objective.alignment, GOLDEN["tokens"]) for n, row in enumerate(rows)]
    tables = [jax.random.normal(jax.random.key(n), (100, size)) for n, size in enumerate((7, 11))]

    def of(batch, **options):
        # What a model says depends on the token and its place alone, so packing is no matter.
        sides = batch, batch.pairing.teacher
        logits = [t[s.tokens + 8 * s.positions] for t, s in zip(tables, sides, strict=True)]
        return loss(objective, *logits, batch, **options)

    apart = jax.tree.map(
        lambda *parts: np.stack(parts),
        *(sequence([one], LENGTH, is_paired=True) for one in [*made, made[0]]),
    )
    packed = sequence([*made, made[0]], 4 * LENGTH, is_paired=True)
    packed = jax.tree.map(lambda column: column[None], packed)
    expected = of(apart)
    np.testing.assert_allclose(of(packed), expected, rtol=1e-5)
    np.testing.assert_allclose(of(apart, num_groups=2), expected, rtol=1e-5)


def test_alm_of_merged_tokens_is_written_out():
    objective = OBJECTIVES["alm"](temperature=2.0)
    row = {"student": [2, 4], "teacher": [1, 3, 4]}
    made = example(row, 0, objective.alignment, GOLDEN["tokens"])
    batch = jax.tree.map(lambda a: a[None], sequence([made], LENGTH, is_paired=True))
    student, teacher = (jnp.array(side, jnp.float32)[:1] for side in GOLDEN["logits"])
    totals = []
    for logits, tokens, size in ((student, 0, 2), (teacher, 1, 3)):
        log_probs = jax.nn.log_softmax(logits[0])
        labels = GOLDEN["tokens"][tokens][0]
        totals.append(sum(float(log_probs[2 + n, labels[3 + n]]) for n in range(size)))
    q, p = (np.exp(total / 2) for total in totals)
    expected = -(p * np.log(q) + (1 - p) * np.log1p(-q))
    np.testing.assert_allclose(loss(objective, student, teacher, batch), expected, rtol=1e-4)
    slope = jax.grad(loss, argnums=1)(objective, student, teacher, batch)
    step = 1e-2
    for place, word in ((2, 0), (3, 4)):  # the earlier token of the group, and its last
        moved = [student.at[0, place, word].add(sign * step) for sign in (1, -1)]
        up, down = (loss(objective, one, teacher, batch) for one in moved)
        np.testing.assert_allclose(slope[0, place, word], (up - down) / (2 * step), rtol=2e-2)
