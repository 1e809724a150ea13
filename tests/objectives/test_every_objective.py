"""Laws of every registered objective: a new file is tested because it is registered.

Class attributes of an objective say which laws it has, and no law knows a name. All position
objectives share one compiled program, which the laws call with other inputs of the same shapes; the
weights of the loss, an input too, choose the objective whose gradient is computed.
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
from jaxdistill.objectives.base import objective_names
from jaxdistill.objectives.needs import VOCAB_TABLES
from jaxdistill.taps import TapValues, Widths
from jaxdistill.types import Batch, Embedding, HiddenSignal, LMHead

pytestmark = pytest.mark.smoke

SHAPE = SHARDS, POSITIONS
WIDTHS = [
    Widths(hidden=size, layers=2, query=size, key_value=size) for size in (WIDTH, TEACHER_WIDTH)
]
TOKENS = (7 * np.arange(SHARDS * POSITIONS) % VOCAB_SIZE).reshape(SHAPE)
BFLOAT16_VALUE_ERROR, BFLOAT16_GRADIENT_ERROR = 1e-3, 0.01
"""Relative errors of inputs in bfloat16, the gradient's over the norm of each part. Rounding the
gradient alone is an error of 0.002."""
SEGMENT_IDS = np.broadcast_to(np.where(np.arange(POSITIONS) < 6, 1, 2), SHAPE)


def names_of(base: type[Objective]) -> list[str]:
    return [name for name in OBJECTIVES if issubclass(OBJECTIVES[name], base)]


def every(base: type[Objective]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", names_of(base))


every_objective = every(Objective)
every_position_objective = every(PositionObjective)
every_average_of_examples = pytest.mark.parametrize(
    "name", [name for name in OBJECTIVES if getattr(OBJECTIVES[name](), "averages_examples", False)]
)


def build(name: str, **fields: object) -> Any:
    return OBJECTIVES[name](**fields)


def build_sum(name: str) -> Any:
    """Build a position objective under which all positions weigh equally."""
    return build(name, average="groups") if build(name).averages_examples else build(name)


def build_converged(name: str) -> Any:
    """Build an objective whose iteration, if it has one, is finished."""
    is_iterative = "num_iterations" in OBJECTIVES[name].__dataclass_fields__
    return build(name, num_iterations=300) if is_iterative else build(name)


POSITION_OBJECTIVES = tuple(
    dict.fromkeys(
        builder(name)
        for name in OBJECTIVES
        if issubclass(OBJECTIVES[name], PositionObjective)
        for builder in (build, build_sum)
    )
)


def group_of(objective: Objective) -> tuple[Objective, ...]:
    """Return the objectives that share a compiled program with this one."""
    return POSITION_OBJECTIVES if objective in POSITION_OBJECTIVES else (objective,)


@functools.cache
def modules_of(objectives: tuple[Objective, ...]) -> Any:
    return init_modules([objective.bind(*WIDTHS) for objective in objectives], 0, *WIDTHS)


def make_taps(hidden: jax.Array) -> TapValues:
    """Return inner layers as functions of the hidden state at their position alone.

    Zeros that fill a wider hidden state do not change its attention. A softmax of NaN would have a
    gradient of NaN whatever is done with it, so attention is that of large numbers in their place.
    """
    kernel = np.random.default_rng(0).normal(size=(TEACHER_WIDTH, 2, POSITIONS)).astype("float32")
    kernel = kernel[: hidden.shape[-1]]
    scores = jnp.einsum(
        "btd,dhs->bhts",
        jnp.nan_to_num(hidden.astype(jnp.float32), nan=100.0, posinf=-100.0),
        kernel,
    )
    maps = jax.nn.softmax(scores, axis=-1)
    layers = range(1, 3)
    return TapValues(
        hidden=dict.fromkeys(layers, hidden),
        attention=dict.fromkeys(layers, maps),
        mean_attention=dict.fromkeys(layers, maps.mean(axis=1)),
    )


def losses(
    objectives: tuple[Objective, ...],
    case: Case,
    modules: Any,
    weights: Any,
    *,
    has_teacher: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """Return the loss of a batch of two packed sequences, and the sum of each objective."""
    student, teacher = (
        HiddenSignal(hidden, lm_head, Embedding(lm_head.matrix), make_taps(hidden))
        for hidden, lm_head in [
            (case.student_hidden, case.student_lm_head),
            (case.teacher_hidden, case.teacher_lm_head),
        ]
    )
    zeros = jnp.zeros(SHAPE, jnp.int32)
    batch = Batch(
        jnp.asarray(TOKENS), case.labels, case.loss_mask, zeros, jnp.asarray(SEGMENT_IDS), zeros
    )
    objectives = tuple(objective.bind(*WIDTHS) for objective in objectives)
    combined = CombinedLoss(objectives, num_shards=SHARDS, chunk_size=4)
    denominators = dict.fromkeys(combined.denominators(batch), jnp.float32(1))
    names = objective_names(objectives)
    loss, sums = combined(
        modules,
        student,
        teacher if has_teacher else None,
        batch,
        weights=dict(zip(names, weights, strict=True)),
        denominators=denominators,
    )
    means = combined.means(sums, denominators)
    return loss, jnp.stack([means[name] for name in names])


evaluate = jax.jit(losses, static_argnums=0, static_argnames="has_teacher")


@functools.partial(jax.jit, static_argnums=0)
def measure(objectives: tuple[Objective, ...], case: Case, modules: Any, weights: Any) -> Any:
    """Compute `losses`, and the loss's gradients to both models and the objectives' modules."""
    gradient = jax.value_and_grad(
        functools.partial(losses, objectives), argnums=(0, 1), has_aux=True, allow_int=True
    )
    return gradient(case, modules, weights)


@functools.cache
def losses_and_gradients(objectives: tuple[Objective, ...], variant: str, index: int) -> Any:
    """Measure a variant of the case, with the gradients of the objective of this index."""
    weights = np.eye(len(objectives), dtype=np.float32)[index]
    (_, values), gradients = measure(objectives, VARIANTS[variant], modules_of(objectives), weights)
    return jax.device_get((values, gradients))


def loss_of(objective: Objective, variant: str) -> np.float32:
    group = group_of(objective)
    return losses_and_gradients(group, variant, 0)[0][group.index(objective)]


def gradients_of(objective: Objective, variant: str) -> tuple[Case, Any]:
    """Return the gradients to both models, and to the objective's modules."""
    group = group_of(objective)
    return losses_and_gradients(group, variant, group.index(objective))[1]


def loss(name: str, variant: str) -> np.float32:
    return loss_of(build(name), variant)


def sum_over_positions(name: str, variant: str) -> np.float32:
    return loss_of(build_sum(name), variant)


def gradient(name: str, variant: str) -> Case:
    return gradients_of(build(name), variant)[0]


def with_equal_models(case: Case) -> Case:
    """The teacher predicts what the student does; zeros fill its wider hidden states."""
    padding = [(0, 0), (0, TEACHER_WIDTH - WIDTH)]
    matrix = jnp.asarray(np.pad(case.student_lm_head.matrix, padding))
    return case.replace(
        teacher_hidden=np.pad(case.student_hidden, [(0, 0), *padding]),
        teacher_lm_head=LMHead(
            matrix, vocab_tables=case.teacher_lm_head.vocab_tables, vocab_size=VOCAB_SIZE
        ),
    )


def with_spoilt_masked_positions(case: Case) -> Case:
    is_masked = case.loss_mask == 0
    return case.replace(
        student_hidden=np.where(is_masked[..., None], np.float32(np.nan), case.student_hidden),
        teacher_hidden=np.where(is_masked[..., None], np.float32(np.inf), case.teacher_hidden),
        labels=np.where(is_masked, np.int32(-100), case.labels),
    )


def in_bfloat16(case: Case) -> Case:
    def cast(leaf: Any) -> Any:
        is_real = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf is not case.loss_mask
        return np.asarray(leaf).astype(jnp.bfloat16) if is_real else leaf

    return jax.tree.map(cast, case)


def masked_except(case: Case, positions: Any) -> Case:
    return case.replace(loss_mask=np.float32(case.loss_mask * positions))


CASE = random_case()
LOW = in_bfloat16(CASE)
IS_SEQUENCE = np.eye(SHARDS, dtype=bool)[:, :, None]
SEGMENTS = {
    f"segment {segment} of sequence {sequence}": masked_except(
        CASE, IS_SEQUENCE[sequence] & (segment == SEGMENT_IDS)
    )
    for sequence in range(SHARDS)
    for segment in (1, 2)
}
"""The case once for each segment of each sequence, all others masked."""
VARIANTS = {
    "random": CASE,
    "equal models": with_equal_models(CASE),
    **{f"equal models {seed}": with_equal_models(random_case(seed)) for seed in range(2, 12)},
    "spoilt masked positions": with_spoilt_masked_positions(CASE),
    "weights doubled": CASE.replace(loss_mask=2 * CASE.loss_mask),
    "even positions": masked_except(CASE, np.arange(POSITIONS)[None] % 2 == 0),
    "odd positions": masked_except(CASE, np.arange(POSITIONS)[None] % 2 == 1),
    **SEGMENTS,
    "huge": CASE.replace(
        student_hidden=1000 * CASE.student_hidden, teacher_hidden=1000 * CASE.teacher_hidden
    ),
    "bfloat16": LOW,
    "rounded to bfloat16": jax.tree.map(
        lambda leaf, like: np.asarray(leaf).astype(like.dtype), LOW, CASE
    ),
    "other labels": CASE.replace(labels=(CASE.labels + 1) % 7),
}


@every_objective
def test_class_attributes_tell_which_objectives_vanish_at_equal_models(name):
    objective = build(name)
    assert loss(name, "random") > 0.1
    assert (abs(loss(name, "equal models")) < 1e-5) == objective.zero_at_equality
    if objective.stationary_at_equality:
        scale = np.abs(gradient(name, "random").student_hidden).max()
        assert scale > 1e-3
        for variant in (variant for variant in VARIANTS if variant.startswith("equal models")):
            exact = gradients_of(build_converged(name), variant)[0].student_hidden
            np.testing.assert_allclose(exact, 0, atol=1e-5, err_msg=variant)
            assert np.abs(gradient(name, variant).student_hidden).max() < 0.01 * scale, variant


@every_objective
def test_masked_positions_do_not_count(name):
    is_masked = CASE.loss_mask == 0
    assert loss(name, "spoilt masked positions") == loss(name, "random")
    before, after = gradient(name, "random"), gradient(name, "spoilt masked positions")
    np.testing.assert_array_equal(after.student_hidden, before.student_hidden)
    np.testing.assert_array_equal(after.student_lm_head.matrix, before.student_lm_head.matrix)
    np.testing.assert_array_equal(after.student_hidden[is_masked], 0)
    assert np.all(np.abs(after.student_hidden[~is_masked]).max(-1) > 0)


@every_position_objective
def test_a_position_of_weight_two_counts_twice(name):
    expected = 2 * sum_over_positions(name, "random")
    np.testing.assert_allclose(sum_over_positions(name, "weights doubled"), expected, rtol=1e-6)


@every_position_objective
def test_sums_over_positions_add_up(name):
    halves = sum(sum_over_positions(name, half) for half in ("even positions", "odd positions"))
    np.testing.assert_allclose(halves, sum_over_positions(name, "random"), rtol=1e-5)


@every_objective
def test_sums_over_sequences_and_segments_add_up(name):
    parts = sum(loss(name, part) for part in SEGMENTS)
    np.testing.assert_allclose(parts, loss(name, "random"), rtol=1e-5)


@every_average_of_examples
def test_examples_weigh_equally(name):
    weights = {part: float(case.loss_mask.sum()) for part, case in SEGMENTS.items()}
    assert len(set(weights.values())) > 1
    means = [sum_over_positions(name, part) / weight for part, weight in weights.items()]
    np.testing.assert_allclose(loss(name, "random"), sum(means), rtol=1e-5)


@functools.partial(jax.jit, static_argnums=0)
def dense_losses_and_gradients(objectives: Any, case: Case, weights: Any) -> Any:
    """Compute the weighted sum of `dense_sums`, each sum, and gradients to the student."""

    def dense(hidden: jax.Array, lm_head: LMHead) -> tuple[jax.Array, jax.Array]:
        changed = case.replace(student_hidden=hidden, student_lm_head=lm_head)
        sums = dense_sums(objectives, changed)
        return weights @ sums, sums

    differentiate = jax.value_and_grad(dense, argnums=(0, 1), has_aux=True, allow_int=True)
    return differentiate(case.student_hidden, case.student_lm_head)


@every_position_objective
def test_gradients_are_those_of_the_dense_loss(name):
    objectives = tuple(build_sum(name) for name in names_of(PositionObjective))
    weights = np.float32([name == other for other in names_of(PositionObjective)])
    (value, _), gradients = dense_losses_and_gradients(objectives, CASE, weights)
    hidden, lm_head = jax.device_get(gradients)
    ours = gradients_of(build_sum(name), "random")[0]
    np.testing.assert_allclose(sum_over_positions(name, "random"), value, rtol=1e-5)
    np.testing.assert_allclose(ours.student_hidden, hidden, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.student_lm_head.matrix, lm_head.matrix, rtol=1e-5, atol=1e-5)


@every_objective
def test_no_gradient_reaches_the_teacher(name):
    gradients = gradient(name, "random")
    np.testing.assert_array_equal(gradients.teacher_hidden, 0)
    np.testing.assert_array_equal(gradients.teacher_lm_head.matrix, 0)


@every_objective
def test_gradients_are_finite_at_logits_a_thousand_times_too_large(name):
    assert np.isfinite(loss(name, "huge"))
    for leaf in jax.tree.leaves(gradients_of(build(name), "huge")):
        assert leaf.dtype == jax.dtypes.float0 or np.all(np.isfinite(leaf))


@every_objective
def test_bfloat16_inputs_give_a_float32_loss(name):
    """They are computed as the same numbers in float32, with gradients rounded to bfloat16."""
    low, same = loss(name, "bfloat16"), loss(name, "rounded to bfloat16")
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, same, rtol=BFLOAT16_VALUE_ERROR)
    ours, expected = (
        [part.student_hidden, part.student_lm_head.matrix]
        for part in (gradient(name, "bfloat16"), gradient(name, "rounded to bfloat16"))
    )
    for low_part, part in zip(ours, expected, strict=True):
        assert low_part.dtype == jnp.bfloat16
        error = np.linalg.norm(low_part.astype(np.float32) - part)
        assert error <= BFLOAT16_GRADIENT_ERROR * np.linalg.norm(part)


@every_position_objective
def test_differentiation_does_not_change_the_value(name):
    names = names_of(PositionObjective)
    objectives = tuple(build(name) for name in names)
    values = evaluate(objectives, CASE, {}, np.ones(len(objectives), np.float32))[1]
    np.testing.assert_allclose(values[names.index(name)], loss(name, "random"), rtol=1e-6)


@every_objective
def test_yaml_round_trip(name):
    @configclass
    class Holder:
        objectives: tuple[OBJECTIVES.union, ...]

    read = load(Holder, None, [f"objectives=[{{type: {name}, weight: 0.5}}]"])
    assert read.objectives == (build(name, weight=0.5),)
    assert f"type: {name}" in dump(read)
    assert hash(read.objectives[0]) == hash(build(name, weight=0.5))


@functools.cache
def sums_at_temperatures() -> tuple[np.ndarray, np.ndarray]:
    """Compute the sum of each divergence at three temperatures, also of halved logits."""
    objectives = tuple(
        build(name, **fields)
        for name in names_of(Divergence)
        for fields in (
            {"temperature": 1.0},
            {"temperature": 2.0},
            {"temperature": 2.0, "scale_by_temperature_squared": True},
        )
    )
    cool = CASE.replace(
        student_hidden=CASE.student_hidden / 2, teacher_hidden=CASE.teacher_hidden / 2
    )
    plain, halved = (np.asarray(dense_sums(objectives, case)) for case in (CASE, cool))
    return plain.reshape(-1, 3), halved.reshape(-1, 3)


@every(Divergence)
def test_temperature_flattens_and_its_square_restores(name):
    sums, sums_of_halved_logits = (
        one[names_of(Divergence).index(name)] for one in sums_at_temperatures()
    )
    plain, warm, scaled = sums
    np.testing.assert_allclose(warm, sums_of_halved_logits[0], rtol=1e-5)
    np.testing.assert_allclose(scaled, 4 * warm, rtol=1e-6)
    assert warm < plain


@every_objective
def test_needs_name_all_inputs(name):
    objective = build(name)
    assert objective.needs.vocab_tables <= VOCAB_TABLES
    if not objective.needs.labels:
        assert loss(name, "other labels") == loss(name, "random")
    if not objective.needs_teacher:
        arguments = (objective,), CASE, {}, np.ones(1, np.float32)
        assert evaluate(*arguments, has_teacher=False)[0] == evaluate(*arguments)[0]
