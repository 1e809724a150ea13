"""Divergences: values and gradients, compared with their definition in NumPy and in torch."""

import functools

import jax
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import log_softmax, softmax

from jaxdistill import losses

INFINITE = -np.inf
ALPHA, BETA = 0.1, 0.3
DIVERGENCES = {
    "forward_kl": losses.forward_kl,
    "reverse_kl": losses.reverse_kl,
    "jensen_shannon": functools.partial(losses.jensen_shannon, beta=BETA),
    "skew_kl": functools.partial(losses.skew_kl, alpha=ALPHA),
    "skew_reverse_kl": functools.partial(losses.skew_reverse_kl, alpha=ALPHA),
    "total_variation": losses.total_variation,
}
every_divergence = pytest.mark.parametrize("name", DIVERGENCES)


def _kl(log, where, a, b):
    """Σ a log(a / b) over a > 0, with `log` and `where` of NumPy or torch."""
    possible = a > 0
    ratio = where(possible, a, 1) / where(possible, b, 1)
    return (a * log(ratio)).sum(-1)


def definition(name: str, log, where, p, q):
    kl = functools.partial(_kl, log, where)
    return {
        "forward_kl": lambda: kl(p, q),
        "reverse_kl": lambda: kl(q, p),
        "jensen_shannon": lambda: (
            BETA * kl(p, BETA * p + (1 - BETA) * q) + (1 - BETA) * kl(q, BETA * p + (1 - BETA) * q)
        ),
        "skew_kl": lambda: kl(p, ALPHA * p + (1 - ALPHA) * q),
        "skew_reverse_kl": lambda: kl(q, ALPHA * q + (1 - ALPHA) * p),
        "total_variation": lambda: abs(p - q).sum(-1) / 2,
    }[name]()


def in_numpy(name: str, teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    def softmax(z):
        weights = np.exp(z.astype(np.float64) - z.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)

    with np.errstate(divide="ignore"):
        return definition(name, np.log, np.where, softmax(teacher), softmax(student))


def in_torch(name: str, teacher: np.ndarray, student: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits = torch.tensor(student, dtype=torch.float64, requires_grad=True)
    p = torch.softmax(torch.tensor(teacher, dtype=torch.float64), -1)
    values = definition(name, torch.log, torch.where, p, torch.softmax(logits, -1))
    values.sum().backward()
    assert logits.grad is not None
    return values.detach().numpy(), logits.grad.numpy()


@jax.jit
def all_values_and_gradients(
    teacher: jax.Array, student: jax.Array
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Compute every divergence and its gradient, in one program for each shape."""

    def total(logits: jax.Array, name: str) -> tuple[jax.Array, jax.Array]:
        log_p, log_q = jax.nn.log_softmax(teacher), jax.nn.log_softmax(logits)
        values = DIVERGENCES[name](log_p, log_q)
        return values.sum(), values

    results = {name: jax.grad(total, has_aux=True)(student, name) for name in DIVERGENCES}
    return {name: (values, gradient) for name, (gradient, values) in results.items()}


def values_and_gradient(
    name: str, teacher: np.ndarray, student: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return jax.device_get(all_values_and_gradients(teacher, student)[name])


def random_logits(seed: int) -> tuple[np.ndarray, np.ndarray]:
    teacher, student = 3 * np.random.default_rng(seed).standard_normal((2, 64, 33), np.float32)
    return teacher, student


def with_impossible_tokens(which: str) -> tuple[np.ndarray, np.ndarray]:
    teacher, student = random_logits(1)
    if which in ("teacher", "both"):
        teacher[:, ::3] = INFINITE
    if which in ("student", "both"):
        student[:, ::3] = INFINITE
    return teacher, student


def with_ties() -> tuple[np.ndarray, np.ndarray]:
    teacher, student = random_logits(2)
    return np.round(teacher), np.round(student)


def with_half_equal() -> tuple[np.ndarray, np.ndarray]:
    teacher, student = random_logits(2)
    student[:, ::2] = teacher[:, ::2]
    return teacher, student


CASES = {
    "random": random_logits(0),
    "tokens of equal logits": with_ties(),
    "equal logits on half the tokens": with_half_equal(),
    "impossible for both": with_impossible_tokens("both"),
    "impossible for the teacher": with_impossible_tokens("teacher"),
    "impossible for the student": with_impossible_tokens("student"),
}
UNBOUNDED = {
    ("forward_kl", "impossible for the student"),
    ("reverse_kl", "impossible for the teacher"),
}


@pytest.mark.parametrize("case", CASES)
@every_divergence
def test_values_and_gradients_follow_the_definition(name: str, case: str) -> None:
    teacher, student = CASES[case]
    values, gradient = values_and_gradient(name, teacher, student)
    if (name, case) in UNBOUNDED:
        assert np.all(values == np.inf)
        assert np.all(np.isfinite(gradient))
        return
    torch_values, torch_gradient = in_torch(name, teacher, student)
    # Rounding of a float32 sum that cancels: 1e-7 of its terms, which are of size 1 in a value, and
    # up to 10 (a log-ratio less its mean) in a gradient.
    np.testing.assert_allclose(values, in_numpy(name, teacher, student), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(values, torch_values, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(gradient, torch_gradient, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_an_infinite_forward_kl_points_to_the_teacher() -> None:
    teacher, student = CASES["impossible for the student"]
    _, gradient = values_and_gradient("forward_kl", teacher, student)
    expected = softmax(student, axis=-1) - softmax(teacher, axis=-1)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


@every_divergence
def test_one_hot_distributions_give_no_nan(name: str) -> None:
    one_hot = np.full((4, 6), INFINITE, np.float32)
    one_hot[[0, 1, 2, 3], [1, 2, 4, 0]] = 0
    uniform = np.zeros((4, 6), np.float32)
    for teacher, student in [(one_hot, uniform), (uniform, one_hot), (one_hot, one_hot[::-1])]:
        values, gradient = values_and_gradient(name, teacher, student)
        np.testing.assert_allclose(values, in_numpy(name, teacher, student), rtol=1e-5)
        assert np.all(np.isfinite(gradient))


@every_divergence
def test_gradients_are_finite_at_logits_a_thousand_times_too_large(name: str) -> None:
    teacher, student = random_logits(3)
    values, gradient = values_and_gradient(name, 1000 * teacher, 1000 * student)
    assert np.all(np.isfinite(values))
    assert np.all(np.isfinite(gradient))


@settings(max_examples=30, deadline=None)
@given(
    logits=arrays.arrays(
        np.float32,
        (2, 4, 6),
        elements=st.one_of(st.just(INFINITE), st.floats(-(2.0**14), 2.0**14, width=32)),
    )
)
def test_no_logits_give_nan_or_a_negative_divergence(logits: np.ndarray) -> None:
    logits[..., 0] = np.where(np.isinf(logits[..., 0]), 0, logits[..., 0])  # one token is possible
    for name, (values, gradient) in jax.device_get(all_values_and_gradients(*logits)).items():
        assert np.all(values >= -1e-6), name
        assert np.all(np.isfinite(gradient)), name


def log_probs(seed: int, temperature: float = 1.0) -> list[np.ndarray]:
    return [log_softmax(logits / temperature, axis=-1) for logits in random_logits(seed)]


def test_jensen_shannon_is_a_kl_at_beta_0_and_1() -> None:
    @jax.jit
    def evaluate(log_p: jax.Array, log_q: jax.Array) -> list[jax.Array]:
        by_beta = [losses.jensen_shannon(log_p, log_q, beta=beta) for beta in (0.0, 1.0, 0.5)]
        swapped = losses.jensen_shannon(log_q, log_p, beta=0.5)
        return [*by_beta, losses.forward_kl(log_p, log_q), losses.reverse_kl(log_p, log_q), swapped]

    at_0, at_1, at_half, forward_kl, reverse_kl, swapped = evaluate(*log_probs(4))
    np.testing.assert_array_equal(at_0, forward_kl)
    np.testing.assert_array_equal(at_1, reverse_kl)
    np.testing.assert_allclose(at_half, swapped, 1e-5)


@pytest.mark.parametrize(
    ("skewed", "plain"),
    [(losses.skew_kl, losses.forward_kl), (losses.skew_reverse_kl, losses.reverse_kl)],
)
def test_skewed_divergences_are_bounded_and_tend_to_the_plain_ones(skewed, plain) -> None:
    @jax.jit
    def evaluate(log_p: jax.Array, log_q: jax.Array) -> list[jax.Array]:
        by_alpha = [skewed(log_p, log_q, alpha=alpha) for alpha in (1e-6, ALPHA)]
        return [*by_alpha, plain(log_p, log_q)]

    nearly_plain, by_alpha, limit = evaluate(*log_probs(5, temperature=3.0))
    np.testing.assert_allclose(nearly_plain, limit, rtol=1e-2)
    assert np.all(np.asarray(by_alpha) <= -np.log(ALPHA))


def test_the_total_variation_of_disjoint_distributions_is_1() -> None:
    log_p, log_q = np.float32([[0, INFINITE]]), np.float32([[INFINITE, 0]])
    np.testing.assert_array_equal(jax.jit(losses.total_variation)(log_p, log_q), [1.0])


def test_leading_axes_are_arbitrary() -> None:
    @jax.jit
    def evaluate(log_p: jax.Array, log_q: jax.Array) -> dict[str, jax.Array]:
        return {name: divergence(log_p, log_q) for name, divergence in DIVERGENCES.items()}

    flat = log_probs(6)
    folded = evaluate(*(array.reshape(4, 16, -1) for array in flat))
    for name, values in evaluate(*flat).items():
        np.testing.assert_allclose(folded[name].reshape(-1), values, rtol=1e-6, err_msg=name)
