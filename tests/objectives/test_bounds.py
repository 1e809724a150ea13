"""Objectives over the k largest probabilities, where k may grow until the error is small enough."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_positions import Case, measure_terms, random_case

from jaxdistill.objectives import OBJECTIVES, weighted_loss
from jaxdistill.objectives.loss import CombinedLoss
from jaxdistill.types import Batch

OBJECTIVE_FIELDS = {
    "uld": {"type": "uld"},
    "gold": {"type": "gold"},
    "gold, constant weight": {"type": "gold", "shared": 0.3},
    "hybrid_kl": {"type": "hybrid_kl"},
}
every_objective = pytest.mark.parametrize("name", OBJECTIVE_FIELDS)
MAX_BOUNDS = {1: (0.3, 0.05, 0.0), 2: (0.05,)}
"""Values of `max_bound`, by the number of shards. Several shards choose the same k or all tokens
by a selection instead of a branch, whatever `max_bound` is."""


def build(type: str, **fields):
    return OBJECTIVES[type](**fields)


def objectives_of(shards: int):
    """Return every objective over all tokens, and with a k that grows from 1.

    All of them share one compiled program.
    """
    exact = {(name, None): build(**fields) for name, fields in OBJECTIVE_FIELDS.items()}
    bounded = {
        (name, max_bound): build(**fields, k=1, max_bound=max_bound)
        for name, fields in OBJECTIVE_FIELDS.items()
        for max_bound in MAX_BOUNDS[shards]
    }
    return exact, bounded


def with_one_scored_position(case: Case) -> Case:
    """Only the first position is scored, of a shard that fills a chunk."""
    loss_mask = np.zeros_like(case.loss_mask)
    loss_mask[0, 0] = 1
    return case.replace(loss_mask=loss_mask)


@functools.partial(jax.jit, static_argnums=0)
def term_sums(objectives, case):
    ones = jnp.ones(len(objectives))
    return weighted_loss(objectives, ones, *case.arguments(), chunk_size=4)[1]


@functools.cache
def values_and_bounds(shards: int):
    """Compute values and bounds by name and `max_bound`, each at one scored position of 8 cases."""
    exact, bounded = objectives_of(shards)
    objectives = (*exact.values(), *bounded.values())
    sums = []
    for seed in range(8):
        case = with_one_scored_position(random_case(seed, shards, 4))
        if shards == 1:
            sums.append(measure_terms(objectives, case, np.ones(len(objectives), np.float32))[0][1])
        else:
            sums.append(term_sums(objectives, case))
    columns = np.stack(jax.device_get(sums), axis=1)
    values = dict(zip((*exact, *bounded), columns, strict=False))
    return values, dict(zip(bounded, columns[len(objectives) :], strict=True))


@every_objective
@pytest.mark.parametrize(
    ("shards", "max_bound"), [(n, max_bound) for n in (1, 2) for max_bound in MAX_BOUNDS[n]]
)
def test_the_recorded_bound_is_at_most_max_bound(name, max_bound, shards):
    values, bounds = values_and_bounds(shards)
    value, bound, exact = values[name, max_bound], bounds[name, max_bound], values[name, None]
    assert np.all(bound >= 0)
    assert np.all(bound <= max_bound)
    assert np.all(value - 1e-5 <= exact)
    assert np.all(exact <= value + bound + 1e-5)
    if max_bound == 0:
        np.testing.assert_allclose(value, exact, rtol=1e-5)


@every_objective
def test_a_bound_of_zero_is_exact(name):
    exact, bounded = objectives_of(1)
    keys, objectives = [*exact, *bounded], (*exact.values(), *bounded.values())
    results = []
    for max_bound in (0.0, None):
        coefficients = np.zeros(len(objectives), np.float32)
        coefficients[keys.index((name, max_bound))] = 1
        (value, _), (gradient, _) = measure_terms(objectives, random_case(0, 1, 4), coefficients)
        results.append((value, gradient.student_lm_head.matrix))
    (value, gradient), (exact_value, exact_gradient) = results
    np.testing.assert_allclose(value, exact_value, rtol=1e-5)
    np.testing.assert_allclose(gradient, exact_gradient, rtol=1e-4, atol=1e-5)


def test_masked_positions_do_not_raise_k():
    """Their hidden states are zeros, so all tokens are equally likely: the bound is 2 · 25 / 33."""
    objectives = build("uld", k=8), build("uld", k=8, max_bound=1.4)
    sums = np.asarray(term_sums(objectives, with_one_scored_position(random_case(0, 1, 4))))
    expected, adaptive = sums[[0, 2]], sums[[1, 3]]
    assert 1e-6 < expected[1] < 1.4
    np.testing.assert_allclose(adaptive, expected, rtol=1e-6)


def test_a_single_shard_computes_no_larger_k_than_needed():
    objectives = (build("uld", k=1, max_bound=0.1),)
    single, several = (term_sums.lower(objectives, random_case(0, n, 4)) for n in (1, 2))
    assert " conditional(" in single.compile().as_text()
    # Two branches selected by position, and so no branch for XLA to compile.
    assert "stablehlo.case" in single.as_text()
    assert "stablehlo.case" not in several.as_text()
    assert "stablehlo.if" not in several.as_text()


def test_two_objectives_of_a_type_have_their_own_bounds():
    zeros = np.zeros((1, 4), np.int32)
    batch = Batch(zeros, zeros, np.ones((1, 4), np.float32), zeros, zeros + 1, zeros)
    combined = CombinedLoss((build("uld", k=2), build("uld", k=3)))
    assert set(jax.eval_shape(combined.denominators, batch)) == {
        "uld",
        "uld_bound",
        "uld_2",
        "uld_2_bound",
    }


@pytest.mark.parametrize("name", ["uld", "gold", "hybrid_kl"])
def test_max_bound_needs_a_k_to_begin_with(name):
    with pytest.raises(ValueError, match="`max_bound` raises `k`"):
        build(name, max_bound=0.1)
