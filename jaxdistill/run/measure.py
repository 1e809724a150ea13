"""What is measured of a student on the held-out rows of its run."""

from collections.abc import Callable, Mapping, Sequence

from jaxdistill import data, evals
from jaxdistill.model import Model
from jaxdistill.run import assemble
from jaxdistill.run.check import Inspection
from jaxdistill.run.config import RunConfig
from jaxdistill.sharding import num_batch_shards
from jaxdistill.types import Params

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
            batch_size=-(-config.evaluation.batch_size // shards) * shards,
        )
        teacher_params = None if teacher is None else teacher.params
        return evaluation(params, batches, num_bytes=num_bytes, teacher_params=teacher_params)

    return measure


def prompt_of(example: data.Example) -> list[int]:
    """The tokens before the first one that is learned."""
    return example.tokens[: int(example.loss_mask.argmax())].tolist()


def prefixed(values: Mapping[str, float]) -> dict[str, float]:
    """Names as they stand in the record: `eval/forward_kl`."""
    return {f"eval/{name}": value for name, value in values.items()}
