"""What looks at the likeliest words alone, and at as many as a bound of its error asks for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_rows import Case, measure, random_case

from jaxdistill.objectives import OBJECTIVES, weighted_loss
from jaxdistill.objectives.loss import CombinedLoss
from jaxdistill.types import Batch

METHODS = {
    "uld": {"type": "uld"},
    "gold": {"type": "gold"},
    "gold, by a number": {"type": "gold", "shared": 0.3},
    "hybrid_kl": {"type": "hybrid_kl"},
}
every_method = pytest.mark.parametrize("fields", METHODS.values(), ids=list(METHODS))
ONE = jnp.ones(1)


def build(type: str, **fields):
    return OBJECTIVES[type](**fields)


def single(case: Case) -> Case:
    """The first row alone counts, of one group that fills a chunk."""
    return case.replace(mask=jnp.zeros_like(case.mask).at[0, 0].set(1))


@pytest.fixture
def case(key) -> Case:
    return random_case(key, 1, 4)


@every_method
@pytest.mark.parametrize("max_bound", [0.3, 0.05, 0.0])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_bound_is_what_was_asked_for(fields, max_bound, groups, key):
    case = single(random_case(key, groups, 4))
    objective = build(**fields, k=1, max_bound=max_bound)
    (value, bound) = weighted_loss((objective,), ONE, *case.arguments(), chunk_size=4)[1]
    exact = weighted_loss((build(**fields),), ONE, *case.arguments(), chunk_size=4)[0]
    assert 0 <= bound <= max_bound
    assert value - 1e-5 <= exact <= value + bound + 1e-5
    if max_bound == 0:
        np.testing.assert_allclose(value, exact, rtol=1e-5)


@every_method
def test_at_no_bound_at_all_everything_is_exact(fields, case):
    found, slopes = measure((build(**fields, k=1, max_bound=0.0),), case)
    expected, of_all = measure((build(**fields),), case)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    ours, theirs = slopes.student_lm_head.matrix, of_all.student_lm_head.matrix
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_rows_that_do_not_count_ask_for_no_more_words(case):
    """They are of zeros, so all words are equally likely there: the bound is 2 · 25 / 33."""
    few, bounded = build("uld", k=8), build("uld", k=8, max_bound=1.4)
    of_few = weighted_loss((few,), ONE, *single(case).arguments(), chunk_size=4)[1]
    assert 1e-6 < of_few[1] < 1.4
    found = weighted_loss((bounded,), ONE, *single(case).arguments(), chunk_size=4)[1]
    np.testing.assert_allclose(found, of_few, rtol=1e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_of_one_group_no_more_is_computed_than_it_takes(groups, key):
    objective = build("uld", k=1, max_bound=0.1)

    def loss(case):
        return weighted_loss((objective,), ONE, *case.arguments(), chunk_size=4)[0]

    text = jax.jit(loss).lower(random_case(key, groups, 4)).compile().as_text()
    assert text is not None
    assert (" conditional(" in text) == (groups == 1)


def test_two_of_a_kind_have_bounds_of_their_own():
    zeros = np.zeros((1, 4), np.int32)
    batch = Batch(zeros, zeros, np.ones((1, 4), np.float32), zeros, zeros + 1, zeros)
    combined = CombinedLoss((build("uld", k=2), build("uld", k=3)))
    assert set(combined.denominators(batch)) == {"uld", "uld_bound", "uld_2", "uld_2_bound"}


@pytest.mark.parametrize("name", ["uld", "gold", "hybrid_kl"])
def test_a_bound_needs_words_to_begin_with(name):
    with pytest.raises(ValueError, match="`max_bound` raises `k`"):
        build(name, max_bound=0.1)
