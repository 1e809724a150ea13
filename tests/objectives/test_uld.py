"""ULD, GOLD and ALM over two tokenizers, beside TRL's numbers and the official rules."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from jaxdistill.align import padded_token_bytes
from jaxdistill.data.examples import Example, TextOffsets, TokenizedRow
from jaxdistill.data.packing import pack_sequence
from jaxdistill.data.renderer import AssistantTurn, Renderer
from jaxdistill.data.teacher_view import TeacherView
from jaxdistill.objectives import OBJECTIVES, weighted_loss
from jaxdistill.objectives.alignment import align_batch
from jaxdistill.types import HiddenSignal, LMHead, VocabTables
from tests import tiny

GOLDEN = json.loads((Path(__file__).parent / "golden_trl_uld.json").read_text())
ROWS, TOKENS, PROMPT_LENGTH = GOLDEN["rows"], GOLDEN["tokens"], GOLDEN["prompt"]
LENGTH = 9
TABLES = [
    VocabTables(
        np.array([other.get(text, -1) for text in own]),
        *padded_token_bytes([b"a"] * len(own)),
        is_word_boundary=np.arange(len(own)) % 2 == 0,
    )
    for own, other in (GOLDEN["vocabularies"], GOLDEN["vocabularies"][::-1])
]
RENDERER = Renderer(tiny.tokenizer())


def tokenized(tokens, ends, *, has_eos=False):
    """Return a row whose completion has tokens that end at these bytes, and maybe one more.

    Its tokens are not the tokenizer's tokens for that text, so the offsets give its bytes.
    """
    size = max(ends, default=0)
    completion = (PROMPT_LENGTH, PROMPT_LENGTH + size)
    all_ends = [*range(1, PROMPT_LENGTH + 1), *(PROMPT_LENGTH + end for end in ends)]
    all_ends += [PROMPT_LENGTH + size] * has_eos
    num_tokens = len(all_ends)
    turn_ids = np.where(np.arange(num_tokens) >= PROMPT_LENGTH, 0, -1)
    is_special = np.arange(num_tokens) >= num_tokens - has_eos
    offsets = TextOffsets(
        "." * completion[1],
        np.array([0, *all_ends[:-1]]),
        np.array(all_ends),
        is_special,
        np.zeros(num_tokens, bool),
        (AssistantTurn(completion, completion),),
        turn_ids,
        np.zeros(num_tokens, bool),
    )
    return TokenizedRow(np.array(tokens[:num_tokens]), turn_ids >= 0, offsets)


def example(row, index, alignment, tokens=TOKENS):
    """Return a row of the golden file as an example; None where nothing can be compared."""
    student = tokenized(tokens[0][index], row["student"], has_eos=True)
    teacher = tokenized(tokens[1][index], row["teacher"])
    view = TeacherView(RENDERER, alignment)
    teacher_example = view.align_row(student, teacher, RENDERER, LENGTH, "cut_end")
    if teacher_example == "unpaired":
        return None
    return Example(student.tokens, student.loss_mask, index, f"row {index}", 1, teacher_example)


def batch_of(examples):
    """Return a batch with one example per sequence."""
    sequences = (pack_sequence([one], LENGTH, has_teacher_view=True) for one in examples)
    return jax.tree.map(lambda *arrays: np.stack(arrays), *sequences)


def golden_logits(num_rows):
    return [np.float32(logits)[:num_rows] for logits in GOLDEN["logits"]]


def means(objectives, student_logits, teacher_logits, batch, *, num_shards=1, tables=TABLES):
    """Compute the mean of each objective, with logits in place of hidden states."""
    student, teacher = (
        HiddenSignal(logits, LMHead(jnp.eye(logits.shape[-1]), vocab_tables=own))
        for logits, own in zip((student_logits, teacher_logits), tables, strict=True)
    )
    positions = align_batch(student, teacher, batch, num_shards=num_shards, objectives=objectives)

    def weighted(coefficients):
        arguments = coefficients, positions, student.lm_head, teacher.lm_head
        return weighted_loss(objectives, *arguments, chunk_size=4)

    return weighted, positions.teacher_weight.sum()


@functools.partial(jax.jit, static_argnums=0, static_argnames="num_shards")
def evaluate(objectives, student_logits, teacher_logits, batch, *, num_shards=1):
    """Compute the mean of each objective."""
    weighted, count = means(
        objectives, student_logits, teacher_logits, batch, num_shards=num_shards
    )
    return weighted(jnp.ones(len(objectives)))[1][: len(objectives)] / count


@functools.partial(jax.jit, static_argnums=0)
def differentiate(objectives, coefficients, student_logits, teacher_logits, batch, tables):
    def loss(student_logits):
        weighted, count = means(objectives, student_logits, teacher_logits, batch, tables=tables)
        return weighted(coefficients)[0] / count

    return jax.value_and_grad(loss)(student_logits)


def measure(objective, student_logits, teacher_logits, batch, *, among, tables=TABLES):
    """Compute the mean of the objective and its gradient to the student's logits.

    The objectives `among` which it is share one compiled program: their coefficients are inputs.
    """
    coefficients = np.float32([one == objective for one in among])
    arguments = coefficients, student_logits, teacher_logits, batch, tables
    return jax.device_get(differentiate(among, *arguments))


def golden_objective(fields, k):
    fields = dict(fields)
    return OBJECTIVES[fields.pop("type")](**fields, k=k)


GOLDEN_OBJECTIVES = tuple(
    golden_objective(case["ours"], k) for case in GOLDEN["cases"] for k in (None, 11)
)


def of_equal_alignment(objective):
    """Return the objectives of the golden file that read the same batch."""
    rule = objective.alignment_rule
    return tuple(other for other in GOLDEN_OBJECTIVES if other.alignment_rule == rule)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: str(c["ours"]))
@pytest.mark.parametrize("k", [None, 11])
def test_loss_and_gradient_equal_trl(case, k):
    objective = golden_objective(case["ours"], k)
    examples = [example(row, index, objective.alignment_rule) for index, row in enumerate(ROWS)]
    assert examples[-1] is None  # an empty completion: TRL counts it as an example of loss 0
    num_kept = len(examples) - 1
    arguments = *golden_logits(num_kept), batch_of(examples[:-1])
    value, gradient = measure(objective, *arguments, among=of_equal_alignment(objective))
    scale = num_kept / len(examples)
    np.testing.assert_allclose(scale * value, case["value"], rtol=1e-5)
    np.testing.assert_allclose(
        scale * gradient, np.array(case["gradient"])[:num_kept], rtol=1e-5, atol=1e-7
    )


def official_uld(student_logits, teacher_logits, row):
    """The rule of the paper's code for one example."""
    size = min(len(row["student"]), len(row["teacher"]))
    sorted_probs = []
    for logits in (student_logits, teacher_logits):
        compared = np.float64(logits[PROMPT_LENGTH - 1 : PROMPT_LENGTH - 1 + size])
        probs = np.exp(compared) / np.exp(compared).sum(-1, keepdims=True)
        sorted_probs.append(-np.sort(-probs, axis=-1))
    vocab_size = max(probs.shape[-1] for probs in sorted_probs)
    p, q = (np.pad(probs, ((0, 0), (0, vocab_size - probs.shape[-1]))) for probs in sorted_probs)
    return np.abs(p - q).sum() / size


@pytest.mark.parametrize("kind", ["random", "one-hot", "ties", "impossible"])
def test_uld_equals_the_official_rule_for_odd_logits(kind):
    random = np.random.default_rng(3)
    rows = [row for row in ROWS if row["student"]]
    shapes = [np.shape(logits)[1:] for logits in GOLDEN["logits"]]
    student, teacher = (random.normal(size=(len(rows), *shape)) * 3 for shape in shapes)
    if kind == "one-hot":
        student, teacher = (100.0 * (x == x.max(-1, keepdims=True)) for x in (student, teacher))
    if kind == "ties":
        student, teacher = np.round(student / 3), np.zeros_like(teacher)
    if kind == "impossible":
        teacher[..., 1:4] = -1e30
    objective = OBJECTIVES["uld"]()
    batch = batch_of([example(row, n, objective.alignment_rule) for n, row in enumerate(rows)])
    arguments = np.float32(student), np.float32(teacher), batch
    value, gradient = measure(objective, *arguments, among=of_equal_alignment(objective))
    expected = np.mean([official_uld(*one) for one in zip(student, teacher, rows, strict=True)])
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    assert np.isfinite(gradient).all()
    # No gradient before the last position of the prompt, and none after what is compared.
    np.testing.assert_array_equal(gradient[:, : PROMPT_LENGTH - 1], 0)
    for row, row_gradient in zip(rows, gradient, strict=True):
        size = min(len(row["student"]), len(row["teacher"]))
        np.testing.assert_array_equal(row_gradient[PROMPT_LENGTH - 1 + size :], 0)


def test_packing_and_shards_change_nothing():
    objectives = (
        OBJECTIVES["uld"](align="spans", average="groups"),
        OBJECTIVES["alm"](),
        OBJECTIVES["alm"](debias=1e-4),
    )
    (rule,) = {objective.alignment_rule for objective in objectives}
    rows = [row for row in ROWS if row["student"]]
    examples = [example(row, n, rule) for n, row in enumerate(rows)]
    tables = [np.random.default_rng(size).normal(size=(100, size)) for size in (7, 11)]

    def packed_means(batch, **options):
        # Logits depend on the token and its position alone, so packing must not matter.
        reads = batch, batch.alignment.teacher
        logits = [
            np.float32(table[read.tokens + 8 * read.positions])
            for table, read in zip(tables, reads, strict=True)
        ]
        return evaluate(objectives, *logits, batch, **options)

    unpacked = batch_of([*examples, examples[0]])
    packed = pack_sequence([*examples, examples[0]], 4 * LENGTH, has_teacher_view=True)
    packed = jax.tree.map(lambda array: array[None], packed)
    in_shards = packed_means(unpacked, num_shards=2)
    assert np.all(np.asarray(in_shards) > 0.01)
    np.testing.assert_allclose(packed_means(packed), in_shards, rtol=1e-5)


ALM = OBJECTIVES["alm"](temperature=2.0)
DEBIASED_ALM = {
    debias: OBJECTIVES["alm"](temperature=2.0, debias=debias) for debias in (1e-4, 0.5, 0.9)
}


def measure_alm(objective, *arguments):
    return measure(objective, *arguments, among=(ALM, *DEBIASED_ALM.values()))


def test_alm_of_a_span_of_several_tokens_equals_its_definition():
    row = {"student": [2, 4], "teacher": [1, 3, 4]}
    batch = batch_of([example(row, 0, ALM.alignment_rule)])
    student, teacher = golden_logits(1)
    span_log_probs = []
    for logits, tokens, size in ((student, TOKENS[0], 2), (teacher, TOKENS[1], 3)):
        log_probs = np.log(softmax(logits[0], axis=-1))
        span_log_probs.append(sum(float(log_probs[2 + n, tokens[0][3 + n]]) for n in range(size)))
    q, p = (np.exp(log_prob / 2) for log_prob in span_log_probs)
    expected = -(p * np.log(q) + (1 - p) * np.log1p(-q))
    value, gradient = measure_alm(ALM, student, teacher, batch)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    step = np.float32(1e-2)
    for position, token in ((2, 0), (3, 4)):  # the earlier token of the span, and its last
        moved = [student.copy(), student.copy()]
        moved[0][0, position, token] += step
        moved[1][0, position, token] -= step
        up, down = (measure_alm(ALM, logits, teacher, batch)[0] for logits in moved)
        np.testing.assert_allclose(
            gradient[0, position, token], (up - down) / (2 * step), rtol=2e-2
        )


def boundary_probability(logits, tables, position, softmax=jax.nn.softmax):
    """Probability at the position that white space or a special token comes next."""
    return softmax(logits[position])[tables.is_word_boundary].sum()


def dense_alm(models, spans, *, debias, tables=TABLES, temperature=2.0):
    """Sum debiased ALM over spans.

    Args:
        models: Logits of all positions and the label of each, of the student and the teacher.
        spans: For each span the student's positions, the teacher's, and whether a token follows.
        debias: Least teacher probability of a boundary that counts.
        tables: Vocabulary tables of both models.
        temperature: Temperature of the objective.
    """
    total = 0.0
    for *positions, is_followed in spans:
        likelihoods, boundaries = [], []
        for (logits, labels), own_tables, own in zip(models, tables, positions, strict=True):
            probs = jax.nn.softmax(logits)
            likelihood = jnp.prod(jnp.stack([probs[t, labels[t]] for t in own]))
            boundary = 1.0
            if is_followed:
                boundary = boundary_probability(logits, own_tables, own[-1] + 1)
            likelihoods.append((likelihood * boundary) ** (1 / temperature))
            boundaries.append(boundary)
        q, p = likelihoods
        cross_entropy = -(p * jnp.log(q) + (1 - p) * jnp.log1p(-q))
        total += jnp.where(boundaries[1] >= debias, cross_entropy, 0)
    return total


@jax.jit
def dense_alm_and_gradient(student, teacher, debias):
    """Sum debiased ALM of the spans of `test_debiased_alm_equals_its_definition`, by definition."""
    # Two tokens beside three, then one beside one; after that the teacher reads nothing.
    spans = [((2, 3), (2, 3, 4), True), ((4,), (5,), False)]
    labels = [np.array(tokens[0][1:]) for tokens in TOKENS]

    def dense(logits):
        models = (logits[0], labels[0]), (teacher[0], labels[1])
        return dense_alm(models, spans, debias=debias) / len(spans)

    return jax.value_and_grad(dense)(student)


@pytest.mark.parametrize("debias", DEBIASED_ALM)
def test_debiased_alm_equals_its_definition(debias):
    objective = DEBIASED_ALM[debias]
    row = {"student": [2, 4, 6], "teacher": [1, 3, 4, 6]}
    batch = batch_of([example(row, 0, objective.alignment_rule)])
    student, teacher = golden_logits(1)
    expected, expected_gradient = jax.device_get(dense_alm_and_gradient(student, teacher, debias))
    value, gradient = measure_alm(objective, student, teacher, batch)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-3, atol=1e-5)
    boundary = boundary_probability(teacher[0], TABLES[1], 5, softmax)
    is_left_out = bool((np.abs(expected_gradient[0, 2:4]) < 1e-7).all())
    assert is_left_out == (boundary < debias)


def test_debiased_alm_of_one_tokenizer_equals_its_definition():
    objective = DEBIASED_ALM[1e-4]
    row = tokenized(TOKENS[0][0], [2, 4, 6])
    sequence = pack_sequence([Example(row.tokens, row.loss_mask, 0, "row 0", 1)], LENGTH)
    vocab_size = len(TABLES[0].exact_match)
    student, teacher = np.random.default_rng(0).normal(size=(2, 1, LENGTH, vocab_size))
    spans = [((2,), (2,), True), ((3,), (3,), True), ((4,), (4,), False)]
    tables, batch = [TABLES[0], TABLES[0]], jax.tree.map(lambda array: array[None], sequence)

    @jax.jit
    def dense(student, teacher):
        models = (student[0], sequence.labels), (teacher[0], sequence.labels)
        return dense_alm(models, spans, debias=1e-4, tables=tables) / len(spans)

    arguments = np.float32(student), np.float32(teacher)
    value, _ = measure(objective, *arguments, batch, among=(objective,), tables=tables)
    np.testing.assert_allclose(value, dense(*arguments), rtol=1e-4)
