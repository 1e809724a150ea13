"""What is measured of a student on the held-out rows of its run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxdistill import data, evals
from jaxdistill.model import Model
from jaxdistill.run import assemble
from jaxdistill.run.check import Inspection
from jaxdistill.run.config import RunConfig
from jaxdistill.sharding import num_batch_shards
from jaxdistill.types import Params

_BEGINNING_TOKENS = 8
"""How much of a row is given where it asks nothing."""

Measure = Callable[[Params], dict[str, float]]
"""The student's parameters in, `nll`, `forward_kl` and the like out."""


def heldout(
    config: RunConfig,
    inspection: Inspection,
    student: assemble.Student,
    teacher: Model | None,
    examples: Sequence[data.Example],
) -> Measure | None:
    """Likelihood and agreement on the held-out rows; None where there are none."""
    if not examples:
        return None
    evaluation = evals.Evaluation(
        forward=student.forward,
        head=student.head,
        teacher=assemble.teacher_signal(inspection),
        mesh=inspection.mesh,
        chunk_rows=config.train.chunk_rows,
    )
    shards = num_batch_shards(inspection.mesh)
    num_bytes = sum(example.num_bytes for example in examples)

    def measure(params: Params) -> dict[str, float]:
        batches = data.ordered_batches(
            examples,
            length=config.data.length,
            batch_size=-(-min(config.evaluation.batch_size, len(examples)) // shards) * shards,
        )
        teacher_params = None if teacher is None else teacher.params
        return evaluation(params, batches, num_bytes=num_bytes, teacher_params=teacher_params)

    return measure


@dataclass(frozen=True)
class Question:
    """What both models are asked to continue.

    Attributes:
        text: As a person reads it: a chat's last message, without the template around it.
        tokens: As a model reads it.
    """

    text: str
    tokens: list[int]


def questions(prepared: data.Prepared, model: Model, count: int) -> list[Question]:
    """The first prompts of the held-out rows, or of the others where none are held out.

    A row that asks nothing, or more than the model reads, gives its beginning.
    """
    examples = (prepared.heldout or prepared.train)[:count]
    by_id = {row.row_id: row for row in (*prepared.rows.train, *prepared.rows.heldout)}
    rows = [by_id[example.row_id] for example in examples]
    prompts = data.prompt_tokens(rows, model.tokenizer)
    found = []
    for row, example in zip(rows, examples, strict=True):
        tokens, text = prompts.get(row.row_id, []), data.asked(row)
        if not 0 < len(tokens) <= model.config.max_positions:
            tokens, text = example.tokens[:_BEGINNING_TOKENS].tolist(), ""
        found.append(Question(text or model.decode([tokens])[0], tokens))
    return found


def prefixed(values: Mapping[str, float]) -> dict[str, float]:
    """Names as they stand in the record: `eval/forward_kl`."""
    return {f"eval/{name}": value for name, value in values.items()}
