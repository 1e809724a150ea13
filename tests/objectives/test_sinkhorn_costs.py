"""Transport between likely words of two models, by what the teacher's embeddings say of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_rows import WORDS, measure, random_case
from scipy.optimize import linprog

from jaxdistill import losses
from jaxdistill.objectives import OBJECTIVES

OPTIONS = {"cost": "embeddings", "k": WORDS, "num_iterations": 4000}


@pytest.fixture
def case(key):
    """Two rows of two models that are nearly sure."""
    case = random_case(key, 1, 2)
    return case.replace(mask=jnp.ones((1, 2)))


def distributions(case):
    """Of every row, the teacher's and the student's."""
    sides = (case.teacher_hidden, case.teacher_lm_head), (case.student_hidden, case.student_lm_head)
    return [jax.nn.softmax(hidden[0] @ head.matrix.T) for hidden, head in sides]


def distances(case):
    """Between all words: the teacher's and the student's, and those of each side."""
    table, words = np.float64(case.teacher_lm_head.matrix), case.student_lm_head.vocab_tables
    written = np.array([sum(table[piece] for piece in own if piece >= 0) for own in words.pieces])
    between = apart(table, written)
    between[words.twins[words.twins >= 0], np.flatnonzero(words.twins >= 0)] = 0
    alone = [apart(side, side) * (1 - np.eye(len(side))) for side in (table, written)]
    return between, *alone


def apart(left, right):
    """1 - cos of the angle between vectors, at most 1."""
    lengths = np.linalg.norm(left, axis=1)[:, None] * np.linalg.norm(right, axis=1)
    return 1 - np.clip(left @ right.T / lengths, 0, 1)


def exact(p, q, cost):
    """The cheapest plan, by a linear programme."""
    n, m = cost.shape
    sums = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    p, q = (np.float64(x) / np.float64(x).sum() for x in (p, q))
    return linprog(cost.ravel(), A_eq=sums, b_eq=np.concatenate([p, q])).fun


def test_it_tends_to_the_cheapest_plan(case):
    expected = sum(
        exact(*row, distances(case)[0]) for row in zip(*distributions(case), strict=True)
    )
    errors = []
    for epsilon in (0.05, 0.01, 0.002):
        found, _ = measure((OBJECTIVES["sinkhorn"](**OPTIONS, epsilon=epsilon),), case)
        errors.append(abs(float(found) - expected))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-2


def test_no_gradient_goes_through_the_cost(case):
    objective = OBJECTIVES["sinkhorn"](**OPTIONS, epsilon=0.05)
    p, _ = distributions(case)
    costs = [jnp.broadcast_to(jnp.float32(c), (2, WORDS, WORDS)) for c in distances(case)]

    def dense(head):
        _, q = distributions(case.replace(student_lm_head=head))
        between, *alone = (
            losses.entropic_transport_cost(*pair, cost, epsilon=0.05, num_iterations=4000).sum()
            for pair, cost in zip(((p, q), (p, p), (q, q)), costs, strict=True)
        )
        return between - sum(alone) / 2

    head = case.student_lm_head
    expected = jax.grad(lambda matrix: dense(type(head)(matrix)))(head.matrix)
    value, gradient = measure((objective,), case)
    np.testing.assert_allclose(value, dense(head), rtol=1e-3)
    np.testing.assert_allclose(gradient.student_lm_head.matrix, expected, atol=1e-3)
    np.testing.assert_array_equal(gradient.teacher_lm_head.matrix, 0)


def test_words_of_one_direction_are_one_and_of_none_nothing():
    left = jnp.array([[[1.0, 0], [0, 0], [1, 1]]])
    right = jnp.array([[[3.0, 0], [0, 2], [-1, 0]]])
    root = 1 - np.sqrt(0.5)
    expected = [[[0, 1, 1], [1, 1, 1], [root, root, 1]]]
    np.testing.assert_allclose(losses.cosine_distance(left, right), expected, atol=1e-6)
    assert np.isfinite(jax.grad(lambda x: losses.cosine_distance(x, right).sum())(left)).all()
