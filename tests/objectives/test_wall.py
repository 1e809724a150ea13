"""What the wall promises whatever the objective: heads, chunks, memory, rows, one walk for all."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_rows import GROUPS, ROWS, WORDS, Case, dense_sums, measure, random_case

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
    for found, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if found.dtype != jax.dtypes.float0:
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def padded(head: LMHead, num_rows: int) -> LMHead:
    """The head with rows of padding, which hold junk."""
    junk = jnp.full((num_rows, head.matrix.shape[1]), 100.0)
    bias = None if head.bias is None else jnp.concatenate([head.bias, jnp.full(num_rows, 50.0)])
    return dataclasses.replace(head, matrix=jnp.concatenate([head.matrix, junk]), bias=bias)


def test_chunk_size_changes_nothing(case: Case) -> None:
    value, gradient = measure(MIX, case, chunk_rows=4)
    for chunk_rows in (1, 3, 1000):
        other_value, other_gradient = measure(MIX, case, chunk_rows=chunk_rows)
        np.testing.assert_allclose(other_value, value, rtol=1e-6)
        assert_close(other_gradient, gradient)


def test_grouping_changes_nothing(case: Case) -> None:
    def regrouped(case: Case, groups: int) -> Case:
        rows = ("student_hidden", "labels", "mask", "teacher_hidden")
        columns = {name: getattr(case, name) for name in rows}
        return case.replace(
            **{
                name: column.reshape(groups, -1, *column.shape[2:])
                for name, column in columns.items()
                if column.dtype != jax.dtypes.float0
            }
        )

    value, gradient = measure(MIX, case)
    for groups in (1, GROUPS * ROWS):
        other_value, other_gradient = measure(MIX, regrouped(case, groups))
        np.testing.assert_allclose(other_value, value, rtol=1e-6)
        gradient = gradient.replace(labels=other_gradient.labels)
        assert_close(other_gradient, regrouped(gradient, groups))


@pytest.mark.parametrize(("student_rows", "teacher_rows"), [(7, 0), (7, 7), (3, 11)])
def test_padding_of_either_head_changes_nothing(
    case: Case, student_rows: int, teacher_rows: int
) -> None:
    value, gradient = measure(MIX, case)
    student_lm_head = padded(case.student_lm_head, student_rows)
    teacher_lm_head = padded(case.teacher_lm_head, teacher_rows)
    wider = case.replace(student_lm_head=student_lm_head, teacher_lm_head=teacher_lm_head)
    wider_value, wider_gradient = measure(MIX, wider)
    np.testing.assert_allclose(wider_value, value, rtol=1e-6)
    found = wider_gradient.student_lm_head.matrix
    np.testing.assert_array_equal(found[WORDS:], 0)
    np.testing.assert_allclose(found[:WORDS], gradient.student_lm_head.matrix, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        wider_gradient.student_hidden, gradient.student_hidden, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("padding", [0, 5])
def test_bias_scale_and_soft_cap_are_honoured(case: Case, padding: int) -> None:
    bias = jnp.linspace(-1.0, 1.0, WORDS)
    student_lm_head = dataclasses.replace(case.student_lm_head, bias=bias, scale=0.5, soft_cap=3.0)
    teacher_lm_head = dataclasses.replace(case.teacher_lm_head, bias=-bias, soft_cap=4.0)
    case = case.replace(
        student_lm_head=padded(student_lm_head, padding),
        teacher_lm_head=padded(teacher_lm_head, padding),
    )

    def dense(hidden: jax.Array, head: LMHead) -> jax.Array:
        return jnp.sum(dense_sums(MIX, case.replace(student_hidden=hidden, student_lm_head=head)))

    value, (hidden, head) = jax.value_and_grad(dense, argnums=(0, 1), allow_int=True)(
        case.student_hidden, case.student_lm_head
    )
    ours, gradient = measure(MIX, case)
    np.testing.assert_allclose(ours, value, rtol=1e-5)
    assert_close(gradient.student_hidden, hidden)
    assert_close(gradient.student_lm_head, head)


def test_logits_are_what_the_head_says(case: Case) -> None:
    head = dataclasses.replace(case.student_lm_head, bias=jnp.ones(WORDS), scale=2.0, soft_cap=5.0)
    hidden = case.student_hidden
    expected = 5 * jnp.tanh((hidden @ head.matrix.T + 1) * 2 / 5)
    found = compute_logits(hidden, padded(head, 4))
    np.testing.assert_allclose(found[..., :WORDS], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found[..., WORDS:], -jnp.inf)


def test_one_walk_gives_each_sum_and_their_mixture(case: Case) -> None:
    coefficients = jnp.array([0.5, 2.0, 0.0])
    loss, sums = weighted_loss(MIX, coefficients, *case.arguments(), chunk_size=4)
    np.testing.assert_allclose(sums, dense_sums(MIX, case), rtol=1e-5)
    np.testing.assert_allclose(loss, coefficients @ sums, rtol=1e-6)

    def of(coefficients: jax.Array) -> jax.Array:
        return weighted_loss(MIX, coefficients, *case.arguments(), chunk_size=4)[0]

    np.testing.assert_allclose(jax.grad(of)(coefficients), sums, rtol=1e-6)


def test_an_infinite_objective_that_is_only_watched_does_no_harm(case: Case) -> None:
    impossible = jnp.zeros(WORDS).at[0].set(-jnp.inf)
    head = dataclasses.replace(case.student_lm_head, bias=impossible)
    loss, sums = weighted_loss(
        (OBJECTIVES["forward_kl"](), OBJECTIVES["skew_kl"]()),
        jnp.array([0.0, 1.0]),
        *case.replace(student_lm_head=head).arguments(),
    )
    assert jnp.isinf(sums[0])
    assert jnp.isfinite(loss)


def test_no_row_counts_at_all(case: Case) -> None:
    value, gradient = measure(MIX, case.replace(mask=jnp.zeros_like(case.mask)))
    assert value == 0
    np.testing.assert_array_equal(gradient.student_hidden, 0)
    np.testing.assert_array_equal(gradient.student_lm_head.matrix, 0)


def test_rows_that_do_not_count_are_never_projected(key: jax.Array) -> None:
    chunks = []

    @configclass
    class Counting(CrossEntropy):
        def values(self, student, teacher):
            jax.debug.callback(lambda: chunks.append(student.logits.shape[0]))
            return super().values(student, teacher)

    case = random_case(key, groups=1, rows=512)
    mask = jnp.zeros((1, 512)).at[0, jnp.array([5, 100, 511])].set(1.0)
    jax.block_until_ready(measure((Counting(),), case.replace(mask=mask), chunk_rows=2))
    jax.effects_barrier()
    assert chunks == [2, 2]


def test_row_statistics_come_back_in_their_places(case: Case) -> None:
    nll, kl = OBJECTIVES["cross_entropy"](), OBJECTIVES["forward_kl"]()
    found = position_metrics(
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
        np.testing.assert_array_equal(found[name][case.mask == 0], 0)
        total = jnp.sum(case.mask * found[name])
        np.testing.assert_allclose(total, dense_sums((objective,), case)[0], rtol=1e-5)
    log_q = jax.nn.log_softmax(case.student_hidden @ case.student_lm_head.matrix.T)
    expected = -jnp.take_along_axis(log_q, case.labels[..., None], -1)[..., 0]
    np.testing.assert_allclose(
        found["nll"], jnp.where(case.mask > 0, expected, 0), rtol=1e-5, atol=1e-6
    )
    assert set(np.unique(found["agrees"])) <= {0.0, 1.0}


def test_mistakes_are_told_before_anything_runs(case: Case) -> None:
    ones = jnp.ones(len(MIX))
    with pytest.raises(UserError, match="no teacher was given"):
        weighted_loss(MIX, ones, *case.without_teacher())
    other = LMHead(case.teacher_lm_head.matrix[:-2], vocab_size=WORDS - 2)
    with pytest.raises(UserError, match=r"student 33, teacher 31"):
        weighted_loss(MIX, ones, *case.replace(teacher_lm_head=other).arguments())


def test_a_shape_that_does_not_fit_names_its_argument(case: Case) -> None:
    for name in ("labels", "mask", "student_hidden"):
        short = case.replace(**{name: getattr(case, name)[:, 1:]})
        with pytest.raises(TypeError, match=r"parameter '(labels|hidden|mask)'"):
            short.arguments()
