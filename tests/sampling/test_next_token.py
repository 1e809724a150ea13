"""Sampling of the next token, compared with a full sort of the vocabulary in NumPy.

All tests but two draw 4,096 times from 700 tokens: settings of equal value share one program.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
import pytest
from scipy import stats

from jaxdistill.cli import main
from jaxdistill.data import TeacherRollout
from jaxdistill.sampling import Sampling, sample_next_token
from jaxdistill.sampling.next_token import _sample_top_p, _top_k

NUM_DRAWS, VOCAB_SIZE = 4096, 700

_sample = jax.jit(sample_next_token, static_argnums=2)


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


@functools.cache
def keys(count: int) -> jax.Array:
    return jax.random.split(jax.random.key(0), count)


def draw(logits: np.ndarray, sampling: Sampling, count: int = NUM_DRAWS) -> np.ndarray:
    rows = np.broadcast_to(logits, (count, len(logits)))
    return np.asarray(_sample(jnp.asarray(rows), keys(count), sampling))


# Halves and quarters, and temperatures that are powers of two: of weights that are powers of two
# every sum is exact, and no rounding moves a boundary.
SETTINGS = [
    Sampling(temperature=0.5),
    Sampling(temperature=2.0, top_p=0.5),
    Sampling(temperature=1.0, top_p=0.75),
    Sampling(temperature=2.0, top_k=300, top_p=0.75),
    Sampling(temperature=1.0, top_k=5),
]
WEIGHTS = {
    "ties": [1, 4, 2, 4, 1, 2, 2, 16],
    "half is reached by ties": [1, 8, 2, 8, 1, 2, 8, 2],
    "less than half in the largest": [1, 1, 2, 4, 8, 8, 4, 4],
    "all equal": [4] * 8,
    "one token": [32],
    "just below three quarters": [1, 4, 2, 4, 1, 2, 1, 16, 1],
    "just above three quarters": [16, 8, 1, 1, 1, 1, 1, 1, 1, 1],
}


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_the_support_is_exact_with_ties(sampling: Sampling) -> None:
    """Tokens of logit -inf around these weights are never drawn, either."""
    for name, weights in WEIGHTS.items():
        logits = np.full(VOCAB_SIZE, -np.inf, np.float32)
        # Over the three blocks of the vocabulary that are summed first.
        ids = np.linspace(5, VOCAB_SIZE - 3, len(weights)).astype(int)
        logits[ids] = sampling.temperature * np.log2(weights) * np.log(2)
        expected = np.flatnonzero(reference(logits, sampling))
        assert np.unique(draw(logits, sampling)).tolist() == expected.tolist(), name


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1e-6), (1, 1.0), (100, 0.999)])
def test_the_support_is_exact_at_extreme_settings(top_k: int, top_p: float) -> None:
    logits = (np.log2(WEIGHTS["ties"]) * np.log(2)).astype(np.float32)
    sampling = Sampling(temperature=1.0, top_k=top_k, top_p=top_p)
    expected = np.flatnonzero(reference(logits, sampling))
    assert np.unique(draw(logits, sampling, 1024)).tolist() == expected.tolist()


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    logits = np.random.default_rng(1).normal(0, 2, VOCAB_SIZE).astype(np.float32)
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
    for scale in (0.01, 1.0, 4.0):
        logits = rng.normal(0, scale, 50_257).astype(np.float32)
        sampling = Sampling(temperature=1.0, top_p=0.6)
        tokens = draw(logits, sampling, 64)
        assert (reference(logits, sampling)[tokens] > 0).all()


@pytest.mark.parametrize("top_k", [1, 17, 299])  # blocks of 17, 4 and 1 tokens
def test_the_top_k_are_those_of_a_stable_sort(top_k: int) -> None:
    logits = np.random.default_rng(4).integers(0, 12, (50, 300)).astype(np.float32)
    logits[:, ::7] = -np.inf
    values, ids = map(np.asarray, jax.jit(_top_k, static_argnums=1)(jnp.asarray(logits), top_k))
    for row, row_ids, row_values in zip(logits, ids, values, strict=True):
        order = np.lexsort((np.arange(300), -row))[:top_k]
        np.testing.assert_array_equal(row_ids, order)
        np.testing.assert_array_equal(row_values, row[order])


def test_greedy_takes_the_first_of_equal_logits() -> None:
    logits = jnp.array([[0.0, 3.0, 3.0, -jnp.inf], [5.0, 1.0, 5.0, 5.0]])
    assert _sample(logits, keys(2), Sampling()).tolist() == [1, 0]
    for top_k in (0, 2):  # division by so low a temperature would leave float32
        sampling = Sampling(temperature=1e-40, top_k=top_k)
        assert _sample(logits, keys(2), sampling).tolist() == [1, 0]


@pytest.mark.parametrize("sampling", SETTINGS[1:4], ids=str)
def test_nan_logits_do_not_loop_forever(sampling: Sampling) -> None:
    tokens = draw(np.full(VOCAB_SIZE, np.nan, np.float32), sampling)
    assert ((tokens >= 0) & (tokens < VOCAB_SIZE)).all()


def test_low_precision_is_computed_in_float32() -> None:
    logits = np.random.default_rng(3).normal(0, 2, VOCAB_SIZE).astype(jnp.bfloat16)
    rounded = logits.astype(np.float32)
    np.testing.assert_array_equal(draw(logits, SETTINGS[2]), draw(rounded, SETTINGS[2]))


@pytest.mark.parametrize("top_p", [1e-6, 1e-40])
def test_smallest_nucleus_is_the_first_of_the_most_probable_tokens(top_p):
    """In float32 1e-40 is 0, of which no weight is less: the loop once did not end."""
    logits = jnp.zeros((8, 700)).at[:, 300:302].set(1.0)
    tokens = jax.jit(_sample_top_p, static_argnums=2)(logits, keys(8), top_p)
    np.testing.assert_array_equal(tokens, 300)


def test_smallest_top_p_is_stated_and_lower_values_are_refused(capfd):
    assert Sampling(top_p=1e-6).top_p == TeacherRollout(top_p=1e-6).top_p == 1e-6
    for config in (Sampling, TeacherRollout):
        with pytest.raises(pydantic.ValidationError, match=r"equal to 0\.000001"):
            config(top_p=1e-7)
    with pytest.raises(SystemExit):
        main(["generate", "--model", "x", "--temperature", "1", "--top-p", "1e-40"])
    assert "'1e-40' is not a number from 1e-6 to 1" in capfd.readouterr().err
