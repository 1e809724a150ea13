"""The chunked loss with any objective: LM heads, chunks, shards, masks, one loop for all."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_positions import POSITIONS, SHARDS, VOCAB_SIZE, Case, dense_sums, measure, random_case

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
def case(key: jax.Array) -> Case:
    return random_case(key)


def assert_close(ours: Case, theirs: Case) -> None:
    for leaf, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if leaf.dtype != jax.dtypes.float0:
            np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-5)


def padded(lm_head: LMHead, num_rows: int) -> LMHead:
    """Add rows of padding with large values."""
    matrix = jnp.pad(lm_head.matrix, ((0, num_rows), (0, 0)), constant_values=100.0)
    bias = lm_head.bias
    if bias is not None:
        bias = jnp.pad(bias, (0, num_rows), constant_values=50.0)
    return dataclasses.replace(lm_head, matrix=matrix, bias=bias)


def test_chunk_size_changes_nothing(case: Case) -> None:
    value, gradient = measure(MIX, case, chunk_size=4)
    for chunk_size in (1, 3, 1000):
        other_value, other_gradient = measure(MIX, case, chunk_size=chunk_size)
        np.testing.assert_allclose(other_value, value, rtol=1e-6)
        assert_close(other_gradient, gradient)


def test_the_number_of_shards_changes_nothing(case: Case) -> None:
    def resharded(case: Case, shards: int) -> Case:
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
    for shards in (1, SHARDS * POSITIONS):
        other_value, other_gradient = measure(MIX, resharded(case, shards))
        np.testing.assert_allclose(other_value, value, rtol=1e-6)
        gradient = gradient.replace(labels=other_gradient.labels)
        assert_close(other_gradient, resharded(gradient, shards))


@pytest.mark.parametrize(("student_rows", "teacher_rows"), [(7, 0), (7, 7), (3, 11)])
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


@pytest.mark.parametrize("padding", [0, 5])
def test_bias_scale_and_soft_cap_are_applied(case: Case, padding: int) -> None:
    bias = jnp.linspace(-1.0, 1.0, VOCAB_SIZE)
    student_lm_head = dataclasses.replace(case.student_lm_head, bias=bias, scale=0.5, soft_cap=3.0)
    teacher_lm_head = dataclasses.replace(case.teacher_lm_head, bias=-bias, soft_cap=4.0)
    case = case.replace(
        student_lm_head=padded(student_lm_head, padding),
        teacher_lm_head=padded(teacher_lm_head, padding),
    )

    def dense(hidden: jax.Array, lm_head: LMHead) -> jax.Array:
        changed = case.replace(student_hidden=hidden, student_lm_head=lm_head)
        return jnp.sum(dense_sums(MIX, changed))

    value, (hidden, lm_head) = jax.value_and_grad(dense, argnums=(0, 1), allow_int=True)(
        case.student_hidden, case.student_lm_head
    )
    ours, gradient = measure(MIX, case)
    np.testing.assert_allclose(ours, value, rtol=1e-5)
    assert_close(gradient.student_hidden, hidden)
    assert_close(gradient.student_lm_head, lm_head)


def test_no_gradient_reaches_the_teacher(case: Case) -> None:
    gradient = measure(MIX, case)[1]
    np.testing.assert_array_equal(gradient.teacher_hidden, 0)
    np.testing.assert_array_equal(gradient.teacher_lm_head.matrix, 0)


def test_compute_logits_applies_the_whole_lm_head(case: Case) -> None:
    lm_head = dataclasses.replace(
        case.student_lm_head, bias=jnp.ones(VOCAB_SIZE), scale=2.0, soft_cap=5.0
    )
    hidden = case.student_hidden
    expected = 5 * jnp.tanh((hidden @ lm_head.matrix.T + 1) * 2 / 5)
    logits = compute_logits(hidden, padded(lm_head, 4))
    np.testing.assert_allclose(logits[..., :VOCAB_SIZE], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(logits[..., VOCAB_SIZE:], -jnp.inf)


def test_one_loop_gives_each_sum_and_their_weighted_total(case: Case) -> None:
    coefficients = jnp.array([0.5, 2.0, 0.0])
    loss, sums = weighted_loss(MIX, coefficients, *case.arguments(), chunk_size=4)
    np.testing.assert_allclose(sums, dense_sums(MIX, case), rtol=1e-5)
    np.testing.assert_allclose(loss, coefficients @ sums, rtol=1e-6)

    def total(coefficients: jax.Array) -> jax.Array:
        return weighted_loss(MIX, coefficients, *case.arguments(), chunk_size=4)[0]

    np.testing.assert_allclose(jax.grad(total)(coefficients), sums, rtol=1e-6)


def test_an_infinite_objective_of_weight_zero_leaves_the_loss_finite(case: Case) -> None:
    impossible = jnp.zeros(VOCAB_SIZE).at[0].set(-jnp.inf)
    lm_head = dataclasses.replace(case.student_lm_head, bias=impossible)
    loss, sums = weighted_loss(
        (OBJECTIVES["forward_kl"](), OBJECTIVES["skew_kl"]()),
        jnp.array([0.0, 1.0]),
        *case.replace(student_lm_head=lm_head).arguments(),
    )
    assert jnp.isinf(sums[0])
    assert jnp.isfinite(loss)


def test_a_batch_without_scored_positions_is_zero(case: Case) -> None:
    value, gradient = measure(MIX, case.replace(loss_mask=jnp.zeros_like(case.loss_mask)))
    assert value == 0
    np.testing.assert_array_equal(gradient.student_hidden, 0)
    np.testing.assert_array_equal(gradient.student_lm_head.matrix, 0)


def test_masked_positions_are_never_projected(key: jax.Array) -> None:
    chunks = []

    @configclass
    class Counting(CrossEntropy):
        def values(self, student, teacher):
            jax.debug.callback(lambda: chunks.append(student.logits.shape[0]))
            return super().values(student, teacher)

    case = random_case(key, shards=1, positions=512)
    loss_mask = jnp.zeros((1, 512)).at[0, jnp.array([5, 100, 511])].set(1.0)
    jax.block_until_ready(measure((Counting(),), case.replace(loss_mask=loss_mask), chunk_size=2))
    jax.effects_barrier()
    assert chunks == [2, 2]


def test_position_metrics_come_back_at_their_positions(case: Case) -> None:
    nll, kl = OBJECTIVES["cross_entropy"](), OBJECTIVES["forward_kl"]()
    metrics = position_metrics(
        {
            "nll": nll.values,
            "forward_kl": kl.values,
            "agrees": lambda student, teacher: (
                jnp.argmax(student.logits, -1) == jnp.argmax(teacher.logits, -1)
            ).astype(jnp.float32),
        },
        *case.arguments(),
        chunk_size=4,
    )
    for name, objective in [("nll", nll), ("forward_kl", kl)]:
        np.testing.assert_array_equal(metrics[name][case.loss_mask == 0], 0)
        total = jnp.sum(case.loss_mask * metrics[name])
        np.testing.assert_allclose(total, dense_sums((objective,), case)[0], rtol=1e-5)
    log_q = jax.nn.log_softmax(case.student_hidden @ case.student_lm_head.matrix.T)
    expected = -jnp.take_along_axis(log_q, case.labels[..., None], -1)[..., 0]
    np.testing.assert_allclose(
        metrics["nll"], jnp.where(case.loss_mask > 0, expected, 0), rtol=1e-5, atol=1e-6
    )
    assert set(np.unique(metrics["agrees"])) <= {0.0, 1.0}


def test_a_missing_teacher_and_other_vocabularies_are_refused(case: Case) -> None:
    ones = jnp.ones(len(MIX))
    with pytest.raises(UserError, match="no teacher was given"):
        weighted_loss(MIX, ones, *case.without_teacher())
    other = LMHead(case.teacher_lm_head.matrix[:-2], vocab_size=VOCAB_SIZE - 2)
    with pytest.raises(UserError, match=r"student 33, teacher 31"):
        weighted_loss(MIX, ones, *case.replace(teacher_lm_head=other).arguments())


def test_a_wrong_shape_names_its_argument(case: Case) -> None:
    for name in ("labels", "loss_mask", "student_hidden"):
        short = case.replace(**{name: getattr(case, name)[:, 1:]})
        with pytest.raises(TypeError, match=r"parameter '(labels|hidden|loss_mask)'"):
            short.arguments()
