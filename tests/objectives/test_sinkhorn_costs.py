"""Sinkhorn divergence by the teacher's embeddings, beside exact transport and a dense version."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from random_positions import VOCAB_SIZE, measure, random_case
from scipy.optimize import linprog

from jaxdistill import losses
from jaxdistill.objectives import OBJECTIVES

OPTIONS = {"cost": "embeddings", "k": VOCAB_SIZE, "num_iterations": 4000}


@pytest.fixture
def case():
    """Two positions of two models that are nearly sure."""
    case = random_case(0, 1, 2)
    return case.replace(loss_mask=np.ones((1, 2), np.float32))


def distributions(case):
    """Return the distributions of the teacher and of the student at each position."""
    models = (
        (case.teacher_hidden, case.teacher_lm_head),
        (
            case.student_hidden,
            case.student_lm_head,
        ),
    )
    return [jax.nn.softmax(hidden[0] @ lm_head.matrix.T) for hidden, lm_head in models]


def distances(case):
    """Return the distances of teacher tokens to student tokens, and those within each side."""
    embeddings, tables = np.float64(case.teacher_lm_head.matrix), case.student_lm_head.vocab_tables
    summed = np.array([sum(embeddings[i] for i in ids if i >= 0) for ids in tables.subtokens])
    between = cosine_distance(embeddings, summed)
    has_match = tables.exact_match >= 0
    between[tables.exact_match[has_match], np.flatnonzero(has_match)] = 0
    within = [
        cosine_distance(side, side) * (1 - np.eye(len(side))) for side in (embeddings, summed)
    ]
    return between, *within


def cosine_distance(left, right):
    """1 - cos of the angle between vectors, at most 1."""
    lengths = np.linalg.norm(left, axis=1)[:, None] * np.linalg.norm(right, axis=1)
    return 1 - np.clip(left @ right.T / lengths, 0, 1)


def exact_cost(p, q, cost):
    """Return the cost of the cheapest plan, by a linear programme."""
    n, m = cost.shape
    sums = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    p, q = (np.float64(x) / np.float64(x).sum() for x in (p, q))
    return linprog(cost.ravel(), A_eq=sums, b_eq=np.concatenate([p, q])).fun


def test_the_cost_tends_to_that_of_the_cheapest_plan(case):
    pairs = zip(*jax.device_get(jax.jit(distributions)(case)), strict=True)
    expected = sum(exact_cost(*pair, distances(case)[0]) for pair in pairs)
    errors = []
    for epsilon in (0.05, 0.002):
        value, _ = measure((OBJECTIVES["sinkhorn"](**OPTIONS, epsilon=epsilon),), case)
        errors.append(abs(float(value) - expected))
    assert errors[0] > errors[1]
    assert errors[1] < 1e-2


def test_no_gradient_goes_through_the_cost(case):
    objective = OBJECTIVES["sinkhorn"](**OPTIONS, epsilon=0.05)
    costs = [np.broadcast_to(np.float32(c), (2, VOCAB_SIZE, VOCAB_SIZE)) for c in distances(case)]

    @jax.jit
    @jax.value_and_grad
    def dense(matrix, costs):
        p, _ = distributions(case)
        lm_head = dataclasses.replace(case.student_lm_head, matrix=matrix)
        _, q = distributions(case.replace(student_lm_head=lm_head))
        between, *within = (
            losses.entropic_transport_cost(*pair, cost, epsilon=0.05, num_iterations=4000).sum()
            for pair, cost in zip(((p, q), (p, p), (q, q)), costs, strict=True)
        )
        return between - sum(within) / 2

    expected, expected_gradient = dense(case.student_lm_head.matrix, costs)
    value, gradient = measure((objective,), case)
    np.testing.assert_allclose(value, expected, rtol=1e-3)
    np.testing.assert_allclose(gradient.student_lm_head.matrix, expected_gradient, atol=1e-3)
    np.testing.assert_array_equal(gradient.teacher_lm_head.matrix, 0)


def test_cosine_distance_is_0_for_one_direction_and_1_for_zero_vectors():
    left = np.float32([[[1, 0], [0, 0], [1, 1]]])
    right = np.float32([[[3, 0], [0, 2], [-1, 0]]])
    root = 1 - np.sqrt(0.5)
    expected = [[[0, 1, 1], [1, 1, 1], [root, root, 1]]]

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient_and_values(left, right):
        values = losses.cosine_distance(left, right)
        return values.sum(), values

    gradient, values = gradient_and_values(left, right)
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert np.isfinite(gradient).all()
