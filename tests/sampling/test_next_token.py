"""Sampling of the next token, compared with a full sort of the vocabulary in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdistill.sampling import Sampling, sample_next_token
from jaxdistill.sampling.next_token import _top_k

NUM_DRAWS = 4096


def reference(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Compute the distribution with a full sort in float64."""
    order = np.lexsort((np.arange(len(logits)), -logits))
    weights = np.exp((logits[order] - logits.max()).astype(np.float64) / sampling.temperature)
    if sampling.top_k:
        weights[sampling.top_k :] = 0
    weights /= weights.sum()
    before = np.cumsum(weights) - weights
    weights[before >= sampling.top_p] = 0
    probs = np.zeros(len(logits))
    probs[order] = weights / weights.sum()
    return probs


def draw(
    logits: np.ndarray, sampling: Sampling, count: int = NUM_DRAWS, seed: int = 0
) -> np.ndarray:
    keys = jax.random.split(jax.random.key(seed), count)
    rows = jnp.broadcast_to(jnp.asarray(logits)[None], (count, len(logits)))
    return np.asarray(jax.jit(sample_next_token, static_argnums=2)(rows, keys, sampling))


# Weights are powers of two: every sum is exact, and no rounding moves a boundary.
TIES = np.log2([1, 4, 2, 4, 1, 2, 2, 16]) * np.log(2)


@pytest.mark.parametrize(
    ("top_k", "top_p"),
    [(0, p) for p in (1.0, 0.999, 24 / 32, 20 / 32, 0.51, 0.5, 1e-6)]
    + [(1, 1.0), (2, 1.0), (5, 1.0), (7, 0.5), (3, 20 / 24), (100, 24 / 32)],
)
def test_the_support_is_exact_with_ties(top_k: int, top_p: float) -> None:
    logits = TIES.astype(np.float32)
    sampling = Sampling(temperature=1.0, top_k=top_k, top_p=top_p)
    expected = np.flatnonzero(reference(logits, sampling))
    assert np.unique(draw(logits, sampling, 1024)).tolist() == expected.tolist()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.7),
        Sampling(temperature=1.0, top_p=0.9),
        Sampling(temperature=1.5, top_p=0.3),
        Sampling(temperature=1.0, top_k=40),
        Sampling(temperature=2.0, top_k=300, top_p=0.8),
    ],
    ids=str,
)
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    logits = np.random.default_rng(1).normal(0, 2, 700).astype(np.float32)
    probs = reference(logits, sampling)
    counts = np.bincount(draw(logits, sampling), minlength=len(logits))
    assert counts[probs == 0].sum() == 0
    # Tokens expected fewer than five times are pooled, as the chi-square test requires.
    common = probs * NUM_DRAWS >= 5
    expected = np.append(probs[common], probs[~common].sum()) * NUM_DRAWS
    observed = np.append(counts[common], counts[~common].sum())
    present = expected > 0
    assert stats.chisquare(observed[present], expected[present]).pvalue > 1e-3


def test_the_nucleus_is_exact_in_a_large_vocabulary() -> None:
    rng = np.random.default_rng(2)
    for seed, scale in enumerate((0.01, 1.0, 4.0)):
        logits = rng.normal(0, scale, 50_257).astype(np.float32)
        sampling = Sampling(temperature=1.0, top_p=0.6)
        tokens = draw(logits, sampling, 64, seed)
        assert (reference(logits, sampling)[tokens] > 0).all()


@pytest.mark.parametrize("top_k", [1, 2, 17, 90, 299])
def test_the_top_k_are_those_of_a_stable_sort(top_k: int) -> None:
    logits = np.random.default_rng(4).integers(0, 12, (50, 300)).astype(np.float32)
    logits[:, ::7] = -np.inf
    values, ids = jax.jit(_top_k, static_argnums=1)(jnp.asarray(logits), top_k)
    for row, row_ids, row_values in zip(logits, ids, values, strict=True):
        order = np.lexsort((np.arange(300), -row))[:top_k]
        np.testing.assert_array_equal(row_ids, order)
        np.testing.assert_array_equal(row_values, row[order])


def test_greedy_takes_the_first_of_equal_logits() -> None:
    logits = jnp.array([[0.0, 3.0, 3.0, -jnp.inf], [5.0, 1.0, 5.0, 5.0]])
    keys = jax.random.split(jax.random.key(0), 2)
    assert sample_next_token(logits, keys, Sampling()).tolist() == [1, 0]
    for top_k in (0, 2):  # division by so low a temperature would leave float32
        sampling = Sampling(temperature=1e-40, top_k=top_k)
        assert sample_next_token(logits, keys, sampling).tolist() == [1, 0]


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (0, 0.9), (3, 0.9)])
def test_tokens_of_logit_minus_infinity_are_never_sampled(top_k: int, top_p: float) -> None:
    logits = np.full(300, -np.inf, np.float32)
    logits[[7, 290]] = 0.0, 1.0
    tokens = draw(logits, Sampling(temperature=1.0, top_k=top_k, top_p=top_p))
    assert set(tokens.tolist()) == {7, 290}


@pytest.mark.parametrize("top_k", [0, 3])
def test_nan_logits_do_not_loop_forever(top_k: int) -> None:
    logits = np.full(300, np.nan, np.float32)
    tokens = draw(logits, Sampling(temperature=1.0, top_k=top_k, top_p=0.9), 2)
    assert ((tokens >= 0) & (tokens < 300)).all()


def test_low_precision_is_computed_in_float32() -> None:
    logits = np.random.default_rng(3).normal(0, 2, 400)
    rounded = np.asarray(jnp.asarray(logits, jnp.bfloat16).astype(jnp.float32))
    sampling = Sampling(temperature=0.8, top_p=0.7)
    token = jax.jit(sample_next_token, static_argnums=2)(
        jnp.asarray(rounded, jnp.bfloat16)[None], jax.random.split(jax.random.key(0), 1), sampling
    )
    assert token[0] == draw(rounded, sampling, 1)[0]
