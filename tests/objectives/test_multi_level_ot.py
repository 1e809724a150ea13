"""MultiLevelOT beside the whole arrays that it never makes, and what must make no difference."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdistill.objectives.batch_objective import VocabEngine
from jaxdistill.objectives.multi_level_ot import MultiLevelOT
from jaxdistill.types import Batch, HiddenSignal, LMHead, TokenAlignment

LENGTH, PROMPT = 8, 2
SIZES = 7, 11
"""How many words the student has, and the teacher."""


def total(objective, student, teacher, batch, *, num_shards=1, chunk_rows=256):
    """What the three costs add up to."""
    walk = VocabEngine(never, num_shards, chunk_rows)
    return sum(objective.sums({}, student, teacher, batch, walk).values())


def never(*_):
    raise AssertionError("it compares no rows")


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def released(student, teacher, *, k, beta, gamma, epsilon=0.1, num_iterations=10):
    """The rule as it is written, for the logits of one answer without padding, in float64."""
    sides = []
    for logits in (np.float64(teacher), np.float64(student)):
        probs = softmax(logits / logits.std(-1, ddof=1, keepdims=True))
        sides.append(probs[:, np.argsort(-probs.sum(0), kind="stable")[:k]])
    width = max(side.shape[1] for side in sides)
    p, q = (np.pad(side, ((0, 0), (0, width - side.shape[1]))) for side in sides)
    size = min(len(p), len(q))
    holistic = np.abs(p[:size] - q[:size]).sum(-1).mean()
    logarithmic = -(softmax(q[:size]) * np.log(softmax(p[:size]))).sum(-1).mean()
    cost = np.abs(softmax(p / 2)[:, None] - softmax(q / 2)[None]).sum(-1)
    plan = np.exp(-cost / epsilon)
    for _ in range(num_iterations):
        plan = plan / plan.sum(1, keepdims=True)
        plan = plan / plan.sum(0, keepdims=True)
    return holistic + beta * logarithmic + gamma * (plan * cost).sum()


def side(counts, length, first=0):
    """Answers of so many places, each behind a prompt, one after the other in a sequence."""
    tokens, positions, segment_ids = np.zeros((3, length), np.int32)
    example_ids, loss_mask, start = np.full(length, -1, np.int32), np.zeros(length, np.float32), 0
    for number, count in enumerate(counts):
        end = start + PROMPT + count
        positions[start:end] = np.arange(end - start)
        segment_ids[start:end], example_ids[start:end] = 1 + number, first + number
        loss_mask[start + PROMPT : end] = 1
        start = end
    return Batch(tokens, tokens, loss_mask, positions, segment_ids, example_ids)


def paired(counts, length, first=0):
    """The n-th place of each answer beside the n-th of the teacher's, in one sequence."""
    mine, theirs = (side([both[n] for both in counts], length, first) for n in range(2))
    student_span_ids, teacher_span_ids = np.full((2, length), -1, np.int32)
    for number, both in enumerate(counts, start=1):
        here, there = (
            np.flatnonzero((one.segment_ids == number) & (one.loss_mask > 0))[: min(both)]
            for one in (mine, theirs)
        )
        student_span_ids[here] = teacher_span_ids[there] = here
    weight = np.float32(student_span_ids >= 0)
    pairing = TokenAlignment(theirs, weight, student_span_ids, teacher_span_ids)
    return dataclasses.replace(mine, pairing=pairing)


def stacked(*sequences):
    return jax.tree.map(lambda *rows: np.stack(rows), *sequences)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("num_shards", "chunk_rows"))
def measure(objective, student, teacher, batch, *, num_shards=1, chunk_rows=3):
    """The loss of models whose hidden states are logits, and its gradient to the student's."""

    def loss(student):
        sides = (HiddenSignal(one, LMHead(jnp.eye(one.shape[-1]))) for one in (student, teacher))
        return total(objective, *sides, batch, num_shards=num_shards, chunk_rows=chunk_rows)

    return jax.value_and_grad(loss)(student)


def random_logits(seed, sequences, length=LENGTH, sizes=SIZES):
    random = np.random.default_rng(seed)
    return [jnp.asarray(2 * random.normal(size=(sequences, length, n)), jnp.float32) for n in sizes]


OPTIONS = {"k": 5, "beta": 0.1, "gamma": 0.5}
OBJECTIVE = MultiLevelOT(**OPTIONS)
COUNTS = [(4, 6), (5, 3), (1, 1), (1, 5)]
BATCH = stacked(*(paired([both], LENGTH) for both in COUNTS))


def dense(student, teacher, options=OPTIONS, counts=COUNTS):
    """What the rule says of one answer a sequence, added up."""
    return sum(
        released(mine[PROMPT : PROMPT + n], theirs[PROMPT : PROMPT + m], **options)
        for mine, theirs, (n, m) in zip(student, teacher, counts, strict=True)
    )


def finite_differences(student, teacher, options, step=1e-6):
    expected = np.zeros(student.shape)
    for place in np.ndindex(*student.shape):
        up, down = np.float64(student), np.float64(student)
        up[place], down[place] = up[place] + step, down[place] - step
        difference = dense(up, teacher, options) - dense(down, teacher, options)
        expected[place] = difference / (2 * step)
    return expected


@pytest.mark.parametrize("k", [5, 50])
def test_it_is_the_rule_of_the_released_code(k):
    options = {**OPTIONS, "k": k}
    student, teacher = random_logits(0, len(COUNTS))
    found, slope = measure(MultiLevelOT(**options), student, teacher, BATCH)
    np.testing.assert_allclose(found, dense(student, teacher, options), rtol=1e-5)
    expected = finite_differences(student, teacher, options)
    np.testing.assert_allclose(slope, expected, rtol=1e-3, atol=2e-5)
    is_learned = BATCH.loss_mask > 0
    np.testing.assert_array_equal(slope[~is_learned], 0)
    assert np.abs(slope[is_learned]).max(-1).min() > 0
    np.testing.assert_allclose(OBJECTIVE.denominators(BATCH)["transport"], len(COUNTS), rtol=1e-6)


def test_one_tokenizer_needs_no_pairing():
    batch = stacked(side([3], LENGTH), side([6], LENGTH))
    student, teacher = random_logits(1, 2, sizes=(7, 7))
    expected = dense(student, teacher, counts=[(3, 3), (6, 6)])
    np.testing.assert_allclose(measure(OBJECTIVE, student, teacher, batch)[0], expected, rtol=1e-5)
    assert measure(MultiLevelOT(beta=0.0, gamma=0.0), student, student, batch)[0] == 0


def laid_out(tables, batch):
    """Logits that follow from the answer and the place in it alone; junk everywhere else."""
    found = []
    for table, one in zip(tables, (batch, batch.pairing.teacher), strict=True):
        logits = np.full((*one.tokens.shape, table.shape[-1]), 77, np.float32)
        logits[..., 0] = -50
        is_learned = one.loss_mask > 0
        answers, places = one.example_ids[is_learned], one.positions[is_learned]
        logits[is_learned] = table[answers, places - PROMPT]
        found.append(jnp.asarray(logits))
    return found


def test_packing_groups_and_chunks_change_nothing():
    counts = [(1 + n % 3, 1 + n % 2) for n in range(20)]  # more than are looked at in a turn
    tables = random_logits(2, 20, length=3)
    packed = stacked(paired(counts, 100))
    apart = stacked(paired(counts[:10], 50), paired(counts[10:], 50, first=10))

    def of(batch, **options):
        found, slope = measure(OBJECTIVE, *laid_out(tables, batch), batch, **options)
        is_learned = batch.loss_mask > 0
        np.testing.assert_array_equal(slope[~is_learned], 0)
        return found, slope[is_learned]

    expected = of(packed)
    for other in (of(packed, chunk_rows=64), of(apart), of(apart, num_shards=2)):
        np.testing.assert_allclose(other[0], expected[0], rtol=1e-5)
        np.testing.assert_allclose(other[1], expected[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("vocabulary", [1, 2])
def test_devices_change_nothing(vocabulary):
    random = np.random.default_rng(5)
    hidden, matrices = (
        [jnp.asarray(random.normal(size=(*shape, 4)), jnp.float32) for _ in SIZES]
        for shape in ((4, LENGTH), (8,))
    )

    @functools.partial(jax.jit, static_argnames="num_shards")
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def of(hidden, matrices, batch, *, num_shards):
        sides = (HiddenSignal(*both) for both in zip(hidden, map(LMHead, matrices), strict=True))
        return total(OBJECTIVE, *sides, batch, num_shards=num_shards, chunk_rows=4)

    expected = of(hidden, matrices, BATCH, num_shards=1)
    np.testing.assert_array_equal(expected[1][0][1], 0)  # nothing reaches the teacher
    np.testing.assert_array_equal(expected[1][1][1], 0)
    logits = [jnp.einsum("btd,vd->btv", *both) for both in zip(hidden, matrices, strict=True)]
    np.testing.assert_allclose(expected[0], dense(*logits), rtol=1e-5)
    slope = measure(OBJECTIVE, *logits, BATCH)[1]
    head_slope = jnp.einsum("btv,btd->vd", slope, hidden[0])
    np.testing.assert_allclose(expected[1][1][0], head_slope, rtol=1e-4, atol=1e-6)

    num_shards = 4 // vocabulary
    axis_types = (AxisType.Auto, AxisType.Auto)
    mesh = jax.make_mesh((num_shards, vocabulary), ("data", "words"), axis_types=axis_types)
    rows, words = (NamedSharding(mesh, PartitionSpec(name)) for name in ("data", "words"))
    spread = jax.device_put((hidden, matrices, BATCH), (rows, words, rows))
    found = of(*spread, num_shards=num_shards)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_order_of_words_is_no_matter():
    logits = random_logits(3, len(COUNTS))
    random = np.random.default_rng(4)
    orders = [random.permutation(one.shape[-1]) for one in logits]
    shuffled = [one[..., order] for one, order in zip(logits, orders, strict=True)]
    value, slope = measure(OBJECTIVE, *logits, BATCH)
    other_value, other_slope = measure(OBJECTIVE, *shuffled, BATCH)
    np.testing.assert_allclose(other_value, value, rtol=1e-5)
    np.testing.assert_allclose(other_slope, slope[..., orders[0]], rtol=1e-4, atol=1e-6)


def test_padding_of_heads_is_no_word():
    logits = random_logits(3, len(COUNTS))
    wide = [
        HiddenSignal(one, LMHead(jnp.pad(jnp.eye(size), ((0, 3), (0, 0))), vocab_size=size))
        for one, size in zip(logits, SIZES, strict=True)
    ]
    objective = MultiLevelOT(**{**OPTIONS, "k": 50})
    found = total(objective, *wide, BATCH)
    np.testing.assert_allclose(found, measure(objective, *logits, BATCH)[0], rtol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_flat_and_steep_logits_have_finite_gradients(scale):
    student, teacher = random_logits(6, len(COUNTS))
    found, slope = measure(OBJECTIVE, scale * student, teacher, BATCH)
    assert np.isfinite(found)
    assert np.isfinite(slope).all()


def test_a_batch_without_answers_is_nothing():
    batch = stacked(*[paired([], LENGTH)] * len(COUNTS))
    found, slope = measure(OBJECTIVE, *random_logits(7, len(COUNTS)), batch)
    assert found == 0
    assert OBJECTIVE.denominators(batch)["transport"] == 0
    np.testing.assert_array_equal(slope, 0)


def test_memory_does_not_grow_with_rows_times_vocabulary():
    words, width = 50_000, 16

    def temporary_bytes(sequences, length=256):
        def loss(hidden, matrix, batch):
            side = HiddenSignal(hidden, LMHead(matrix))
            return total(OBJECTIVE, side, side, batch, chunk_rows=32)

        batch = stacked(*[side([100, 100], length)] * sequences)
        shapes = (sequences, length, width), (words, width)
        arguments = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*arguments, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(8) - temporary_bytes(4) < 4 * 256 * words * 4 / 50
