"""MultiLevelOT beside the authors' formulas with all logits at once, and its invariances."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdistill.objectives.base import LossContext
from jaxdistill.objectives.multi_level_ot import MultiLevelOT
from jaxdistill.types import Batch, HiddenSignal, LMHead, TokenAlignment

LENGTH, PROMPT_LENGTH = 8, 2
VOCAB_SIZES = 7, 11
"""Number of tokens of the student, and of the teacher."""


def total_loss(objective, student, teacher, batch, *, num_shards=1, chunk_size=256):
    """Compute the sum of the three terms, and each term."""
    terms = objective.terms(LossContext(student, teacher, batch, {}, {}, num_shards, chunk_size))
    return sum(terms.values()), terms


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def released_rule(student, teacher, *, k, beta, gamma, epsilon=0.1, num_iterations=10):
    """The rule of the released code, for the logits of one completion without padding."""
    top_k_probs = []
    for logits in (np.float64(teacher), np.float64(student)):
        probs = softmax(logits / logits.std(-1, ddof=1, keepdims=True))
        top_k_probs.append(probs[:, np.argsort(-probs.sum(0), kind="stable")[:k]])
    size = max(probs.shape[1] for probs in top_k_probs)
    p, q = (np.pad(probs, ((0, 0), (0, size - probs.shape[1]))) for probs in top_k_probs)
    length = min(len(p), len(q))
    absolute = np.abs(p[:length] - q[:length]).sum(-1).mean()
    logarithmic = -(softmax(q[:length]) * np.log(softmax(p[:length]))).sum(-1).mean()
    cost = np.abs(softmax(p / 2)[:, None] - softmax(q / 2)[None]).sum(-1)
    plan = np.exp(-cost / epsilon)
    for _ in range(num_iterations):
        plan = plan / plan.sum(1, keepdims=True)
        plan = plan / plan.sum(0, keepdims=True)
    return absolute + beta * logarithmic + gamma * (plan * cost).sum()


def one_sequence(sizes, length, first=0):
    """Return a sequence of completions of these sizes, each after a prompt."""
    tokens, positions, segment_ids = np.zeros((3, length), np.int32)
    example_ids, loss_mask, start = np.full(length, -1, np.int32), np.zeros(length, np.float32), 0
    for index, size in enumerate(sizes):
        end = start + PROMPT_LENGTH + size
        positions[start:end] = np.arange(end - start)
        segment_ids[start:end], example_ids[start:end] = 1 + index, first + index
        loss_mask[start + PROMPT_LENGTH : end] = 1
        start = end
    return Batch(tokens, tokens, loss_mask, positions, segment_ids, example_ids)


def aligned_sequence(sizes, length, first=0):
    """Align the n-th position of each completion with the n-th of the teacher's."""
    student, teacher = (one_sequence([pair[n] for pair in sizes], length, first) for n in range(2))
    student_span_ids, teacher_span_ids = np.full((2, length), -1, np.int32)
    for segment, pair in enumerate(sizes, start=1):
        own, other = (
            np.flatnonzero((one.segment_ids == segment) & (one.loss_mask > 0))[: min(pair)]
            for one in (student, teacher)
        )
        student_span_ids[own] = teacher_span_ids[other] = own
    weight = np.float32(student_span_ids >= 0)
    alignment = TokenAlignment(teacher, weight, student_span_ids, teacher_span_ids)
    return dataclasses.replace(student, alignment=alignment)


def stacked(*sequences):
    return jax.tree.map(lambda *arrays: np.stack(arrays), *sequences)


class Measured(NamedTuple):
    """The loss, each of its terms, and the gradient to the student's logits."""

    value: Any
    terms: dict[str, Any]
    gradient: Any


def measure(objective, student, teacher, batch, *, num_shards=1, chunk_size=3, num_padding=0):
    """Measure models whose hidden states are logits, with padding in their LM heads."""
    options = {"num_shards": num_shards, "chunk_size": chunk_size, "num_padding": num_padding}
    return jax.device_get(_measure(objective, student, teacher, batch, **options))


@functools.partial(
    jax.jit, static_argnums=0, static_argnames=("num_shards", "chunk_size", "num_padding")
)
def _measure(objective, student, teacher, batch, *, num_padding, **options):
    def loss(student):
        signals = (
            HiddenSignal(logits, LMHead(jnp.eye(size + num_padding, size), vocab_size=size))
            for logits, size in ((student, student.shape[-1]), (teacher, teacher.shape[-1]))
        )
        return total_loss(objective, *signals, batch, **options)

    (value, terms), gradient = jax.value_and_grad(loss, has_aux=True)(student)
    return Measured(value, terms, gradient)


def random_logits(seed, num_sequences, length=LENGTH, vocab_sizes=VOCAB_SIZES):
    random = np.random.default_rng(seed)
    return [
        np.float32(2 * random.normal(size=(num_sequences, length, size))) for size in vocab_sizes
    ]


OPTIONS = {"k": 5, "beta": 0.1, "gamma": 0.5}
OBJECTIVE = MultiLevelOT(**OPTIONS)
SIZES = [(4, 6), (5, 3), (1, 1), (1, 5)]
BATCH = stacked(*(aligned_sequence([pair], LENGTH) for pair in SIZES))


def dense_loss(student, teacher, options=OPTIONS, sizes=SIZES):
    """Sum the rule over sequences of one completion each."""
    start, total = PROMPT_LENGTH, 0.0
    for own, other, (n, m) in zip(student, teacher, sizes, strict=True):
        total += released_rule(own[start : start + n], other[start : start + m], **options)
    return total


def finite_differences(student, teacher, options, step=1e-6):
    expected = np.zeros(student.shape)
    for index in np.ndindex(*student.shape):
        up, down = np.float64(student), np.float64(student)
        up[index], down[index] = up[index] + step, down[index] - step
        difference = dense_loss(up, teacher, options) - dense_loss(down, teacher, options)
        expected[index] = difference / (2 * step)
    return expected


# Fast tests of all tokens and of padding: `tests/train/test_step_oracle.py`.
@pytest.mark.parametrize(
    ("k", "num_padding"), [(5, 0), pytest.param(50, 3, marks=pytest.mark.slow)]
)
def test_loss_and_gradient_equal_the_released_rule(k, num_padding):
    """Over a few tokens of each side, and over all of them, where padding must not be a token."""
    options = {**OPTIONS, "k": k}
    student, teacher = random_logits(0, len(SIZES))
    arguments = MultiLevelOT(**options), student, teacher, BATCH
    value, _, gradient = measure(*arguments, num_padding=num_padding)
    np.testing.assert_allclose(value, dense_loss(student, teacher, options), rtol=1e-5)
    expected = finite_differences(student, teacher, options)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=2e-5)
    is_scored = BATCH.loss_mask > 0
    np.testing.assert_array_equal(gradient[~is_scored], 0)
    assert np.abs(gradient[is_scored]).max(-1).min() > 0
    np.testing.assert_allclose(OBJECTIVE.denominators(BATCH)["transport"], len(SIZES), rtol=1e-6)


def test_one_tokenizer_needs_no_alignment():
    batch = stacked(one_sequence([3], LENGTH), one_sequence([6], LENGTH))
    student, teacher = random_logits(1, 2, vocab_sizes=(7, 7))
    expected = dense_loss(student, teacher, sizes=[(3, 3), (6, 6)])
    value = measure(OBJECTIVE, student, teacher, batch).value
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert measure(OBJECTIVE, student, student, batch).terms["absolute"] == 0


def logits_by_example(tables, batch):
    """Logits that depend on the example and the position in it; large numbers elsewhere."""
    both = []
    for table, read in zip(tables, (batch, batch.alignment.teacher), strict=True):
        logits = np.full((*read.tokens.shape, table.shape[-1]), 77, np.float32)
        logits[..., 0] = -50
        is_scored = read.loss_mask > 0
        example_ids, positions = read.example_ids[is_scored], read.positions[is_scored]
        logits[is_scored] = table[example_ids, positions - PROMPT_LENGTH]
        both.append(logits)
    return both


def test_packing_shards_and_chunks_change_nothing():
    sizes = [(1 + n % 3, 1 + n % 2) for n in range(20)]  # more than one pass of `completion_top_k`
    tables = random_logits(2, 20, length=3)
    packed = stacked(aligned_sequence(sizes, 100))
    two_sequences = stacked(
        aligned_sequence(sizes[:10], 50), aligned_sequence(sizes[10:], 50, first=10)
    )

    results = []
    for batch, options in (
        (packed, {"chunk_size": 64}),
        (two_sequences, {"chunk_size": 3, "num_shards": 2}),
    ):
        measured = measure(OBJECTIVE, *logits_by_example(tables, batch), batch, **options)
        is_scored = batch.loss_mask > 0
        np.testing.assert_array_equal(measured.gradient[~is_scored], 0)
        results.append((measured.value, measured.gradient[is_scored]))
    completions = zip(*tables, sizes, strict=True)
    expected = sum(released_rule(q[:n], p[:m], **OPTIONS) for q, p, (n, m) in completions)
    (value, gradient), (other_value, other_gradient) = results
    np.testing.assert_allclose([value, other_value], expected, rtol=1e-5)
    np.testing.assert_allclose(other_gradient, gradient, rtol=1e-4, atol=1e-6)


def test_devices_change_nothing():
    """Two shards of the batch by two parts of the vocabulary, with padding in the LM heads."""
    random = np.random.default_rng(5)
    hidden = [np.float32(random.normal(size=(4, LENGTH, 4))) for _ in VOCAB_SIZES]
    matrices = [np.float32(random.normal(size=(size + 1, 4))) for size in VOCAB_SIZES]

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def loss_and_gradient(hidden, matrices, batch):
        signals = (
            HiddenSignal(states, LMHead(matrix, vocab_size=size))
            for states, matrix, size in zip(hidden, matrices, VOCAB_SIZES, strict=True)
        )
        return total_loss(OBJECTIVE, *signals, batch, num_shards=2, chunk_size=4)

    mesh = jax.make_mesh((2, 2), ("data", "vocabulary"), axis_types=(AxisType.Auto, AxisType.Auto))
    by_sequence, by_token = (
        NamedSharding(mesh, PartitionSpec(name)) for name in ("data", "vocabulary")
    )
    spread = jax.device_put((hidden, matrices, BATCH), (by_sequence, by_token, by_sequence))
    (value, _), (hidden_gradients, matrix_gradients) = jax.device_get(loss_and_gradient(*spread))
    np.testing.assert_array_equal(hidden_gradients[1], 0)  # no gradient reaches the teacher
    np.testing.assert_array_equal(matrix_gradients[1], 0)

    tokens = [matrix[:size] for matrix, size in zip(matrices, VOCAB_SIZES, strict=True)]
    logits = [states @ matrix.T for states, matrix in zip(hidden, tokens, strict=True)]
    np.testing.assert_allclose(value, dense_loss(*logits), rtol=1e-5)
    gradient = measure(OBJECTIVE, *logits, BATCH).gradient
    expected = np.einsum("btv,btd->vd", gradient, hidden[0])
    np.testing.assert_allclose(hidden_gradients[0], gradient @ tokens[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(matrix_gradients[0][:-1], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(matrix_gradients[0][-1], 0)


def test_the_order_of_tokens_changes_nothing():
    logits = random_logits(3, len(SIZES))
    random = np.random.default_rng(4)
    orders = [random.permutation(size) for size in VOCAB_SIZES]
    shuffled = [array[..., order] for array, order in zip(logits, orders, strict=True)]
    value, _, gradient = measure(OBJECTIVE, *logits, BATCH)
    other_value, _, other_gradient = measure(OBJECTIVE, *shuffled, BATCH)
    np.testing.assert_allclose(other_value, value, rtol=1e-5)
    np.testing.assert_allclose(other_gradient, gradient[..., orders[0]], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_flat_and_steep_logits_have_finite_gradients(scale):
    student, teacher = random_logits(6, len(SIZES))
    value, _, gradient = measure(OBJECTIVE, np.float32(scale) * student, teacher, BATCH)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_a_batch_without_completions_is_zero():
    batch = stacked(*[aligned_sequence([], LENGTH)] * len(SIZES))
    value, _, gradient = measure(OBJECTIVE, *random_logits(7, len(SIZES)), batch)
    assert value == 0
    assert OBJECTIVE.denominators(batch)["transport"] == 0
    np.testing.assert_array_equal(gradient, 0)


def test_memory_does_not_grow_with_positions_times_vocabulary():
    num_sequences, length, vocab_size, width = 64, 256, 50_000, 16

    def loss(hidden, matrix, batch):
        signal = HiddenSignal(hidden, LMHead(matrix))
        return total_loss(OBJECTIVE, signal, signal, batch, chunk_size=32)[0]

    batch = stacked(*[one_sequence([100, 100], length)] * num_sequences)
    shapes = (num_sequences, length, width), (vocab_size, width)
    arguments = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*arguments, batch).compile()
    num_logits = num_sequences * length * vocab_size
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * num_logits / 50
