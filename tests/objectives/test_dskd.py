"""Dual-space distillation beside its formulas, written row by row with all logits at once."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.objectives import OBJECTIVES, CombinedLoss, init_modules
from jaxdistill.types import Batch, Embedding, HiddenSignal, LMHead, TokenAlignment

WORDS, DIMS = (11, 13), (6, 8)
TEMPERATURE = 2.0
PARTS = ("projected_cross_entropy", "student_space_kl", "teacher_space_kl")

Rows = list[list[tuple[int, int]]]
"""Of each sequence the rows packed into it: how many places they have, and how many of them do not
count because they are the prompt."""

HERE: Rows = [[(4, 1), (5, 2)], [(7, 3)]]
THERE: Rows = [[(6, 3), (4, 1)], [(8, 2)]]


def laid_out(rows: Rows, length: int, words: int, seed: int) -> Batch:
    """Random tokens; what stands in padding and prompts is random, too."""
    random = np.random.default_rng(seed)
    tokens, labels = random.integers(0, words, (2, len(rows), length)).astype(np.int32)
    segments, mask = np.zeros((2, len(rows), length))
    for sequence, packed in enumerate(rows):
        start = 0
        for number, (size, prompt) in enumerate(packed, start=1):
            segments[sequence, start : start + size] = number
            mask[sequence, start + prompt : start + size] = 1
            start += size
    nothing = np.zeros_like(tokens)
    return Batch(
        tokens, labels, mask.astype(np.float32), nothing, segments.astype(np.int32), nothing
    )


def beside(here: Batch, there: Batch) -> Batch:
    groups = [np.full(batch.tokens.shape, -1, np.int32) for batch in (here, there)]
    weight = np.zeros(here.tokens.shape, np.float32)
    return dataclasses.replace(here, pairing=TokenAlignment(there, weight, *groups))


def said(batch: Batch, words: int, width: int, seed: int) -> HiddenSignal:
    keys = jax.random.split(jax.random.key(seed), 3)
    return HiddenSignal(
        jax.random.normal(keys[0], (*batch.tokens.shape, width)),
        LMHead(jax.random.normal(keys[1], (words, width)), vocab_size=words),
        Embedding(jax.random.normal(keys[2], (words, width)), scale=1.5),
    )


def case(name: str, readings: int) -> tuple[Any, Any, Batch]:
    """`(objective, (modules, student, teacher), batch)` where the teacher reads so many ways."""
    objective = OBJECTIVES[name](weight=0.7)
    here = there = laid_out(HERE, 12, WORDS[0], seed=1)
    words = WORDS if readings == 2 else (WORDS[0], WORDS[0])
    if readings == 2:
        there = laid_out(THERE, 10, WORDS[1], seed=2)
    student, teacher = said(here, words[0], DIMS[0], 3), said(there, words[1], DIMS[1], 4)
    modules = init_modules([objective], 5, *DIMS)[name]
    # Of projections that know nothing few are right: with some the student learns from its words.
    kernel = modules["to_student"]["kernel"] * 6
    modules = {**modules, "to_student": {**modules["to_student"], "kernel": kernel}}
    return objective, (modules, student, teacher), beside(here, there) if readings == 2 else here


def measured(objective: Any, parts: Any, batch: Batch, *, num_shards: int = 1) -> Any:
    """`(loss, sums)` as a step adds them up."""
    modules, student, teacher = parts
    batch = jax.tree.map(jnp.asarray, batch)  # as in the step
    combined = CombinedLoss([objective], num_shards=num_shards, chunk_size=4)
    name, counts = objective.type, combined.denominators(batch)
    weights = {name: jnp.float32(objective.weight)}
    loss, sums = combined({name: modules}, student, teacher, batch, weights=weights, counts=counts)
    return loss, (sums, combined.means(sums, counts))


def differentiated(objective: Any, parts: Any, batch: Batch, **options: Any) -> Any:
    def function(parts: Any) -> Any:
        return measured(objective, parts, batch, **options)

    return jax.jit(jax.value_and_grad(function, has_aux=True))(parts)


def apply(module: Any, x: Any) -> Any:
    return x @ module["kernel"] + module["bias"][None]


def normalised(x: Any) -> Any:
    return x / x.std(axis=-1, keepdims=True)


def attended(modules: Any, student: Any, teacher: Any) -> tuple[Any, Any]:
    """Cross-model attention for the places of one answer: `(hidden, read, follows)` of each."""
    (h_s, *words_s), (h_t, read, follows) = student, teacher
    query = apply(modules["query"], jnp.concatenate(words_s, axis=-1))
    key = normalised(jnp.concatenate([read, follows], axis=-1))
    align = query @ key.T / np.sqrt(2 * h_t.shape[-1])
    to_student = apply(modules["to_student"], normalised(h_t) + normalised(follows))
    to_teacher = apply(modules["to_teacher"], h_s)
    return jax.nn.softmax(align) @ to_student, jax.nn.softmax(align.T) @ to_teacher


def projected(modules: Any, student: Any, teacher: Any) -> tuple[Any, Any]:
    return apply(modules["to_student"], teacher[0]), apply(modules["to_teacher"], student[0])


def answer(signal: HiddenSignal, batch: Batch, sequence: int, segment: int) -> tuple[Any, Any]:
    """`((hidden, read, follows), labels)` at the places of one answer."""
    is_there = (batch.segment_ids[sequence] == segment) & (batch.loss_mask[sequence] > 0)
    at = np.flatnonzero(is_there)
    tokens, labels = batch.tokens[sequence][at], batch.labels[sequence][at]
    table = jax.lax.stop_gradient(signal.embedding.matrix) * signal.embedding.scale
    return (signal.hidden[sequence][at], table[tokens], table[labels]), labels


def kl(log_p: Any, log_q: Any) -> Any:
    return (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def dense(objective: Any, parts: Any, batch: Batch) -> tuple[Any, dict[str, Any]]:
    """The formulas of the authors: the loss, and its three means."""
    modules, student, teacher = parts
    still, is_attending = jax.lax.stop_gradient, objective.type == "dskd_cma"
    there = batch if batch.alignment is None else batch.alignment.teacher
    heads = student.head.matrix, still(student.head.matrix), still(teacher.head.matrix)
    sums, sizes = dict.fromkeys(PARTS, 0.0), [0, 0]
    for sequence, packed in enumerate(HERE):
        for segment in range(1, len(packed) + 1):
            mine, labels = answer(student, batch, sequence, segment)
            theirs, labels_t = answer(still(teacher), there, sequence, segment)
            carry = attended if is_attending else projected
            to_student, to_teacher = carry(modules, mine, theirs)
            t2s, own = to_student @ heads[1].T, mine[0] @ heads[0].T
            s2t, given = to_teacher @ heads[2].T, theirs[0] @ heads[2].T
            nll = -jax.nn.log_softmax(t2s)[np.arange(len(labels)), labels]
            soft = [jax.nn.log_softmax(z / TEMPERATURE) for z in (still(t2s), own, given, s2t)]
            in_student_space = kl(soft[0], soft[1])
            if is_attending:
                in_student_space *= jnp.argmax(t2s, axis=-1) == labels
            found = nll, in_student_space, kl(soft[2], soft[3])
            for name, values in zip(PARTS, found, strict=True):
                sums[name] += values.sum()
            sizes[0] += len(labels)
            sizes[1] += len(labels_t)
    counts = dict(zip(PARTS, (sizes[0], sizes[0], sizes[1]), strict=True))
    means = {name: sums[name] / counts[name] for name in PARTS}
    return objective.weight * sum(means.values()), means


CASES = [("dskd", 1), ("dskd_cma", 1), ("dskd_cma", 2)]
every_case = pytest.mark.parametrize(("name", "readings"), CASES)


def assert_close(found: Any, wanted: Any) -> None:
    for (path, one), other in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves(wanted), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5, err_msg=str(path))


@every_case
def test_it_is_the_authors(name, readings):
    objective, parts, batch = case(name, readings)
    (loss, (_, means)), gradient = differentiated(objective, parts, batch)
    (wanted, wanted_means), wanted_gradient = jax.value_and_grad(
        lambda parts: dense(objective, parts, batch), has_aux=True
    )(parts)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    np.testing.assert_allclose(loss, objective.weight * means[name], rtol=1e-6)
    for part in PARTS:
        np.testing.assert_allclose(means[f"{name}_{part}"], wanted_means[part], rtol=1e-5)
        assert wanted_means[part] > 0.01
    assert_close(gradient, wanted_gradient)


@every_case
def test_neither_teacher_nor_words_move(name, readings):
    objective, parts, batch = case(name, readings)
    modules, student, teacher = differentiated(objective, parts, batch)[1]
    assert all(not leaf.any() for leaf in jax.tree.leaves(teacher))
    assert not student.embedding.matrix.any()
    assert student.head.matrix.any()
    assert all(leaf.any() for leaf in jax.tree.leaves(modules))


@every_case
def test_what_does_not_count_is_never_looked_at(name, readings):
    objective, parts, batch = case(name, readings)
    (loss, _), gradient = differentiated(objective, parts, batch)
    modules, student, teacher = parts
    there = batch if batch.alignment is None else batch.alignment.teacher

    def spoilt(signal: HiddenSignal, read: Batch) -> tuple[HiddenSignal, Batch]:
        is_idle = read.loss_mask == 0
        hidden = jnp.where(is_idle[..., None], jnp.nan, signal.hidden)
        ids = [np.where(is_idle, 1, ids).astype(np.int32) for ids in (read.tokens, read.labels)]
        return dataclasses.replace(signal, hidden=hidden), dataclasses.replace(
            read, tokens=ids[0], labels=ids[1]
        )

    mine, here = spoilt(student, batch)
    theirs, there = spoilt(teacher, there)
    if batch.alignment is not None:
        pairing = dataclasses.replace(batch.alignment, teacher=there)
        here = dataclasses.replace(here, pairing=pairing)
    (found, _), moved = differentiated(objective, (modules, mine, theirs), here)
    assert found == loss
    assert_close(moved, gradient)
    assert not moved[1].hidden[batch.loss_mask == 0].any()


def test_rows_that_share_a_sequence_do_not_meet():
    objective, (modules, student, teacher), batch = case("dskd_cma", 2)

    def alone(signal: HiddenSignal, read: Batch, segment: int) -> tuple[HiddenSignal, Batch]:
        here = read.segment_ids[:1] == segment
        mask = (read.loss_mask[:1] * here).astype(np.float32)
        first = jax.tree.map(lambda column: column[:1], dataclasses.replace(read, pairing=None))
        signal = dataclasses.replace(signal, hidden=signal.hidden[:1])
        return signal, dataclasses.replace(first, loss_mask=mask)

    total: dict[str, Any] = dict.fromkeys(PARTS, 0.0)
    for segment in (1, 2):
        mine, here = alone(student, batch, segment)
        theirs, there = alone(teacher, batch.alignment.teacher, segment)
        sums = measured(objective, (modules, mine, theirs), beside(here, there))[1][0]
        total = {part: total[part] + sums[f"dskd_cma_{part}"] for part in PARTS}
    first = jax.tree.map(lambda column: column[:1], batch)
    both = (modules, *(dataclasses.replace(s, hidden=s.hidden[:1]) for s in (student, teacher)))
    together = measured(objective, both, first)[1][0]
    for part in PARTS:
        np.testing.assert_allclose(together[f"dskd_cma_{part}"], total[part], rtol=1e-5)


def test_an_answer_that_the_teacher_did_not_read_teaches_nothing():
    objective, parts, batch = case("dskd_cma", 2)
    there = batch.alignment.teacher
    silent = dataclasses.replace(there, loss_mask=there.loss_mask * (there.segment_ids != 2))
    (loss, _), gradient = differentiated(objective, parts, beside(batch, silent))
    assert np.isfinite(loss)
    assert gradient[1].hidden[batch.segment_ids == 1].any()
    assert not gradient[1].hidden[batch.segment_ids == 2].any()


@every_case
def test_groups_of_rows_change_nothing(name, readings):
    objective, parts, batch = case(name, readings)
    one, other = (differentiated(objective, parts, batch, num_shards=n) for n in (1, 2))
    assert_close(other, one)


def test_the_seed_and_the_place_among_objectives_decide_the_beginning():
    objectives = [OBJECTIVES["dskd"](), OBJECTIVES["forward_kl"](), OBJECTIVES["dskd"]()]
    one, again, other = (init_modules(objectives, seed, *DIMS) for seed in (1, 1, 2))
    assert set(one) == {"dskd", "dskd_2"}
    jax.tree.map(np.testing.assert_array_equal, one, again)
    kernels = [made["to_student"]["kernel"] for made in (*one.values(), *other.values())]
    assert len({float(kernel[0, 0]) for kernel in kernels}) == 4
