"""The chunked loss with any objective: LM heads, chunks, shards, masks, one loop for all."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_positions import (
    POSITIONS,
    SHARDS,
    VOCAB_SIZE,
    Case,
    dense_sums,
    measure,
    measure_terms,
    random_case,
)
from scipy.special import log_softmax

from jaxdistill.config import configclass
from jaxdistill.errors import UserError
from jaxdistill.objectives import OBJECTIVES, compute_logits, position_metrics, weighted_loss
from jaxdistill.objectives.cross_entropy import CrossEntropy
from jaxdistill.types import LMHead

MIX = (
    OBJECTIVES["forward_kl"](temperature=2.0),
    OBJECTIVES["cross_entropy"](),
    OBJECTIVES["jensen_shannon"](),
)


@pytest.fixture
def case() -> Case:
    return random_case()


def assert_close(ours: Case, theirs: Case) -> None:
    for leaf, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if leaf.dtype != jax.dtypes.float0:
            np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-5)


def padded(lm_head: LMHead, num_rows: int) -> LMHead:
    """Add rows of padding with large values."""
    matrix = np.pad(lm_head.matrix, ((0, num_rows), (0, 0)), constant_values=100.0)
    bias = lm_head.bias
    if bias is not None:
        bias = jnp.asarray(np.pad(bias, (0, num_rows), constant_values=50.0))
    return dataclasses.replace(lm_head, matrix=jnp.asarray(matrix), bias=bias)


@pytest.mark.parametrize(("shards", "chunk_size"), [(1, 1), (SHARDS * POSITIONS, 1000)])
def test_chunk_size_and_number_of_shards_change_nothing(
    case: Case, shards: int, chunk_size: int
) -> None:
    """From chunks of one position of one shard to a chunk larger than shards of one position."""

    def resharded(case: Case) -> Case:
        names = ("student_hidden", "labels", "loss_mask", "teacher_hidden")
        columns = {name: getattr(case, name) for name in names}
        return case.replace(
            **{
                name: column.reshape(shards, -1, *column.shape[2:])
                for name, column in columns.items()
                if column.dtype != jax.dtypes.float0
            }
        )

    value, gradient = measure(MIX, case)
    other_value, other_gradient = measure(MIX, resharded(case), chunk_size=chunk_size)
    np.testing.assert_allclose(other_value, value, rtol=1e-6)
    gradient = gradient.replace(labels=other_gradient.labels)
    assert_close(other_gradient, resharded(gradient))


@pytest.mark.parametrize(("student_rows", "teacher_rows"), [(7, 0), (3, 11)])
def test_padding_of_either_lm_head_changes_nothing(
    case: Case, student_rows: int, teacher_rows: int
) -> None:
    value, gradient = measure(MIX, case)
    student_lm_head = padded(case.student_lm_head, student_rows)
    teacher_lm_head = padded(case.teacher_lm_head, teacher_rows)
    wider = case.replace(student_lm_head=student_lm_head, teacher_lm_head=teacher_lm_head)
    wider_value, wider_gradient = measure(MIX, wider)
    np.testing.assert_allclose(wider_value, value, rtol=1e-6)
    matrix = wider_gradient.student_lm_head.matrix
    np.testing.assert_array_equal(matrix[VOCAB_SIZE:], 0)
    assert_close(matrix[:VOCAB_SIZE], gradient.student_lm_head.matrix)
    assert_close(wider_gradient.student_hidden, gradient.student_hidden)


def test_bias_scale_soft_cap_and_padding_are_applied(case: Case) -> None:
    bias = np.linspace(-1, 1, VOCAB_SIZE, dtype=np.float32)
    student_lm_head = dataclasses.replace(
        case.student_lm_head, bias=jnp.asarray(bias), scale=0.5, soft_cap=3.0
    )
    teacher_lm_head = dataclasses.replace(
        case.teacher_lm_head, bias=jnp.asarray(-bias), soft_cap=4.0
    )
    case = case.replace(
        student_lm_head=padded(student_lm_head, 5), teacher_lm_head=padded(teacher_lm_head, 5)
    )

    @jax.jit
    @functools.partial(jax.value_and_grad, allow_int=True)
    def dense(case: Case) -> jax.Array:
        return jnp.sum(dense_sums(MIX, case))

    value, expected = jax.device_get(dense(case))
    ours, gradient = measure(MIX, case)
    np.testing.assert_allclose(ours, value, rtol=1e-5)
    assert_close(gradient.student_hidden, expected.student_hidden)
    assert_close(gradient.student_lm_head, expected.student_lm_head)


def test_no_gradient_reaches_the_teacher(case: Case) -> None:
    gradient = measure(MIX, case)[1]
    np.testing.assert_array_equal(gradient.teacher_hidden, 0)
    np.testing.assert_array_equal(gradient.teacher_lm_head.matrix, 0)


def test_compute_logits_applies_the_whole_lm_head(case: Case) -> None:
    lm_head = dataclasses.replace(
        case.student_lm_head,
        bias=jnp.asarray(np.ones(VOCAB_SIZE, np.float32)),
        scale=2.0,
        soft_cap=5.0,
    )
    hidden = case.student_hidden
    expected = 5 * np.tanh((hidden @ np.asarray(lm_head.matrix).T + 1) * 2 / 5)
    logits = jax.device_get(jax.jit(compute_logits)(hidden, padded(lm_head, 4)))
    np.testing.assert_allclose(logits[..., :VOCAB_SIZE], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(logits[..., VOCAB_SIZE:], -jnp.inf)


def test_one_loop_gives_each_sum_and_their_weighted_total(case: Case) -> None:
    coefficients = np.float32([0.5, 2.0, 0.0])
    (loss, sums), (_, gradient) = jax.device_get(measure_terms(MIX, case, coefficients))
    np.testing.assert_allclose(sums, dense_sums(MIX, case), rtol=1e-5)
    np.testing.assert_allclose(loss, coefficients @ sums, rtol=1e-6)
    np.testing.assert_allclose(gradient, sums, rtol=1e-6)


def test_an_infinite_objective_of_weight_zero_leaves_the_loss_finite(case: Case) -> None:
    impossible = np.where(np.arange(VOCAB_SIZE) == 0, -np.inf, 0).astype(np.float32)
    lm_head = dataclasses.replace(case.student_lm_head, bias=jnp.asarray(impossible))
    objectives = OBJECTIVES["forward_kl"](), OBJECTIVES["skew_kl"]()

    @jax.jit
    def evaluate(case: Case, coefficients: jax.Array) -> tuple[jax.Array, jax.Array]:
        return weighted_loss(objectives, coefficients, *case.arguments())

    loss, sums = evaluate(case.replace(student_lm_head=lm_head), np.float32([0, 1]))
    assert np.isinf(sums[0])
    assert np.isfinite(loss)


def test_a_batch_without_scored_positions_is_zero(case: Case) -> None:
    value, gradient = measure(MIX, case.replace(loss_mask=np.zeros_like(case.loss_mask)))
    assert value == 0
    np.testing.assert_array_equal(gradient.student_hidden, 0)
    np.testing.assert_array_equal(gradient.student_lm_head.matrix, 0)


def test_masked_positions_are_never_projected() -> None:
    chunks = []

    @configclass
    class Counting(CrossEntropy):
        def values(self, student, teacher):
            jax.debug.callback(lambda: chunks.append(student.logits.shape[0]))
            return super().values(student, teacher)

    case = random_case(shards=1, positions=512)
    loss_mask = np.float32(np.isin(np.arange(512), [5, 100, 511]))[None]
    measure((Counting(),), case.replace(loss_mask=loss_mask), chunk_size=2)
    jax.effects_barrier()
    assert chunks == [2, 2]


def test_position_metrics_come_back_at_their_positions(case: Case) -> None:
    nll, kl = OBJECTIVES["cross_entropy"](), OBJECTIVES["forward_kl"]()
    functions = {
        "nll": nll.values,
        "forward_kl": kl.values,
        "agrees": lambda student, teacher: (
            jnp.argmax(student.logits, -1) == jnp.argmax(teacher.logits, -1)
        ).astype(jnp.float32),
    }

    @jax.jit
    def evaluate(case: Case) -> dict[str, jax.Array]:
        return position_metrics(functions, *case.arguments(), chunk_size=4)

    metrics = jax.device_get(evaluate(case))
    sums = np.asarray(dense_sums((nll, kl), case))
    for name, expected_sum in zip(("nll", "forward_kl"), sums, strict=True):
        np.testing.assert_array_equal(metrics[name][case.loss_mask == 0], 0)
        total = np.sum(case.loss_mask * metrics[name])
        np.testing.assert_allclose(total, expected_sum, rtol=1e-5)
    log_q = log_softmax(case.student_hidden @ np.asarray(case.student_lm_head.matrix).T, axis=-1)
    expected = -np.take_along_axis(log_q, case.labels[..., None], -1)[..., 0]
    np.testing.assert_allclose(
        metrics["nll"], np.where(case.loss_mask > 0, expected, 0), rtol=1e-5, atol=1e-6
    )
    assert set(np.unique(metrics["agrees"])) <= {0.0, 1.0}


def test_a_missing_teacher_and_other_vocabularies_are_refused(case: Case) -> None:
    ones = jnp.asarray(np.ones(len(MIX), np.float32))
    with pytest.raises(UserError, match="no teacher was given"):
        weighted_loss(MIX, ones, *case.without_teacher())
    matrix = jnp.asarray(np.asarray(case.teacher_lm_head.matrix)[:-2])
    other = LMHead(matrix, vocab_size=VOCAB_SIZE - 2)
    with pytest.raises(UserError, match=r"student 33, teacher 31"):
        weighted_loss(MIX, ones, *case.replace(teacher_lm_head=other).arguments())


def test_a_wrong_shape_names_its_argument(case: Case) -> None:
    for name in ("labels", "loss_mask", "student_hidden"):
        short = case.replace(**{name: getattr(case, name)[:, 1:]})
        with pytest.raises(TypeError, match=r"parameter '(labels|hidden|loss_mask)'"):
            short.arguments()
