"""Laws that hold for every method of rows in the registry: a new file is tested by being there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_rows import Case, dense_sums, measure, random_case

from jaxdistill.config import configclass, dump, load
from jaxdistill.objectives import OBJECTIVES, Divergence, PositionObjective, weighted_loss
from jaxdistill.types import LMHead

ONE = jnp.ones(1)

every_objective = pytest.mark.parametrize(
    "name", [name for name in OBJECTIVES if issubclass(OBJECTIVES[name], PositionObjective)]
)


@pytest.fixture
def case(key: jax.Array) -> Case:
    return random_case(key)


def build(name: str, **fields: object) -> PositionObjective:
    return OBJECTIVES[name](**fields)


def loss(name: str, case: Case, **fields: object) -> jax.Array:
    return measure((build(name, **fields),), case)[0]


def gradient(name: str, case: Case) -> Case:
    return measure((build(name),), case)[1]


def is_divergence(name: str) -> bool:
    return issubclass(OBJECTIVES[name], Divergence)


BY_RANK = "uld", "gold", "hybrid_kl"  # which have an edge there, and no gradient


@every_objective
def test_equal_models_are_at_rest_and_others_are_not(name: str, case: Case) -> None:
    assert loss(name, case) > 0.1
    equal = case.replace(teacher_hidden=case.student_hidden, teacher_lm_head=case.student_lm_head)
    at_rest = is_divergence(name) or name == "sinkhorn"
    if at_rest or name in BY_RANK:
        np.testing.assert_allclose(loss(name, equal), 0, atol=1e-5)
    if at_rest or name == "alm":
        rounding = 1e-4 if name == "sinkhorn" else 1e-5  # of so many iterations
        np.testing.assert_allclose(gradient(name, equal).student_hidden, 0, atol=rounding)
        assert np.abs(gradient(name, case).student_hidden).max() > 100 * rounding


@every_objective
def test_rows_that_the_mask_leaves_out_do_not_count(name: str, case: Case) -> None:
    left_out = (case.mask == 0)[..., None]
    spoilt = case.replace(
        student_hidden=jnp.where(left_out, jnp.nan, case.student_hidden),
        teacher_hidden=jnp.where(left_out, jnp.inf, case.teacher_hidden),
        labels=jnp.where(left_out[..., 0], -100, case.labels),
    )
    assert loss(name, spoilt) == loss(name, case)
    before, after = gradient(name, case), gradient(name, spoilt)
    np.testing.assert_array_equal(after.student_hidden, before.student_hidden)
    np.testing.assert_array_equal(after.student_lm_head.matrix, before.student_lm_head.matrix)
    np.testing.assert_array_equal(after.student_hidden[case.mask == 0], 0)
    assert np.all(np.abs(after.student_hidden[case.mask != 0]).max(-1) > 0)


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
    def dense(hidden: jax.Array, head: LMHead) -> jax.Array:
        changed = case.replace(student_hidden=hidden, student_lm_head=head)
        return dense_sums((build(name),), changed)[0]

    value, (hidden, head) = jax.value_and_grad(dense, argnums=(0, 1), allow_int=True)(
        case.student_hidden, case.student_lm_head
    )
    np.testing.assert_allclose(loss(name, case), value, rtol=1e-5)
    ours = gradient(name, case)
    np.testing.assert_allclose(ours.student_hidden, hidden, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.student_lm_head.matrix, head.matrix, rtol=1e-5, atol=1e-5)


@every_objective
def test_no_gradient_reaches_the_teacher(name: str, case: Case) -> None:
    found = gradient(name, case)
    np.testing.assert_array_equal(found.teacher_hidden, 0)
    np.testing.assert_array_equal(found.teacher_lm_head.matrix, 0)


@every_objective
def test_gradients_are_finite_at_logits_a_thousand_times_too_large(name: str, case: Case) -> None:
    huge = case.replace(
        student_hidden=1000 * case.student_hidden, teacher_hidden=1000 * case.teacher_hidden
    )
    assert np.isfinite(loss(name, huge))
    assert np.all(np.isfinite(gradient(name, huge).student_hidden))
    assert np.all(np.isfinite(gradient(name, huge).student_lm_head.matrix))


@every_objective
def test_bfloat16_goes_in_and_float32_comes_out(name: str, case: Case) -> None:
    def cast(leaf: jax.Array) -> jax.Array:
        is_real = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf is not case.mask
        return leaf.astype(jnp.bfloat16) if is_real else leaf

    low = jax.tree.map(cast, case)
    assert loss(name, low).dtype == jnp.float32
    np.testing.assert_allclose(loss(name, low), loss(name, case), rtol=0.02)
    found, expected = gradient(name, low), gradient(name, case)
    for ours, theirs in [
        (found.student_hidden, expected.student_hidden),
        (found.student_lm_head.matrix, expected.student_lm_head.matrix),
    ]:
        assert ours.dtype == jnp.bfloat16
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours.astype(jnp.float32) / scale, theirs / scale, atol=0.03)


@every_objective
def test_jit_changes_nothing(name: str, case: Case) -> None:
    eager = weighted_loss((build(name),), ONE, *case.arguments(), chunk_size=4)[0]
    np.testing.assert_allclose(eager, loss(name, case), rtol=1e-6)


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
    objectives = build(name, temperature=1.0), build(name, temperature=2.0)
    squared = build(name, temperature=2.0, scale_by_temperature_squared=True)
    plain, warm, scaled = dense_sums((*objectives, squared), case)
    np.testing.assert_allclose(warm, dense_sums(objectives, cool)[0], rtol=1e-5)
    np.testing.assert_allclose(scaled, 4 * warm, rtol=1e-6)
    assert warm < plain


@every_objective
def test_it_says_what_it_needs(name: str, case: Case) -> None:
    assert build(name).needs <= {"teacher_logits", "labels", "words", "places", "nearest"}
    if "labels" not in build(name).needs:
        other = case.replace(labels=(case.labels + 1) % 7)
        assert loss(name, other) == loss(name, case)
    if "teacher_logits" not in build(name).needs:
        alone = case.without_teacher()
        assert weighted_loss((build(name),), ONE, *alone, chunk_size=4)[0] == loss(name, case)
