"""MultiLevelOT: whole answers are compared, in the columns that are likeliest all through them.

Cui et al., "Multi-Level Optimal Transport for Universal Cross-Tokenizer Knowledge Distillation on
Language Models", 2025, https://arxiv.org/abs/2412.14528.
"""

from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int
from pydantic import Field

from jaxdistill import losses
from jaxdistill.align import Alignment
from jaxdistill.config import configclass
from jaxdistill.objectives.likely import likely_probs
from jaxdistill.objectives.pair import beside, grouped
from jaxdistill.objectives.wall import CHUNK_ROWS
from jaxdistill.objectives.weight import Weight
from jaxdistill.types import Batch, Signal

_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@configclass
class MultiLevelOT:
    """L_HAD + β L_SL + γ L_SD of each answer, whatever words its columns stand for.

    L_HAD and L_SL are means over the answer's places, the n-th beside the n-th up to the shorter
    one's end; L_SD is what it costs to move all that is learned of the teacher's answer to all of
    the student's. None of them sees which words are likely: `cross_entropy` belongs beside it.

    The formulas and their numbers are those of the authors' code, where L_SL and L_SD are of
    probabilities that went through another softmax. Four things are otherwise. An answer orders its
    columns by its own sums, and not by those of the batch that it happens to be in; padding is no
    place; L_SD is a mean over answers like the others, and not their sum; and what the code
    multiplies all by, the paper's α of 1.5, is `weight`.

    Args:
        weight: What the sum is multiplied by in the loss: a number, or points `[[step, weight],
            ...]` with straight lines between them.
        k: How many columns, the likeliest first.
        beta: The weight of the logarithmic cost.
        gamma: The weight of the Sinkhorn distance, which grows with an answer's length.
        epsilon: How much its plan is smoothed.
        num_iterations: How often its plan's rows and columns are scaled.
    """

    type: Literal["multi_level_ot"] = "multi_level_ot"
    weight: Weight = 1.0
    k: Annotated[int, Field(gt=0)] = 50
    beta: _Amount = 0.1
    gamma: _Amount = 1e-4
    epsilon: _Positive = 0.1
    num_iterations: Annotated[int, Field(gt=0)] = 10

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits"})

    @property
    def alignment(self) -> Alignment:
        """The n-th token of one answer with the n-th of the other."""
        return Alignment("positions")

    def count(self, batch: Batch) -> Float32[Array, ""]:
        """How many answers `sums` is a sum over: those of which any places are compared."""
        return jnp.sum(_shares(_read(batch)))

    def sums(
        self,
        own_params: Any,
        student: Signal,
        teacher: Signal,
        batch: Batch,
        *,
        num_groups: int,
        chunk_rows: int = CHUNK_ROWS,
    ) -> Float32[Array, ""]:
        """The loss of all answers, added up. Gradients reach the student's hidden states and head.

        Args:
            own_params: What it learns itself: nothing.
            student: What it says of every place.
            teacher: What it says of every place that it reads.
            batch: Says which places are learned, in which answers, and which are compared.
            num_groups: How many devices hold a piece of the batch.
            chunk_rows: Places of each piece that are projected at a time.
        """
        del own_params
        read = _read(batch)
        other = read if read.pairing is None else read.pairing.teacher
        shares = _shares(read)
        in_answers = (read.loss_mask > 0) & (_of_segments(shares, read) > 0)
        of = partial(self._probs, num_groups=num_groups, chunk_rows=chunk_rows)
        q = of(student, read, in_answers)
        p = of(jax.lax.stop_gradient(teacher), other, other.loss_mask > 0)
        width = max(p.shape[-1], q.shape[-1])
        p, q = (jnp.pad(x, ((0, 0), (0, 0), (0, width - x.shape[-1]))) for x in (p, q))

        met = p if read.pairing is None else beside(p, read.pairing)
        of_places = losses.absolute_difference(met, q) + self.beta * losses.logarithmic_cost(met, q)
        sides = p, q, _answers(other, other.loss_mask > 0), _answers(read, in_answers)
        return jnp.sum(shares * of_places) + self.gamma * self._moved(sides, num_groups)

    def _moved(self, sides: Any, num_groups: int) -> Float32[Array, ""]:
        """What it costs to move the teacher's places to the student's, in all sequences."""

        # A sequence after the other on each device: a plan is as large as attention's scores.
        @jax.checkpoint
        def of_sequence(arrays: Any) -> Float32[Array, " T"]:
            p, q, left, right = arrays
            is_pair = (left[:, None] == right[None, :]) & (right > 0)[None, :]
            return losses.transport_of_places(
                p, q, is_pair, epsilon=self.epsilon, num_iterations=self.num_iterations
            )

        groups = jax.tree.map(lambda a: a.reshape(num_groups, -1, *a.shape[1:]), sides)
        return jnp.sum(jax.vmap(partial(jax.lax.map, of_sequence))(groups))

    def _probs(
        self,
        signal: Signal,
        side: Any,
        is_asked: Bool[Array, "B T"],
        *,
        num_groups: int,
        chunk_rows: int,
    ) -> Float32[Array, "B T N"]:
        """How likely each answer's likeliest columns are at its places."""
        begins = jnp.diff(side.segment_ids, axis=1, prepend=-1) != 0
        hidden, begins, asked = (
            grouped(array, num_groups) for array in (signal.hidden, begins, is_asked)
        )
        answers = jnp.cumsum(begins, axis=1) - 1
        found = likely_probs(hidden, answers, asked, signal.head, k=self.k, chunk_rows=chunk_rows)
        return found.reshape(*is_asked.shape, -1)


def _read(batch: Batch) -> Any:
    """Of whatever kind its arrays were."""
    return jax.tree.map(jnp.asarray, batch)


def _shares(read: Any) -> Float32[Array, "B T"]:
    """The share of each place in the mean over its answer; 0 where nothing is compared."""
    weight = read.loss_mask if read.pairing is None else read.pairing.weight
    total = _of_segments(weight, read)
    return weight / jnp.where(total > 0, total, 1)


def _of_segments(values: Float32[Array, "B T"], read: Any) -> Float32[Array, "B T"]:
    """The sum over each place's segment."""
    add = partial(jax.ops.segment_sum, num_segments=values.shape[1] + 1)
    sums = jax.vmap(add)(values, read.segment_ids)
    return jnp.take_along_axis(sums, read.segment_ids, axis=1)


def _answers(side: Any, is_learned: Bool[Array, "B T"]) -> Int[Array, "B T"]:
    """The answer that each place is part of; 0 for none."""
    return jnp.where(is_learned, side.segment_ids, 0)
