"""What is measured of a student on the held-out rows of its run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from transformers import PreTrainedTokenizerBase

from jaxdistill import data, evals
from jaxdistill.model import Model
from jaxdistill.models import forward_batch, head
from jaxdistill.run import assemble
from jaxdistill.run.check import Inspection
from jaxdistill.run.config import RunConfig
from jaxdistill.sharding import num_batch_shards
from jaxdistill.types import Batch, Head, Output, Params

_BEGINNING_TOKENS = 8
"""How much of a row is given where it asks nothing."""

Measure = Callable[[Params], evals.Places]
"""The student's parameters in, `nll`, `forward_kl` and the like of every held-out place out."""


def heldout(
    config: RunConfig,
    inspection: Inspection,
    student: assemble.Student,
    teacher: Model | None,
    examples: Sequence[data.Example],
) -> Measure | None:
    """What a student says of every held-out place; None where there are none.

    A teacher is measured beside it where both read the same tokens.
    """
    if not examples:
        return None
    is_beside = inspection.beside is None
    signal = assemble.teacher_signal(inspection) if is_beside else None
    read = _reader(config, inspection, student.forward, student.head, signal, examples)
    is_digit = _digits(inspection.tokenizer, inspection.student_config.vocab_size)

    def measure(params: Params) -> evals.Places:
        places = read(params, teacher_params=None if teacher is None else teacher.params)
        return evals.with_digits(places, is_digit)

    return measure


def _digits(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Bool[np.ndarray, " V"]:
    """Which words are of digits alone, whatever letter stands for a space before them."""
    is_digit = np.zeros(vocab_size, dtype=bool)
    words = tokenizer.get_vocab().items()
    numbers = [number for word, number in words if word.lstrip("Ġ▁ ").isdecimal()]
    is_digit[numbers] = True
    return is_digit


def teacher_heldout(
    config: RunConfig, inspection: Inspection, teacher: Model, examples: Sequence[data.Example]
) -> dict[str, float]:
    """How likely a teacher finds what is held out, by the bytes.

    Its own tokens are others than the student's, so nothing is said of a token; and nothing at all
    where it does not read the same text, because rows are cut or cannot be read by both.
    """
    pairs = [(one, one.counterpart) for one in examples if one.counterpart is not None]
    is_same = [one.num_bytes == other.num_bytes for one, other in pairs]
    if not pairs or len(pairs) < len(examples) or not all(is_same):
        return {}
    theirs = [
        data.Example(other.tokens, other.loss_mask, one.row_id, one.place, other.num_bytes)
        for one, other in pairs
    ]

    def hidden(params: Params, batch: Batch) -> Output:
        return forward_batch(teacher.config, params, batch)

    def unembedding(params: Params) -> Head:
        return head(teacher.config, params, vocab_size=teacher.vocab_size)

    read = _reader(config, inspection, hidden, unembedding, None, theirs)
    return {"bits_per_byte": summary(read(teacher.params), theirs)["bits_per_byte"]}


def _reader(
    config: RunConfig,
    inspection: Inspection,
    forward: Callable[[Params, Batch], Output],
    unembedding: Callable[[Params], Head],
    signal: Any,
    examples: Sequence[data.Example],
) -> Callable[..., evals.Places]:
    evaluation = evals.Evaluation(
        forward=forward,
        head=unembedding,
        teacher=signal,
        mesh=inspection.mesh,
        chunk_rows=config.train.chunk_rows,
    )
    shards = num_batch_shards(inspection.mesh)
    batch_size = -(-min(config.evaluation.batch_size, len(examples)) // shards) * shards

    def read(params: Params, *, teacher_params: Params | None = None) -> evals.Places:
        batches = data.ordered_batches(examples, length=config.data.length, batch_size=batch_size)
        return evaluation(params, batches, teacher_params=teacher_params)

    return read


def summary(places: evals.Places, examples: Sequence[data.Example]) -> dict[str, float]:
    """Likelihood and agreement on the held-out rows."""
    return evals.summary(places, num_bytes=sum(example.num_bytes for example in examples))


def row_lines(places: evals.Places, examples: Sequence[data.Example]) -> Iterator[dict[str, Any]]:
    """For each held-out row where it stands, its size, and the sums of what was measured."""
    columns = evals.by_row(places)
    by_id = {example.row_id: example for example in examples}
    for row in zip(*(column.tolist() for column in columns.values()), strict=True):
        values = dict(zip(columns, row, strict=True))
        example = by_id[values.pop("row_ids")]
        yield {"place": example.place, "num_bytes": example.num_bytes, **values}


@dataclass(frozen=True)
class Question:
    """What both models are asked to continue.

    Attributes:
        text: As a person reads it: a chat's last message, without the template around it.
        tokens: As a model reads it.
    """

    text: str
    tokens: list[int]


def questions(
    prepared: data.Prepared, student: Model, count: int, *, reader: Model | None = None
) -> list[Question]:
    """The first prompts of the held-out rows, or of the others where none are held out.

    A row that asks nothing, or more than the model reads, gives its beginning.

    Args:
        prepared: The rows.
        student: Whose tokens they are in.
        count: How many prompts.
        reader: The teacher where that is asked; None for the student.
    """
    examples = (prepared.heldout or prepared.train)[:count]
    by_id = {row.row_id: row for row in (*prepared.rows.train, *prepared.rows.heldout)}
    rows = [by_id[example.row_id] for example in examples]
    is_student, reader = reader is None, reader or student
    asking = rows if is_student else [data.for_teacher(row) for row in rows]
    prompts = data.prompt_tokens(asking, reader.tokenizer)
    found = []
    for row, example in zip(rows, examples, strict=True):
        tokens, text = prompts.get(row.row_id, []), data.asked(row)
        if not 0 < len(tokens) <= reader.config.max_positions:
            tokens = example.tokens[:_BEGINNING_TOKENS].tolist()
            text = student.decode([tokens])[0]
            if reader.tokenizer is not student.tokenizer:
                tokens = reader.tokenizer.encode(text)
        found.append(Question(text or student.decode([tokens])[0], tokens))
    return found


def prefixed(values: Mapping[str, float]) -> dict[str, float]:
    """Names as they stand in the record: `eval/forward_kl`."""
    return {f"eval/{name}": value for name, value in values.items()}
