"""Held-out evaluation of a run: token metrics, scores per row, and prompts for samples."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool
from transformers import PreTrainedTokenizerBase

from jaxdistill import data, evals
from jaxdistill.model import Model
from jaxdistill.run import build
from jaxdistill.run.inspection import RunContext
from jaxdistill.train import SignalFunction
from jaxdistill.types import Params

_FALLBACK_PROMPT_TOKENS = 8
"""Number of first tokens that stand in for the prompt of a row without one."""

HeldoutEvaluator = Callable[[Params], evals.TokenMetrics]
"""`(student parameters) -> metrics of every scored held-out position`."""


def make_heldout_evaluator(
    context: RunContext, student: build.Student, teacher: Model | None
) -> HeldoutEvaluator | None:
    """Build the held-out evaluation of the student; None if no rows are held out.

    The teacher is evaluated beside the student if both read the same tokens.
    """
    inspection, examples = context.inspection, context.prepared.heldout
    if not examples:
        return None
    signal = build.make_teacher_signal(inspection) if inspection.teacher_view is None else None
    evaluate = _make_evaluator(context, student.signal, signal, examples)
    is_digit = _digit_token_mask(inspection.tokenizer, inspection.student_model.vocab_size)

    def evaluate_student(params: Params) -> evals.TokenMetrics:
        metrics = evaluate(params, teacher_params=None if teacher is None else teacher.params)
        return evals.add_digit_accuracy(metrics, is_digit)

    return evaluate_student


def _digit_token_mask(
    tokenizer: PreTrainedTokenizerBase, vocab_size: int
) -> Bool[np.ndarray, " V"]:
    """Return True for tokens that are digits only, after any symbol for a leading space."""
    is_digit = np.zeros(vocab_size, dtype=bool)
    vocabulary = tokenizer.get_vocab().items()
    is_digit[[i for token, i in vocabulary if token.lstrip("Ġ▁ ").isdecimal()]] = True
    return is_digit


def teacher_heldout_metrics(context: RunContext, teacher: Model) -> dict[str, float]:
    """Return the held-out bits per byte of a teacher with another tokenizer.

    Its metrics per token cannot be compared with the student's. Empty if the teacher does not read
    the same text as the student, because rows were truncated or cannot be read by both.
    """
    examples = context.prepared.heldout
    pairs = [(e, e.teacher_example) for e in examples if e.teacher_example is not None]
    is_same_text = all(e.num_bytes == view.num_bytes for e, view in pairs)
    if not pairs or len(pairs) < len(examples) or not is_same_text:
        return {}
    teacher_examples = [
        data.Example(view.tokens, view.loss_mask, e.row_id, e.source, view.num_bytes)
        for e, view in pairs
    ]
    signal = partial(teacher.language_model.signal, vocab_size=teacher.vocab_size)
    evaluate = _make_evaluator(context, signal, None, teacher_examples)
    metrics = summarize(evaluate(teacher.params), teacher_examples)
    return {"bits_per_byte": metrics["bits_per_byte"]}


def _make_evaluator(
    context: RunContext,
    student_signal: SignalFunction,
    teacher_signal: SignalFunction | None,
    examples: Sequence[data.Example],
) -> Callable[..., evals.TokenMetrics]:
    evaluator = evals.TokenEvaluator(
        student_signal=student_signal,
        teacher_signal=teacher_signal,
        mesh=context.inspection.mesh,
        chunk_size=context.config.train.chunk_rows,
    )

    def evaluate(params: Params, *, teacher_params: Params | None = None) -> evals.TokenMetrics:
        batches = context.ordered_batches(examples)
        return evaluator(params, batches, teacher_params=teacher_params)

    return evaluate


def summarize(metrics: evals.TokenMetrics, examples: Sequence[data.Example]) -> dict[str, float]:
    """Return the mean of each metric over the examples that it was measured on."""
    return evals.mean_metrics(metrics, num_bytes=sum(example.num_bytes for example in examples))


def example_scores(
    metrics: evals.TokenMetrics, examples: Sequence[data.Example]
) -> Iterator[dict[str, Any]]:
    """Yield source, UTF-8 bytes and summed metrics of each held-out row."""
    columns = evals.sum_by_example(metrics)
    by_id = {example.row_id: example for example in examples}
    for row in zip(*(column.tolist() for column in columns.values()), strict=True):
        values = dict(zip(columns, row, strict=True))
        example = by_id[values.pop("example_ids")]
        yield {"place": example.source, "num_bytes": example.num_bytes, **values}


@dataclass(frozen=True)
class SamplePrompt:
    """Prompt that both models complete for the report."""

    text: str
    """The prompt for people: of a chat the last message, without the chat template."""
    tokens: list[int]


def sample_prompts(
    prepared: data.PreparedData, student: Model, count: int, *, teacher: Model | None = None
) -> list[SamplePrompt]:
    """Return the first prompts of the held-out rows, or of the training rows if none are held out.

    A row without a prompt, or with a prompt that is too long, gives its first tokens. Prompts are
    in the student's tokens, as the examples, or in the teacher's if there is one.
    """
    examples = (prepared.heldout or prepared.train)[:count]
    by_id = {row.row_id: row for row in (*prepared.split.train, *prepared.split.heldout)}
    rows = [by_id[example.row_id] for example in examples]
    model = student if teacher is None else teacher
    model_rows = rows if teacher is None else [data.apply_teacher_prompt(row) for row in rows]
    prompt_tokens = data.prompt_tokens(model_rows, model.tokenizer)
    prompts = []
    for row, example in zip(rows, examples, strict=True):
        tokens, text = prompt_tokens.get(row.row_id, []), data.readable_prompt(row)
        if not 0 < len(tokens) <= model.language_model.max_positions:
            tokens = example.tokens[:_FALLBACK_PROMPT_TOKENS].tolist()
            text = student.decode([tokens])[0]
            if model.tokenizer is not student.tokenizer:
                tokens = model.tokenizer.encode(text)
        prompts.append(SamplePrompt(text or student.decode([tokens])[0], tokens))
    return prompts
