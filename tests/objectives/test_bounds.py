"""Objectives over the k largest probabilities, where k may grow until the error is small enough."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_positions import Case, measure, random_case

from jaxdistill.objectives import OBJECTIVES, weighted_loss
from jaxdistill.objectives.loss import CombinedLoss
from jaxdistill.types import Batch

OBJECTIVE_FIELDS = {
    "uld": {"type": "uld"},
    "gold": {"type": "gold"},
    "gold, constant weight": {"type": "gold", "shared": 0.3},
    "hybrid_kl": {"type": "hybrid_kl"},
}
every_objective = pytest.mark.parametrize(
    "fields", OBJECTIVE_FIELDS.values(), ids=list(OBJECTIVE_FIELDS)
)
ONE = jnp.ones(1)


def build(type: str, **fields):
    return OBJECTIVES[type](**fields)


def with_one_scored_position(case: Case) -> Case:
    """Only the first position is scored, of a shard that fills a chunk."""
    return case.replace(loss_mask=jnp.zeros_like(case.loss_mask).at[0, 0].set(1))


@pytest.fixture
def case(key) -> Case:
    return random_case(key, 1, 4)


@every_objective
@pytest.mark.parametrize("max_bound", [0.3, 0.05, 0.0])
@pytest.mark.parametrize("shards", [1, 2])
def test_the_recorded_bound_is_at_most_max_bound(fields, max_bound, shards, key):
    case = with_one_scored_position(random_case(key, shards, 4))
    objective = build(**fields, k=1, max_bound=max_bound)
    (value, bound) = weighted_loss((objective,), ONE, *case.arguments(), chunk_size=4)[1]
    exact = weighted_loss((build(**fields),), ONE, *case.arguments(), chunk_size=4)[0]
    assert 0 <= bound <= max_bound
    assert value - 1e-5 <= exact <= value + bound + 1e-5
    if max_bound == 0:
        np.testing.assert_allclose(value, exact, rtol=1e-5)


@every_objective
def test_a_bound_of_zero_is_exact(fields, case):
    value, gradient = measure((build(**fields, k=1, max_bound=0.0),), case)
    exact, exact_gradient = measure((build(**fields),), case)
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    ours, theirs = gradient.student_lm_head.matrix, exact_gradient.student_lm_head.matrix
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_masked_positions_do_not_raise_k(case):
    """Their hidden states are zeros, so all tokens are equally likely: the bound is 2 · 25 / 33."""
    single = with_one_scored_position(case).arguments()
    fixed, adaptive = build("uld", k=8), build("uld", k=8, max_bound=1.4)
    expected = weighted_loss((fixed,), ONE, *single, chunk_size=4)[1]
    assert 1e-6 < expected[1] < 1.4
    sums = weighted_loss((adaptive,), ONE, *single, chunk_size=4)[1]
    np.testing.assert_allclose(sums, expected, rtol=1e-6)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_single_shard_computes_no_larger_k_than_needed(shards, key):
    objective = build("uld", k=1, max_bound=0.1)

    def loss(case):
        return weighted_loss((objective,), ONE, *case.arguments(), chunk_size=4)[0]

    text = jax.jit(loss).lower(random_case(key, shards, 4)).compile().as_text()
    assert text is not None
    assert (" conditional(" in text) == (shards == 1)


def test_two_objectives_of_a_type_have_their_own_bounds():
    zeros = np.zeros((1, 4), np.int32)
    batch = Batch(zeros, zeros, np.ones((1, 4), np.float32), zeros, zeros + 1, zeros)
    combined = CombinedLoss((build("uld", k=2), build("uld", k=3)))
    assert set(combined.denominators(batch)) == {"uld", "uld_bound", "uld_2", "uld_2_bound"}


@pytest.mark.parametrize("name", ["uld", "gold", "hybrid_kl"])
def test_max_bound_needs_a_k_to_begin_with(name):
    with pytest.raises(ValueError, match="`max_bound` raises `k`"):
        build(name, max_bound=0.1)
