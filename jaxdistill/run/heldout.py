"""What is measured of a student on the held-out rows of its run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from transformers import PreTrainedTokenizerBase

from jaxdistill import data, evals
from jaxdistill.model import Model
from jaxdistill.models import forward_batch, lm_head
from jaxdistill.run import build
from jaxdistill.run.check import Inspection
from jaxdistill.run.config import RunConfig
from jaxdistill.sharding import num_batch_shards
from jaxdistill.types import Batch, LMHead, ModelOutput, Params

_FALLBACK_PROMPT_TOKENS = 8
"""How much of a row is given where it asks nothing."""

HeldoutEvaluator = Callable[[Params], evals.TokenMetrics]
"""The student's parameters in, `nll`, `forward_kl` and the like of every held-out place out."""


def make_heldout_evaluator(
    config: RunConfig,
    inspection: Inspection,
    student: build.Student,
    teacher: Model | None,
    examples: Sequence[data.Example],
) -> HeldoutEvaluator | None:
    """What a student says of every held-out place; None where there are none.

    A teacher is measured beside it where both read the same tokens.
    """
    if not examples:
        return None
    is_beside = inspection.teacher_view is None
    signal = build.make_teacher_signal(inspection) if is_beside else None
    read = _make_evaluator(config, inspection, student.forward, student.lm_head, signal, examples)
    is_digit = _digit_token_mask(inspection.tokenizer, inspection.student_config.vocab_size)

    def measure(params: Params) -> evals.TokenMetrics:
        places = read(params, teacher_params=None if teacher is None else teacher.params)
        return evals.add_digit_accuracy(places, is_digit)

    return measure


def _digit_token_mask(
    tokenizer: PreTrainedTokenizerBase, vocab_size: int
) -> Bool[np.ndarray, " V"]:
    """Which words are of digits alone, whatever letter stands for a space before them."""
    is_digit = np.zeros(vocab_size, dtype=bool)
    words = tokenizer.get_vocab().items()
    numbers = [number for word, number in words if word.lstrip("Ġ▁ ").isdecimal()]
    is_digit[numbers] = True
    return is_digit


def teacher_heldout_metrics(
    config: RunConfig, inspection: Inspection, teacher: Model, examples: Sequence[data.Example]
) -> dict[str, float]:
    """How likely a teacher finds what is held out, by the bytes.

    Its own tokens are others than the student's, so nothing is said of a token; and nothing at all
    where it does not read the same text, because rows are cut or cannot be read by both.
    """
    pairs = [(one, one.teacher_example) for one in examples if one.teacher_example is not None]
    is_same = [one.num_bytes == other.num_bytes for one, other in pairs]
    if not pairs or len(pairs) < len(examples) or not all(is_same):
        return {}
    theirs = [
        data.Example(other.tokens, other.loss_mask, one.row_id, one.source, other.num_bytes)
        for one, other in pairs
    ]

    def hidden(params: Params, batch: Batch) -> ModelOutput:
        return forward_batch(teacher.config, params, batch)

    def unembedding(params: Params) -> LMHead:
        return lm_head(teacher.config, params, vocab_size=teacher.vocab_size)

    read = _make_evaluator(config, inspection, hidden, unembedding, None, theirs)
    return {"bits_per_byte": summarize(read(teacher.params), theirs)["bits_per_byte"]}


def _make_evaluator(
    config: RunConfig,
    inspection: Inspection,
    forward: Callable[[Params, Batch], ModelOutput],
    lm_head: Callable[[Params], LMHead],
    teacher_signal: Any,
    examples: Sequence[data.Example],
) -> Callable[..., evals.TokenMetrics]:
    evaluation = evals.TokenEvaluator(
        forward=forward,
        lm_head=lm_head,
        teacher_signal=teacher_signal,
        mesh=inspection.mesh,
        chunk_size=config.train.chunk_rows,
    )
    shards = num_batch_shards(inspection.mesh)
    batch_size = -(-min(config.evaluation.batch_size, len(examples)) // shards) * shards

    def read(params: Params, *, teacher_params: Params | None = None) -> evals.TokenMetrics:
        batches = data.ordered_batches(examples, length=config.data.length, batch_size=batch_size)
        return evaluation(params, batches, teacher_params=teacher_params)

    return read


def summarize(metrics: evals.TokenMetrics, examples: Sequence[data.Example]) -> dict[str, float]:
    """Likelihood and agreement on the held-out rows."""
    return evals.mean_metrics(metrics, num_bytes=sum(example.num_bytes for example in examples))


def example_scores(
    metrics: evals.TokenMetrics, examples: Sequence[data.Example]
) -> Iterator[dict[str, Any]]:
    """For each held-out row where it stands, its size, and the sums of what was measured."""
    columns = evals.sum_by_example(metrics)
    by_id = {example.row_id: example for example in examples}
    for row in zip(*(column.tolist() for column in columns.values()), strict=True):
        values = dict(zip(columns, row, strict=True))
        example = by_id[values.pop("example_ids")]
        yield {"place": example.source, "num_bytes": example.num_bytes, **values}


@dataclass(frozen=True)
class SamplePrompt:
    """What both models are asked to continue.

    Attributes:
        text: As a person reads it: a chat's last message, without the template around it.
        tokens: As a model reads it.
    """

    text: str
    tokens: list[int]


def sample_prompts(
    prepared: data.PreparedData, student: Model, count: int, *, teacher: Model | None = None
) -> list[SamplePrompt]:
    """The first prompts of the held-out rows, or of the others where none are held out.

    A row that asks nothing, or more than the model reads, gives its beginning.

    Args:
        prepared: The rows.
        student: Whose tokens they are in.
        count: How many prompts.
        reader: The teacher where that is asked; None for the student.
    """
    examples = (prepared.heldout or prepared.train)[:count]
    by_id = {row.row_id: row for row in (*prepared.split.train, *prepared.split.heldout)}
    rows = [by_id[example.row_id] for example in examples]
    is_student, teacher = teacher is None, teacher or student
    asking = rows if is_student else [data.apply_teacher_prompt(row) for row in rows]
    prompts = data.prompt_tokens(asking, teacher.tokenizer)
    found = []
    for row, example in zip(rows, examples, strict=True):
        tokens, text = prompts.get(row.row_id, []), data.readable_prompt(row)
        if not 0 < len(tokens) <= teacher.config.max_positions:
            tokens = example.tokens[:_FALLBACK_PROMPT_TOKENS].tolist()
            text = student.decode([tokens])[0]
            if teacher.tokenizer is not student.tokenizer:
                tokens = teacher.tokenizer.encode(text)
        found.append(SamplePrompt(text or student.decode([tokens])[0], tokens))
    return found


def add_eval_prefix(values: Mapping[str, float]) -> dict[str, float]:
    """Names as they stand in the record: `eval/forward_kl`."""
    return {f"eval/{name}": value for name, value in values.items()}
