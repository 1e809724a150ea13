"""Laws that hold for every method in the registry: a new file is tested by being there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_rows import Case, dense_sums, random_case

from jaxdistill.config import configclass, dump, load
from jaxdistill.objectives import OBJECTIVES, Divergence, RowObjective, weighted_loss

ONE = jnp.ones(1)

every_objective = pytest.mark.parametrize("name", list(OBJECTIVES))


@pytest.fixture
def case(key: jax.Array) -> Case:
    return random_case(key)


def build(name: str, **fields: object) -> RowObjective:
    return OBJECTIVES[name](**fields)


def loss(name: str, case: Case, **fields: object) -> jax.Array:
    return weighted_loss((build(name, **fields),), ONE, *case.arguments(), chunk_rows=4)[0]


def gradients(name: str, case: Case) -> dict[str, np.ndarray]:
    """The gradients with respect to every real-valued argument of the wall."""

    def of(student_hidden, matrix, teacher_hidden, teacher_matrix):
        changed = case.replace(
            student_hidden=student_hidden,
            student_head=case.student_head.__class__(matrix, vocab_size=matrix.shape[0]),
            teacher_hidden=teacher_hidden,
            teacher_head=case.teacher_head.__class__(
                teacher_matrix, vocab_size=teacher_matrix.shape[0]
            ),
        )
        return loss(name, changed)

    names = ("student_hidden", "student_matrix", "teacher_hidden", "teacher_matrix")
    found = jax.grad(of, argnums=(0, 1, 2, 3))(
        case.student_hidden,
        case.student_head.matrix,
        case.teacher_hidden,
        case.teacher_head.matrix,
    )
    return dict(zip(names, map(np.asarray, found), strict=True))


def is_divergence(name: str) -> bool:
    return issubclass(OBJECTIVES[name], Divergence)


@every_objective
def test_equal_models_are_at_rest_and_others_are_not(name: str, case: Case) -> None:
    assert loss(name, case) > 0.1
    equal = case.replace(teacher_hidden=case.student_hidden, teacher_head=case.student_head)
    if is_divergence(name):
        np.testing.assert_allclose(loss(name, equal), 0, atol=1e-5)
        np.testing.assert_allclose(gradients(name, equal)["student_hidden"], 0, atol=1e-5)


@every_objective
def test_rows_that_the_mask_leaves_out_do_not_count(name: str, case: Case) -> None:
    left_out = (case.mask == 0)[..., None]
    spoilt = case.replace(
        student_hidden=jnp.where(left_out, jnp.nan, case.student_hidden),
        teacher_hidden=jnp.where(left_out, jnp.inf, case.teacher_hidden),
        labels=jnp.where(left_out[..., 0], -100, case.labels),
    )
    assert loss(name, spoilt) == loss(name, case)
    for before, after in zip(
        gradients(name, case).values(), gradients(name, spoilt).values(), strict=True
    ):
        np.testing.assert_array_equal(after, before)
    gradient = gradients(name, case)["student_hidden"]
    np.testing.assert_array_equal(gradient[case.mask == 0], 0)
    assert np.all(np.abs(gradient[case.mask != 0]).max(-1) > 0)


@every_objective
def test_a_mask_of_two_counts_twice(name: str, case: Case) -> None:
    doubled = case.replace(mask=2 * case.mask)
    np.testing.assert_allclose(loss(name, doubled), 2 * loss(name, case), rtol=1e-6)


@every_objective
def test_halves_add_up_to_the_whole(name: str, case: Case) -> None:
    first = case.replace(mask=case.mask.at[:, ::2].set(0))
    second = case.replace(mask=case.mask.at[:, 1::2].set(0))
    total = loss(name, first) + loss(name, second)
    np.testing.assert_allclose(total, loss(name, case), rtol=1e-5)


@every_objective
def test_gradients_are_those_of_the_dense_loss(name: str, case: Case) -> None:
    objective = build(name)

    def dense(hidden: jax.Array, matrix: jax.Array) -> jax.Array:
        head = case.student_head.__class__(matrix, vocab_size=matrix.shape[0])
        changed = case.replace(student_hidden=hidden, student_head=head)
        return dense_sums((objective,), changed)[0]

    np.testing.assert_allclose(
        loss(name, case), dense(case.student_hidden, case.student_head.matrix), rtol=1e-5
    )
    expected = jax.grad(dense, argnums=(0, 1))(case.student_hidden, case.student_head.matrix)
    found = gradients(name, case)
    for ours, theirs in zip(list(found.values())[:2], expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@every_objective
def test_no_gradient_reaches_the_teacher(name: str, case: Case) -> None:
    found = gradients(name, case)
    np.testing.assert_array_equal(found["teacher_hidden"], 0)
    np.testing.assert_array_equal(found["teacher_matrix"], 0)


@every_objective
def test_gradients_are_finite_at_logits_a_thousand_times_too_large(name: str, case: Case) -> None:
    huge = case.replace(
        student_hidden=1000 * case.student_hidden, teacher_hidden=1000 * case.teacher_hidden
    )
    assert jnp.isfinite(loss(name, huge))
    for gradient in gradients(name, huge).values():
        assert np.all(np.isfinite(gradient))


@every_objective
def test_bfloat16_goes_in_and_float32_comes_out(name: str, case: Case) -> None:
    def cast(head):
        return head.__class__(head.matrix.astype(jnp.bfloat16), vocab_size=head.vocab_size)

    low = case.replace(
        student_hidden=case.student_hidden.astype(jnp.bfloat16),
        student_head=cast(case.student_head),
        teacher_hidden=case.teacher_hidden.astype(jnp.bfloat16),
        teacher_head=cast(case.teacher_head),
    )
    value = loss(name, low)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, loss(name, case), rtol=0.02)
    found, expected = gradients(name, low), gradients(name, case)
    assert found["student_hidden"].dtype == found["student_matrix"].dtype == jnp.bfloat16
    for side in ("student_hidden", "student_matrix"):
        scale = np.abs(expected[side]).max()
        np.testing.assert_allclose(
            found[side].astype(np.float32) / scale, expected[side] / scale, atol=0.03
        )


@every_objective
def test_jit_changes_nothing(name: str, case: Case) -> None:
    jitted = jax.jit(lambda *arguments: loss(name, Case(*arguments)))(*case.arguments())
    np.testing.assert_allclose(jitted, loss(name, case), rtol=1e-6)


@every_objective
def test_it_is_a_line_of_yaml(name: str) -> None:
    @configclass
    class Holder:
        objectives: tuple[OBJECTIVES.union, ...]

    read = load(Holder, None, [f"objectives=[{{type: {name}, weight: 0.5}}]"])
    assert read.objectives == (build(name, weight=0.5),)
    assert f"type: {name}" in dump(read)
    assert hash(read.objectives[0]) == hash(build(name, weight=0.5))


@every_objective
def test_temperature_flattens_and_its_square_restores(name: str, case: Case) -> None:
    if not is_divergence(name):
        pytest.skip("has no temperature")
    cool = case.replace(
        student_hidden=case.student_hidden / 2, teacher_hidden=case.teacher_hidden / 2
    )
    warm = loss(name, case, temperature=2.0)
    np.testing.assert_allclose(warm, loss(name, cool), rtol=1e-5)
    scaled = loss(name, case, temperature=2.0, scale_by_temperature_squared=True)
    np.testing.assert_allclose(scaled, 4 * warm, rtol=1e-6)


@every_objective
def test_it_says_what_it_needs(name: str, case: Case) -> None:
    assert build(name).needs <= {"teacher_logits", "labels"}
    if "labels" not in build(name).needs:
        other = case.replace(labels=(case.labels + 1) % 7)
        assert loss(name, other) == loss(name, case)
    if "teacher_logits" not in build(name).needs:
        alone = case.arguments()[:4]
        assert weighted_loss((build(name),), ONE, *alone, chunk_rows=4)[0] == loss(name, case)
