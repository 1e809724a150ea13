"""Laws of every registered objective: a new file is tested because it is registered.

Class attributes of an objective say which laws it has, and no law knows a name. All laws of an
objective share one compiled program, which they call with other inputs of the same shapes.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_positions import (
    POSITIONS,
    SHARDS,
    TEACHER_WIDTH,
    VOCAB_SIZE,
    WIDTH,
    Case,
    dense_sums,
    random_case,
)

from jaxdistill.config import configclass, dump, load
from jaxdistill.objectives import (
    OBJECTIVES,
    CombinedLoss,
    Divergence,
    Objective,
    PositionObjective,
    init_modules,
)
from jaxdistill.objectives.base import VOCAB_NEEDS
from jaxdistill.types import Batch, Embedding, HiddenSignal, LMHead

pytestmark = pytest.mark.smoke

SHAPE = SHARDS, POSITIONS
TOKENS = (7 * np.arange(SHARDS * POSITIONS) % VOCAB_SIZE).reshape(SHAPE)
BFLOAT16_VALUE_ERROR, BFLOAT16_GRADIENT_ERROR = 1e-3, 0.01
"""Relative errors of inputs in bfloat16, the gradient's over the norm of each part. Rounding the
gradient alone is an error of 0.002."""
SEGMENT_IDS = np.broadcast_to(np.where(np.arange(POSITIONS) < 6, 1, 2), SHAPE)


def every(base: type[Objective]) -> pytest.MarkDecorator:
    names = [name for name in OBJECTIVES if issubclass(OBJECTIVES[name], base)]
    return pytest.mark.parametrize("name", names)


every_objective = every(Objective)
every_position_objective = every(PositionObjective)
every_average_of_examples = pytest.mark.parametrize(
    "name", [name for name in OBJECTIVES if getattr(OBJECTIVES[name](), "averages_examples", False)]
)


@pytest.fixture(scope="module")
def case() -> Case:
    return random_case(jax.random.key(0))


def build(name: str, **fields: object) -> Any:
    return OBJECTIVES[name](**fields)


def build_sum(name: str) -> Any:
    """Build a position objective under which all positions weigh equally."""
    return build(name, average="groups") if build(name).averages_examples else build(name)


def total(objective: Objective, case: Case, modules: Any, *, has_teacher: bool = True) -> jax.Array:
    """Compute the sum of the objective's terms over a batch of two packed sequences."""
    student, teacher = (
        HiddenSignal(hidden, lm_head, Embedding(lm_head.matrix))
        for hidden, lm_head in [
            (case.student_hidden, case.student_lm_head),
            (case.teacher_hidden, case.teacher_lm_head),
        ]
    )
    zeros = jnp.zeros(SHAPE, jnp.int32)
    batch = Batch(
        jnp.asarray(TOKENS), case.labels, case.loss_mask, zeros, jnp.asarray(SEGMENT_IDS), zeros
    )
    combined = CombinedLoss([objective], num_shards=SHARDS, chunk_size=4)
    loss, _ = combined(
        modules,
        student,
        teacher if has_teacher else None,
        batch,
        weights={objective.type: jnp.float32(1)},
        denominators=dict.fromkeys(combined.denominators(batch), jnp.float32(1)),
    )
    return loss


@functools.partial(jax.jit, static_argnums=0)
def measure(objective: Objective, case: Case, modules: Any) -> tuple[jax.Array, tuple[Case, Any]]:
    """Compute `total` and its gradients to both models and the objective's modules."""
    gradient = jax.value_and_grad(
        functools.partial(total, objective), argnums=(0, 1), allow_int=True
    )
    return gradient(case, modules)


@functools.cache
def modules_of(objective: Objective) -> Any:
    return init_modules([objective], 0, WIDTH, TEACHER_WIDTH)


def loss(name: str, case: Case) -> jax.Array:
    return measure(build(name), case, modules_of(build(name)))[0]


def sum_over_positions(name: str, case: Case) -> jax.Array:
    return measure(build_sum(name), case, {})[0]


def sequence_segments(case: Case) -> list[Case]:
    """Return the case once for each segment of each sequence, all others masked."""
    is_sequence = np.eye(SHARDS, dtype=bool)[:, :, None]
    masks = [case.loss_mask * (row & (n == SEGMENT_IDS)) for row in is_sequence for n in (1, 2)]
    return [case.replace(loss_mask=mask) for mask in masks]


def gradient(name: str, case: Case) -> Case:
    return measure(build(name), case, modules_of(build(name)))[1][0]


def with_equal_models(case: Case) -> Case:
    """The teacher predicts what the student does; zeros fill its wider hidden states."""
    padding = [(0, 0), (0, TEACHER_WIDTH - WIDTH)]
    matrix = jnp.pad(case.student_lm_head.matrix, padding)
    return case.replace(
        teacher_hidden=jnp.pad(case.student_hidden, [(0, 0), *padding]),
        teacher_lm_head=LMHead(
            matrix, vocab_tables=case.teacher_lm_head.vocab_tables, vocab_size=VOCAB_SIZE
        ),
    )


@every_objective
def test_class_attributes_tell_which_objectives_vanish_at_equal_models(name, case):
    objective, equal = build(name), with_equal_models(case)
    assert loss(name, case) > 0.1
    assert (abs(loss(name, equal)) < 1e-5) == objective.zero_at_equality
    if objective.stationary_at_equality:
        tolerance = objective.equality_tolerance
        np.testing.assert_allclose(gradient(name, equal).student_hidden, 0, atol=tolerance)
        assert np.abs(gradient(name, case).student_hidden).max() > 100 * tolerance


@every_objective
def test_masked_positions_do_not_count(name, case):
    is_masked = case.loss_mask == 0
    spoilt = case.replace(
        student_hidden=jnp.where(is_masked[..., None], jnp.nan, case.student_hidden),
        teacher_hidden=jnp.where(is_masked[..., None], jnp.inf, case.teacher_hidden),
        labels=jnp.where(is_masked, -100, case.labels),
    )
    assert loss(name, spoilt) == loss(name, case)
    before, after = gradient(name, case), gradient(name, spoilt)
    np.testing.assert_array_equal(after.student_hidden, before.student_hidden)
    np.testing.assert_array_equal(after.student_lm_head.matrix, before.student_lm_head.matrix)
    np.testing.assert_array_equal(after.student_hidden[is_masked], 0)
    assert np.all(np.abs(after.student_hidden[~is_masked]).max(-1) > 0)


@every_position_objective
def test_a_position_of_weight_two_counts_twice(name, case):
    doubled = case.replace(loss_mask=2 * case.loss_mask)
    expected = 2 * sum_over_positions(name, case)
    np.testing.assert_allclose(sum_over_positions(name, doubled), expected, rtol=1e-6)


@every_position_objective
def test_sums_over_positions_add_up(name, case):
    first = case.replace(loss_mask=case.loss_mask.at[:, ::2].set(0))
    second = case.replace(loss_mask=case.loss_mask.at[:, 1::2].set(0))
    halves = sum_over_positions(name, first) + sum_over_positions(name, second)
    np.testing.assert_allclose(halves, sum_over_positions(name, case), rtol=1e-5)


@every_objective
def test_sums_over_sequences_and_segments_add_up(name, case):
    parts = sum(loss(name, part) for part in sequence_segments(case))
    np.testing.assert_allclose(parts, loss(name, case), rtol=1e-5)


@every_average_of_examples
def test_examples_weigh_equally(name, case):
    parts = sequence_segments(case)
    assert len({float(part.loss_mask.sum()) for part in parts}) > 1
    means = [sum_over_positions(name, part) / part.loss_mask.sum() for part in parts]
    np.testing.assert_allclose(loss(name, case), sum(means), rtol=1e-5)


@every_position_objective
def test_gradients_are_those_of_the_dense_loss(name, case):
    def dense(hidden: jax.Array, lm_head: LMHead) -> jax.Array:
        changed = case.replace(student_hidden=hidden, student_lm_head=lm_head)
        return dense_sums((build_sum(name),), changed)[0]

    differentiate = jax.jit(jax.value_and_grad(dense, argnums=(0, 1), allow_int=True))
    value, (hidden, lm_head) = differentiate(case.student_hidden, case.student_lm_head)
    our_value, (ours, _) = measure(build_sum(name), case, {})
    np.testing.assert_allclose(our_value, value, rtol=1e-5)
    np.testing.assert_allclose(ours.student_hidden, hidden, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.student_lm_head.matrix, lm_head.matrix, rtol=1e-5, atol=1e-5)


@every_objective
def test_no_gradient_reaches_the_teacher(name, case):
    gradients = gradient(name, case)
    np.testing.assert_array_equal(gradients.teacher_hidden, 0)
    np.testing.assert_array_equal(gradients.teacher_lm_head.matrix, 0)


@every_objective
def test_gradients_are_finite_at_logits_a_thousand_times_too_large(name, case):
    huge = case.replace(
        student_hidden=1000 * case.student_hidden, teacher_hidden=1000 * case.teacher_hidden
    )
    value, gradients = measure(build(name), huge, modules_of(build(name)))
    assert np.isfinite(value)
    for leaf in jax.tree.leaves(gradients):
        assert leaf.dtype == jax.dtypes.float0 or np.all(np.isfinite(leaf))


@every_objective
def test_bfloat16_inputs_give_a_float32_loss(name, case):
    """They are computed as the same numbers in float32, with gradients rounded to bfloat16."""

    def cast(leaf: jax.Array) -> jax.Array:
        is_real = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf is not case.loss_mask
        return leaf.astype(jnp.bfloat16) if is_real else leaf

    low = jax.tree.map(cast, case)
    same = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), low, case)
    assert loss(name, low).dtype == jnp.float32
    np.testing.assert_allclose(loss(name, low), loss(name, same), rtol=BFLOAT16_VALUE_ERROR)
    ours, expected = (
        [part.student_hidden, part.student_lm_head.matrix]
        for part in (gradient(name, low), gradient(name, same))
    )
    for low_part, part in zip(ours, expected, strict=True):
        assert low_part.dtype == jnp.bfloat16
        error = jnp.linalg.norm(low_part.astype(jnp.float32) - part)
        assert error <= BFLOAT16_GRADIENT_ERROR * jnp.linalg.norm(part)


@every_position_objective
def test_jit_and_differentiation_do_not_change_the_value(name, case):
    eager = total(build(name), case, modules_of(build(name)))
    np.testing.assert_allclose(eager, loss(name, case), rtol=1e-6)


@every_objective
def test_yaml_round_trip(name):
    @configclass
    class Holder:
        objectives: tuple[OBJECTIVES.union, ...]

    read = load(Holder, None, [f"objectives=[{{type: {name}, weight: 0.5}}]"])
    assert read.objectives == (build(name, weight=0.5),)
    assert f"type: {name}" in dump(read)
    assert hash(read.objectives[0]) == hash(build(name, weight=0.5))


@every(Divergence)
def test_temperature_flattens_and_its_square_restores(name, case):
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
def test_needs_name_all_inputs(name, case):
    objective = build(name)
    assert objective.needs <= {"labels", "teacher_logits", "teacher_hidden"} | VOCAB_NEEDS
    if "labels" not in objective.needs:
        other = case.replace(labels=(case.labels + 1) % 7)
        assert loss(name, other) == loss(name, case)
    if "teacher_logits" not in objective.needs:
        assert total(objective, case, {}, has_teacher=False) == loss(name, case)
