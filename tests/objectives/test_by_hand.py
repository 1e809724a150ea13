"""Objectives of two vocabularies beside values computed by hand from their definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import softmax

from jaxdistill import align
from jaxdistill.objectives import OBJECTIVES, TokenDistribution
from jaxdistill.types import VocabTables
from tests.losses.entropic_transport import cheapest_plan, plan_cost

# The last token of each ends a completion; the student has one more special token, which the
# teacher does not have, and no token for `ab` and `cab`.
TEACHER = [b"a", b"b", b"c", b"ab", b"cab", None]
STUDENT = [b"a", b"b", b"c", b"cat", None, None]
SPECIAL_PAIRS = [(5, 5)]
P = [0.3, 0.15, 0.1, 0.3, 0.05, 0.1]


@functools.cache
def vocab_tables():
    """Return the tables of the student and of the teacher."""

    def encode_nothing(texts):
        return [[] for _ in texts]  # so that tokens are split from the left

    swapped_pairs = [(teacher, student) for student, teacher in SPECIAL_PAIRS]
    shared = align.build_shared_buckets(
        align.retokenize(STUDENT, TEACHER, encode_nothing, SPECIAL_PAIRS),
        align.retokenize(TEACHER, STUDENT, encode_nothing, swapped_pairs),
    )
    matches = align.exact_matches(STUDENT, TEACHER, SPECIAL_PAIRS)

    def tables(tokens, matches, **other_tables):
        return VocabTables(
            matches,
            *align.padded_token_bytes(tokens),
            align.word_boundaries(tokens),
            bucket_token=shared.bucket_token,
            **other_tables,
        )

    nearest = align.nearest_tokens(TEACHER, STUDENT, matches[1])
    return (
        tables(STUDENT, matches[0], buckets=shared.student_buckets, subtokens=shared.subtokens),
        tables(TEACHER, matches[1], buckets=shared.teacher_buckets[:, None], nearest_token=nearest),
    )


@functools.partial(jax.jit, static_argnums=0)
def value(objective, q, p=P, prefixes=(None, None)):
    distributions = []
    for probs, tables, prefix in zip((q, p), vocab_tables(), prefixes, strict=True):
        distributions.append(
            TokenDistribution(
                jnp.log(jnp.maximum(jnp.asarray(probs, jnp.float32)[None], 1e-30)),
                jnp.zeros(1, jnp.int32),
                vocab_tables=tables,
                span_prefix_log_probs=None if prefix is None else jnp.log(prefix)[None],
            )
        )
    return objective.values(*distributions)[0]


def minimizer(objective):
    """Return the student's distribution of the least value."""

    @jax.jit
    def value_and_gradient(logits):
        return jax.value_and_grad(lambda x: value(objective, jax.nn.softmax(x)))(
            jnp.float32(logits)
        )

    result = minimize(
        lambda x: [np.float64(y) for y in value_and_gradient(x)], np.zeros(6), jac=True
    )
    return softmax(result.x)


def test_bucket_objectives_learn_shared_beginnings_and_no_special_token_instead():
    for name in ("projected_kl", "hybrid_kl"):
        q = minimizer(OBJECTIVES[name]())
        assert q[0] == pytest.approx(0.6, abs=0.02), name  # `a` and `ab`
        assert q[2] + q[3] == pytest.approx(0.15, abs=0.02), name  # `c` and `cab`
        assert q[4] < 0.02, name  # the student's own special token
        assert q[5] == pytest.approx(0.1, abs=0.02), name


def test_gold_moves_unmatched_mass_to_unmatched_tokens():
    """Its published flaw, which the two above avoid: the mass of `ab` goes to a special token."""
    q = minimizer(OBJECTIVES["gold"]())
    assert q[4] + q[3] > 0.25


def test_mined_maps_tokens_to_those_spelt_most_alike():
    nearest = vocab_tables()[1].nearest_token
    assert nearest.tolist() == [0, 1, 2, 0, 3, 5]  # `ab` is `a`, `cab` is `cat`
    temperature = 2.0
    logits = np.log(P) / temperature
    largest = np.array([max(logits[0], logits[3]), logits[1], logits[2], logits[4], logits[5]])
    p = np.exp(largest) / np.exp(largest).sum()
    q = np.array([0.2, 0.3, 0.1, 0.1, 0.1, 0.2])
    log_q = np.log(q) / temperature - np.log(np.exp(np.log(q) / temperature).sum())
    expected = sum(p * (np.log(p) - log_q[[0, 1, 2, 3, 5]]))
    assert value(OBJECTIVES["mined"](), q) == pytest.approx(expected, rel=1e-5)


def test_spans_of_several_tokens_include_the_probability_of_their_prefix():
    q, prefixes = np.array([0.2, 0.3, 0.1, 0.1, 0.1, 0.2]), (0.5, 0.25)
    expected = np.abs(np.sort(0.25 * np.array(P)) - np.sort(0.5 * q)).sum()
    assert value(OBJECTIVES["uld"](), q, prefixes=prefixes) == pytest.approx(expected, rel=1e-5)


THIRD = 1 / 3
COST = np.array(  # edit distances of the teacher's tokens (rows) to the student's (columns)
    [
        [0, 1, 1, 2 * THIRD, 1, 1],
        [1, 0, 1, 1, 1, 1],
        [1, 1, 0, 2 * THIRD, 1, 1],
        [0.5, 0.5, 1, 2 * THIRD, 1, 1],
        [2 * THIRD, 2 * THIRD, 2 * THIRD, THIRD, 1, 1],
        [1, 1, 1, 1, 1, 0],
    ]
)
TEACHER_COST = np.array(
    [
        [0, 1, 1, 0.5, 2 * THIRD, 1],
        [1, 0, 1, 0.5, 2 * THIRD, 1],
        [1, 1, 0, 1, 2 * THIRD, 1],
        [0.5, 0.5, 1, 0, THIRD, 1],
        [2 * THIRD, 2 * THIRD, 2 * THIRD, THIRD, 0, 1],
        [1, 1, 1, 1, 1, 0],
    ]
)
STUDENT_COST = np.array(
    [
        [0, 1, 1, 2 * THIRD, 1, 1],
        [1, 0, 1, 1, 1, 1],
        [1, 1, 0, 2 * THIRD, 1, 1],
        [2 * THIRD, 1, 2 * THIRD, 0, 1, 1],
        [1, 1, 1, 1, 0, 1],
        [1, 1, 1, 1, 1, 0],
    ]
)


def entropic_divergence(probs, costs, relaxed):
    """Return the divergence of optimal plans."""
    options = {"epsilon": 0.05, "relaxed": relaxed}
    sides = [(probs[left], probs[right]) for left, right in ((0, 1), (0, 0), (1, 1))]
    between, *within = (
        plan_cost(cheapest_plan(*pair, cost, **options), *pair, cost, **options)
        for pair, cost in zip(sides, costs, strict=True)
    )
    mass_difference = probs[0].sum() - probs[1].sum()
    return between - sum(within) / 2 + 0.05 / 2 * mass_difference**2


@pytest.mark.parametrize(("k", "relaxed"), [(6, None), (3, None), (3, 0.5)])
def test_sinkhorn_is_the_divergence_of_these_distances(k, relaxed):
    q = [0.2, 0.32, 0.1, 0.08, 0.09, 0.21]
    objective = OBJECTIVES["sinkhorn"](k=k, relaxed=relaxed, epsilon=0.05, num_iterations=2000)
    top_k = [np.argsort(-np.array(side))[:k] for side in (P, q)]
    probs = [np.array(side)[tokens] for side, tokens in zip((P, q), top_k, strict=True)]
    costs = [
        cost[np.ix_(top_k[left], top_k[right])]
        for cost, left, right in ((COST, 0, 1), (TEACHER_COST, 0, 0), (STUDENT_COST, 1, 1))
    ]
    if relaxed is None:  # all other tokens are one more outcome
        probs = [np.append(side, max(1 - side.sum(), 1e-9)) for side in probs]
        costs = [np.pad(cost, (0, 1), constant_values=1) for cost in costs]
        for cost in costs:
            cost[-1, -1] = 0
    expected = entropic_divergence(probs, costs, relaxed)
    assert value(objective, q) == pytest.approx(expected, abs=2e-5)
    assert expected > 0.02


def same_vocabulary(students, teacher, tokens):
    """Return the distributions of several students, and of one teacher beside each."""
    tables = VocabTables(
        np.arange(len(tokens)), *align.padded_token_bytes(tokens), align.word_boundaries(tokens)
    )
    labels = jnp.zeros(len(students), jnp.int32)
    teachers = jnp.broadcast_to(teacher[None], students.shape)
    return [
        TokenDistribution(logits, labels, vocab_tables=tables) for logits in (students, teachers)
    ]


RANDOM_TOKENS = [
    bytes(np.random.default_rng(n).choice(list(b"abcdef 12"), size=1 + n % 6).tolist())
    for n in range(24)
]


@functools.partial(jax.jit, static_argnums=0)
def values_and_gradients(objective, students, teacher):
    """Compute the value of each student over `RANDOM_TOKENS`, and its gradient to the logits."""

    def total(students):
        values = objective.values(*same_vocabulary(students, teacher, RANDOM_TOKENS))
        return values.sum(), values

    gradients, values = jax.grad(total, has_aux=True)(students)
    return values, gradients


@pytest.mark.parametrize("relaxed", [None, 0.5])
@pytest.mark.parametrize("distance", [0.1, 1.0])
def test_the_gradient_of_sinkhorn_is_that_of_its_value(relaxed, distance):
    """With the default number of iterations, also where both models nearly agree."""
    random = np.random.default_rng(0)
    teacher = np.float32(4 * random.normal(size=24))
    student = teacher + np.float32(distance * random.normal(size=24))
    objective = OBJECTIVES["sinkhorn"](k=24, relaxed=relaxed)
    step = 2e-2 * np.eye(24, dtype=np.float32)
    students = np.concatenate([student[None], student + step, student - step])
    with jax.numpy_rank_promotion("allow"):  # OTT-JAX's backward pass does
        values, gradients = jax.device_get(values_and_gradients(objective, students, teacher))
    expected = (values[1:25] - values[25:]) / 4e-2
    assert np.linalg.norm(gradients[0] - expected) < 0.03 * np.linalg.norm(expected)


@pytest.mark.parametrize("relaxed", [None, 0.5])
def test_sinkhorn_is_least_where_the_models_are_equal(relaxed):
    tokens = [b"the", b" the", b" The", b"cat", b" cats", b" dog", b"1", b"12", None]
    teacher = np.float32([0.0, 5.0, 1.0, 2.0, 3.0, 0.5, -1.0, 2.5, 1.5])
    # Equal, too sure, too unsure, and wrong in each token of the top k.
    wrong = teacher + 0.5 * np.delete(np.eye(9, dtype=np.float32), 6, axis=0)
    students = np.float32([teacher, 1.3 * teacher, 0.7 * teacher, *wrong])
    objective = OBJECTIVES["sinkhorn"](k=7, relaxed=relaxed)

    @jax.jit
    def values_of(students, teacher):
        return objective.values(*same_vocabulary(students, teacher, tokens))

    values = np.asarray(values_of(students, teacher))
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert np.all(values[1:] > 2e-5)
