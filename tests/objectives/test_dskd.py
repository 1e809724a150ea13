"""Dual-space distillation beside its formulas, written per completion with all logits at once."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.objectives import OBJECTIVES, CombinedLoss, init_modules
from jaxdistill.objectives.weights import teacher_batch
from jaxdistill.taps import Widths
from jaxdistill.types import Batch, Embedding, HiddenSignal, LMHead, TokenAlignment

VOCAB_SIZES, DIMS = (11, 13), (6, 8)
WIDTHS = [Widths(hidden=n, layers=1, query=n, key_value=n) for n in DIMS]
TEMPERATURE = 2.0
TERMS = ("projected_cross_entropy", "student_space_kl", "teacher_space_kl")

Layout = list[list[tuple[int, int]]]
"""For each sequence its packed examples: how many positions, and how many of them are prompt."""

STUDENT_LAYOUT: Layout = [[(4, 1), (5, 2)], [(7, 3)]]
TEACHER_LAYOUT: Layout = [[(6, 3), (4, 1)], [(8, 2)]]


class Inputs(NamedTuple):
    """Everything that a gradient could reach."""

    modules: Any
    student: HiddenSignal
    teacher: HiddenSignal


def random_batch(layout: Layout, length: int, vocab_size: int, seed: int) -> Batch:
    """Random tokens, also in padding and prompts."""
    random = np.random.default_rng(seed)
    tokens, labels = random.integers(0, vocab_size, (2, len(layout), length)).astype(np.int32)
    segments, mask = np.zeros((2, len(layout), length))
    for sequence, examples in enumerate(layout):
        start = 0
        for segment, (size, prompt) in enumerate(examples, start=1):
            segments[sequence, start : start + size] = segment
            mask[sequence, start + prompt : start + size] = 1
            start += size
    zeros = np.zeros_like(tokens)
    return Batch(tokens, labels, mask.astype(np.float32), zeros, segments.astype(np.int32), zeros)


def with_teacher(student: Batch, teacher: Batch) -> Batch:
    """Add a teacher's view, of which no spans are aligned."""
    span_ids = [np.full(batch.tokens.shape, -1, np.int32) for batch in (student, teacher)]
    weight = np.zeros(student.tokens.shape, np.float32)
    return dataclasses.replace(student, alignment=TokenAlignment(teacher, weight, *span_ids))


def random_signal(batch: Batch, vocab_size: int, width: int, seed: int) -> HiddenSignal:
    random = np.random.default_rng(seed)
    hidden, matrix, embedding = (
        jnp.asarray(random.normal(size=shape), jnp.float32)
        for shape in ((*batch.tokens.shape, width), (vocab_size, width), (vocab_size, width))
    )
    lm_head = LMHead(matrix, vocab_size=vocab_size)
    return HiddenSignal(hidden, lm_head, Embedding(embedding, scale=1.5))


@functools.cache
def random_case(name: str, num_tokenizers: int) -> tuple[Any, Inputs, Batch]:
    """Return `(objective, inputs, batch)`."""
    objective = OBJECTIVES[name](weight=0.7)
    batch = read = random_batch(STUDENT_LAYOUT, 12, VOCAB_SIZES[0], seed=1)
    if num_tokenizers == 2:
        read = random_batch(TEACHER_LAYOUT, 10, VOCAB_SIZES[1], seed=2)
        batch = with_teacher(batch, read)
    student = random_signal(batch, VOCAB_SIZES[0], DIMS[0], 3)
    teacher = random_signal(read, VOCAB_SIZES[num_tokenizers - 1], DIMS[1], 4)
    modules = init_modules([objective], 5, *WIDTHS)[name]
    # Random projections predict few labels, and the student learns only where they do. A larger
    # kernel, on top of embeddings of the label, predicts some.
    kernel = modules["to_student"]["kernel"] * 6
    modules = {**modules, "to_student": {**modules["to_student"], "kernel": kernel}}
    return objective, Inputs(modules, student, teacher), batch


def compute_loss(objective: Any, inputs: Inputs, batch: Batch, *, num_shards: int = 1) -> Any:
    """Return `(loss, (sums, means))` as a step computes them."""
    combined = CombinedLoss([objective], num_shards=num_shards, chunk_size=4)
    name, denominators = objective.type, combined.denominators(batch)
    loss, sums = combined(
        {name: inputs.modules},
        inputs.student,
        inputs.teacher,
        batch,
        weights={name: jnp.float32(objective.weight)},
        denominators=denominators,
    )
    return loss, (sums, combined.means(sums, denominators))


@functools.partial(jax.jit, static_argnums=0, static_argnames="num_shards")
def differentiate(objective: Any, inputs: Inputs, batch: Batch, *, num_shards: int) -> Any:
    def function(inputs: Inputs) -> Any:
        return compute_loss(objective, inputs, batch, num_shards=num_shards)

    return jax.value_and_grad(function, has_aux=True)(inputs)


def loss_and_gradient(
    objective: Any, inputs: Inputs, batch: Batch, *, num_shards: int = 1
) -> tuple[Any, Inputs]:
    """Return `((loss, (sums, means)), gradient)` of NumPy arrays; all tests share its programs."""
    return jax.device_get(differentiate(objective, inputs, batch, num_shards=num_shards))


class Completion(NamedTuple):
    """Scored positions of one completion, as one model reads them."""

    hidden: Any
    token_embeddings: Any
    label_embeddings: Any
    labels: Any


def completion(signal: HiddenSignal, batch: Batch, sequence: int, segment: int) -> Completion:
    is_scored = (batch.segment_ids[sequence] == segment) & (batch.loss_mask[sequence] > 0)
    positions = np.flatnonzero(is_scored)
    tokens, labels = batch.tokens[sequence][positions], batch.labels[sequence][positions]
    embeddings = jax.lax.stop_gradient(signal.embedding.matrix) * signal.embedding.scale
    return Completion(
        signal.hidden[sequence][positions], embeddings[tokens], embeddings[labels], labels
    )


def apply(module: Any, x: Any) -> Any:
    return x @ module["kernel"] + module["bias"][None]


def divide_by_std(x: Any) -> Any:
    return x / x.std(axis=-1, keepdims=True)


def attend(modules: Any, student: Completion, teacher: Completion) -> tuple[Any, Any]:
    """Cross-model attention of one completion: hidden states in both spaces."""
    query_input, key_input = (
        jnp.concatenate([one.token_embeddings, one.label_embeddings], axis=-1)
        for one in (student, teacher)
    )
    query, key = apply(modules["query"], query_input), divide_by_std(key_input)
    scores = query @ key.T / np.sqrt(2 * teacher.hidden.shape[-1])
    values = divide_by_std(teacher.hidden) + divide_by_std(teacher.label_embeddings)
    to_student = apply(modules["to_student"], values)
    to_teacher = apply(modules["to_teacher"], student.hidden)
    return jax.nn.softmax(scores) @ to_student, jax.nn.softmax(scores.T) @ to_teacher


def project(modules: Any, student: Completion, teacher: Completion) -> tuple[Any, Any]:
    to_student = apply(modules["to_student"], teacher.hidden)
    return to_student, apply(modules["to_teacher"], student.hidden)


def kl(log_p: Any, log_q: Any) -> Any:
    return (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def dense_loss(objective: Any, inputs: Inputs, batch: Batch) -> tuple[Any, dict[str, Any]]:
    """The authors' formulas: the loss, and its three means."""
    modules, student, teacher = inputs
    stop_gradient, is_attending = jax.lax.stop_gradient, objective.type == "dskd_cma"
    matrix = student.lm_head.matrix
    fixed_matrix, teacher_matrix = stop_gradient(matrix), stop_gradient(teacher.lm_head.matrix)
    sums, sizes = dict.fromkeys(TERMS, 0.0), [0, 0]
    for sequence, examples in enumerate(STUDENT_LAYOUT):
        for segment in range(1, len(examples) + 1):
            own = completion(student, batch, sequence, segment)
            other = completion(stop_gradient(teacher), teacher_batch(batch), sequence, segment)
            in_student_space, in_teacher_space = (attend if is_attending else project)(
                modules, own, other
            )
            t, q = in_student_space @ fixed_matrix.T, own.hidden @ matrix.T
            s, p = in_teacher_space @ teacher_matrix.T, other.hidden @ teacher_matrix.T
            nll = -jax.nn.log_softmax(t)[np.arange(len(own.labels)), own.labels]
            log_t, log_q, log_p, log_s = (
                jax.nn.log_softmax(logits / TEMPERATURE) for logits in (stop_gradient(t), q, p, s)
            )
            student_space_kl = kl(log_t, log_q)
            if is_attending:
                student_space_kl *= jnp.argmax(t, axis=-1) == own.labels
            terms = nll, student_space_kl, kl(log_p, log_s)
            for name, values in zip(TERMS, terms, strict=True):
                sums[name] += values.sum()
            sizes[0] += len(own.labels)
            sizes[1] += len(other.labels)
    denominators = dict(zip(TERMS, (sizes[0], sizes[0], sizes[1]), strict=True))
    means = {name: sums[name] / denominators[name] for name in TERMS}
    return objective.weight * sum(means.values()), means


CASES = [("dskd", 1), ("dskd_cma", 1), ("dskd_cma", 2)]
every_case = pytest.mark.parametrize(("name", "num_tokenizers"), CASES)


def assert_close(ours: Any, expected: Any) -> None:
    for (path, leaf), other in zip(
        jax.tree.leaves_with_path(ours), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(leaf, other, rtol=2e-4, atol=2e-5, err_msg=str(path))


@every_case
def test_loss_and_gradient_equal_the_formulas_of_the_authors(name, num_tokenizers):
    objective, inputs, batch = random_case(name, num_tokenizers)
    (loss, (_, means)), gradient = loss_and_gradient(objective, inputs, batch)
    dense = jax.value_and_grad(lambda inputs: dense_loss(objective, inputs, batch), has_aux=True)
    (expected, expected_means), expected_gradient = jax.jit(dense)(inputs)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(loss, objective.weight * means[name], rtol=1e-6)
    for term in TERMS:
        np.testing.assert_allclose(means[f"{name}_{term}"], expected_means[term], rtol=1e-5)
        assert expected_means[term] > 0.01
    assert_close(gradient, expected_gradient)


@every_case
def test_gradients_reach_student_and_modules_alone(name, num_tokenizers):
    objective, inputs, batch = random_case(name, num_tokenizers)
    gradient = loss_and_gradient(objective, inputs, batch)[1]
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient.teacher))
    assert not gradient.student.embedding.matrix.any()
    assert gradient.student.lm_head.matrix.any()
    assert all(leaf.any() for leaf in jax.tree.leaves(gradient.modules))


@every_case
def test_masked_positions_do_not_count(name, num_tokenizers):
    objective, inputs, batch = random_case(name, num_tokenizers)
    (loss, _), gradient = loss_and_gradient(objective, inputs, batch)

    def spoil(signal: HiddenSignal, read: Batch) -> tuple[HiddenSignal, Batch]:
        is_masked = read.loss_mask == 0
        hidden = jnp.asarray(np.where(is_masked[..., None], np.float32(np.nan), signal.hidden))
        tokens, labels = (
            np.where(is_masked, 1, ids).astype(np.int32) for ids in (read.tokens, read.labels)
        )
        spoilt = dataclasses.replace(read, tokens=tokens, labels=labels)
        return dataclasses.replace(signal, hidden=hidden), spoilt

    student, spoilt = spoil(inputs.student, batch)
    teacher, spoilt_read = spoil(inputs.teacher, teacher_batch(batch))
    if batch.alignment is not None:
        alignment = dataclasses.replace(batch.alignment, teacher=spoilt_read)
        spoilt = dataclasses.replace(spoilt, alignment=alignment)
    spoilt_inputs = Inputs(inputs.modules, student, teacher)
    (spoilt_loss, _), spoilt_gradient = loss_and_gradient(objective, spoilt_inputs, spoilt)
    assert spoilt_loss == loss
    assert_close(spoilt_gradient, gradient)
    assert not spoilt_gradient.student.hidden[batch.loss_mask == 0].any()


def test_packed_examples_do_not_attend_to_each_other():
    objective, inputs, batch = random_case("dskd_cma", 2)

    def only(read: Batch, sequence: int, segment: int) -> Batch:
        is_kept = (read.segment_ids == segment) & (np.arange(len(STUDENT_LAYOUT)) == sequence)[
            :, None
        ]
        return dataclasses.replace(read, loss_mask=read.loss_mask * is_kept, alignment=None)

    def sums_of(batch: Batch) -> dict[str, Any]:
        return loss_and_gradient(objective, inputs, batch)[0][1][0]

    parts = [
        sums_of(with_teacher(*(only(read, sequence, segment) for read in views)))
        for views in [(batch, batch.alignment.teacher)]
        for sequence, examples in enumerate(STUDENT_LAYOUT)
        for segment in range(1, len(examples) + 1)
    ]
    sums = sums_of(batch)
    for term in (f"dskd_cma_{name}" for name in TERMS):
        np.testing.assert_allclose(sums[term], sum(part[term] for part in parts), rtol=1e-5)


def test_a_completion_that_the_teacher_did_not_read_gets_no_gradient():
    objective, inputs, batch = random_case("dskd_cma", 2)
    read = batch.alignment.teacher
    shorter = dataclasses.replace(read, loss_mask=read.loss_mask * (read.segment_ids != 2))
    (loss, _), gradient = loss_and_gradient(objective, inputs, with_teacher(batch, shorter))
    assert np.isfinite(loss)
    assert gradient.student.hidden[batch.segment_ids == 1].any()
    assert not gradient.student.hidden[batch.segment_ids == 2].any()


def test_the_number_of_shards_changes_nothing():
    """Of the case whose two batches differ; both objectives split the batch in the same place."""
    objective, inputs, batch = random_case("dskd_cma", 2)
    one, two = (loss_and_gradient(objective, inputs, batch, num_shards=n) for n in (1, 2))
    assert_close(two, one)


def test_modules_depend_on_the_seed_and_on_the_index_of_their_objective():
    objectives = [OBJECTIVES["dskd"](), OBJECTIVES["forward_kl"](), OBJECTIVES["dskd"]()]
    modules, again, other = (init_modules(objectives, seed, *WIDTHS) for seed in (1, 1, 2))
    assert set(modules) == {"dskd", "dskd_2"}
    jax.tree.map(np.testing.assert_array_equal, modules, again)
    kernels = [one["to_student"]["kernel"] for one in (*modules.values(), *other.values())]
    assert len({float(kernel[0, 0]) for kernel in kernels}) == 4
