"""ULD and GOLD beside TRL's numbers and the official rule, and pairs of places in any batch."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.align import padded_token_bytes
from jaxdistill.data.examples import Example, TextOffsets, TokenizedRow
from jaxdistill.data.packing import pack_sequence
from jaxdistill.data.renderer import AssistantTurn, Renderer
from jaxdistill.data.teacher_view import TeacherView
from jaxdistill.objectives import OBJECTIVES, weighted_loss
from jaxdistill.objectives.alignment import align_batch
from jaxdistill.types import HiddenSignal, LMHead, VocabTables
from tests import tiny

GOLDEN = json.loads((Path(__file__).parent / "golden_trl_uld.json").read_text())
LENGTH = 9
WORDS = [
    VocabTables(
        np.array([other.get(word, -1) for word in own]),
        *padded_token_bytes([b"a"] * len(own)),
        is_word_boundary=np.arange(len(own)) % 2 == 0,
    )
    for own, other in (GOLDEN["vocabularies"], GOLDEN["vocabularies"][::-1])
]
TEMPLATES = Renderer(tiny.tokenizer())


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
    covered = TextOffsets(
        text,
        begins,
        ends,
        is_special,
        (AssistantTurn(answer, answer),),
        turn_ids,
        is_special & False,
    )
    return TokenizedRow(tokens, turn_ids >= 0, covered)


def example(row, number, alignment, tokens):
    """A row of the golden file as the data room makes it; None where nothing can be compared."""
    mine = encoded(tokens[0][number], row["student"], has_mark=True)
    theirs = encoded(tokens[1][number], row["teacher"])
    beside = TeacherView(TEMPLATES, alignment)
    found = beside.align_row(mine, theirs, TEMPLATES, LENGTH, "cut_end")
    if found == "unpaired":
        return None
    return Example(mine.tokens, mine.loss_mask, number, f"row {number}", 1, found)


def loss(objective, student_logits, teacher_logits, batch, *, num_shards=1, words=WORDS):
    """The mean over what counts, of logits that are given as hidden states."""
    student, teacher = (
        HiddenSignal(hidden, LMHead(jnp.eye(hidden.shape[-1]), vocab_tables=own))
        for hidden, own in zip((student_logits, teacher_logits), words, strict=True)
    )
    asked = {"with_span_prefix": objective.needs_span_prefix, "with_span_boundary": "boundaries" in objective.vocab_needs}
    rows = align_batch(student, teacher, batch, num_shards=num_shards, **asked)
    total, _ = weighted_loss(
        (objective,), jnp.ones(1), rows, student.lm_head, teacher.lm_head, chunk_size=4
    )
    counted = rows.loss_mask if rows.span_weight is None else rows.span_weight
    return total / counted.sum()


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
        *(pack_sequence([one], LENGTH, has_teacher_view=True) for one in made[:-1]),
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
        lambda *parts: np.stack(parts),
        *(pack_sequence([one], LENGTH, has_teacher_view=True) for one in made),
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


GROUPED = {
    "uld": OBJECTIVES["uld"](align="spans", average="groups"),
    "alm": OBJECTIVES["alm"](),
    "alm, debiased": OBJECTIVES["alm"](debias=1e-4),
}


@pytest.mark.parametrize("objective", GROUPED.values(), ids=list(GROUPED))
def test_packing_and_groups_of_devices_change_nothing(objective):
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
        *(pack_sequence([one], LENGTH, has_teacher_view=True) for one in [*made, made[0]]),
    )
    packed = pack_sequence([*made, made[0]], 4 * LENGTH, has_teacher_view=True)
    packed = jax.tree.map(lambda column: column[None], packed)
    expected = of(apart)
    np.testing.assert_allclose(of(packed), expected, rtol=1e-5)
    np.testing.assert_allclose(of(apart, num_shards=2), expected, rtol=1e-5)


def test_alm_of_merged_tokens_is_written_out():
    objective = OBJECTIVES["alm"](temperature=2.0)
    row = {"student": [2, 4], "teacher": [1, 3, 4]}
    made = example(row, 0, objective.alignment, GOLDEN["tokens"])
    batch = jax.tree.map(lambda a: a[None], pack_sequence([made], LENGTH, has_teacher_view=True))
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


def followed_by_boundary(logits, words, place):
    """How likely the place says that white space or a mark comes next."""
    return jax.nn.softmax(logits[place])[words.is_boundary].sum()


def dense_alm(sides, groups, *, debias, words=WORDS, temperature=2.0):
    """The sum over groups `(student's labels, teacher's labels, is followed)`, written out.

    Args:
        sides: The logits of all places and the label of each, of the student and the teacher.
        groups: The places that predict the labels.
        debias: The least likely boundary that counts.
        words: Of both vocabularies.
        temperature: Of the objective.
    """
    total = 0.0
    for *places, is_followed in groups:
        likely, boundaries = [], []
        for (logits, labels), ours, own in zip(sides, words, places, strict=True):
            probs = jax.nn.softmax(logits)
            likelihood = jnp.prod(jnp.stack([probs[place, labels[place]] for place in own]))
            boundary = followed_by_boundary(logits, ours, own[-1] + 1) if is_followed else 1.0
            likely.append((likelihood * boundary) ** (1 / temperature))
            boundaries.append(boundary)
        q, p = likely
        if boundaries[1] >= debias:
            total -= p * jnp.log(q) + (1 - p) * jnp.log1p(-q)
    return total


@pytest.mark.parametrize("debias", [1e-4, 0.5, 0.9])
def test_debiased_alm_is_written_out(debias):
    objective = OBJECTIVES["alm"](temperature=2.0, debias=debias)
    row = {"student": [2, 4, 6], "teacher": [1, 3, 4, 6]}
    made = example(row, 0, objective.alignment, GOLDEN["tokens"])
    batch = jax.tree.map(lambda a: a[None], pack_sequence([made], LENGTH, has_teacher_view=True))
    student, teacher = (jnp.array(side, jnp.float32)[:1] for side in GOLDEN["logits"])
    # Two tokens beside three, then one beside one; behind that the teacher reads nothing.
    groups = [((2, 3), (2, 3, 4), True), ((4,), (5,), False)]
    labels = [np.array(side[0][1:]) for side in GOLDEN["tokens"]]

    def dense(logits):
        sides = (logits[0], labels[0]), (teacher[0], labels[1])
        return dense_alm(sides, groups, debias=debias) / len(groups)

    expected, slope = jax.value_and_grad(dense)(student)
    found, gradient = jax.value_and_grad(loss, argnums=1)(objective, student, teacher, batch)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=1e-5)
    boundary = followed_by_boundary(teacher[0], WORDS[1], 5)
    is_left_out = bool((jnp.abs(slope[0, 2:4]) < 1e-7).all())
    assert is_left_out == (boundary < debias)


def test_debiased_alm_of_one_tokenizer_is_written_out():
    objective = OBJECTIVES["alm"](temperature=2.0, debias=1e-4)
    made = encoded(GOLDEN["tokens"][0][0], [2, 4, 6])
    batch = pack_sequence([Example(made.tokens, made.loss_mask, 0, "row 0", 1)], LENGTH)
    student, teacher = (
        jax.random.normal(jax.random.key(n), (1, LENGTH, len(WORDS[0].exact_match)))
        for n in range(2)
    )
    labels = batch.labels
    groups = [((2,), (2,), True), ((3,), (3,), True), ((4,), (4,), False)]
    one, batch = [WORDS[0], WORDS[0]], jax.tree.map(lambda a: a[None], batch)
    sides = (student[0], labels), (teacher[0], labels)
    expected = dense_alm(sides, groups, debias=1e-4, words=one)
    found = loss(objective, student, teacher, batch, words=one)
    np.testing.assert_allclose(found, expected / len(groups), rtol=1e-4)
