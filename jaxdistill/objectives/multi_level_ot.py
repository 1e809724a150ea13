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
from jaxdistill.align import AlignmentRule
from jaxdistill.config import configclass
from jaxdistill.objectives.alignment import gather_teacher, split_shards
from jaxdistill.objectives.base import OBJECTIVES
from jaxdistill.objectives.batch_objective import BatchObjective, VocabEngine
from jaxdistill.objectives.sequence_top_k import sequence_top_k_probs
from jaxdistill.types import Batch, HiddenSignal, Params

_NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@OBJECTIVES.register
@configclass
class MultiLevelOT(BatchObjective):
    """L_HAD + β L_SL + γ L_SD of each answer, whatever words its columns stand for.

    L_HAD and L_SL are means over the answer's places, the n-th beside the n-th up to the shorter
    one's end; L_SD is what it costs to move all that is learned of the teacher's answer to all of
    the student's. None of them sees which words are likely: `cross_entropy` belongs beside it.

    The formulas and their numbers are those of the authors' code, where L_SL and L_SD are of
    probabilities that went through another softmax. Four things are otherwise. An answer orders its
    columns by its own sums, and not by those of the batch that it happens to be in; padding is no
    place; L_SD is a mean over answers like the others, and not their sum; and what the code
    multiplies all by, the authors' α of 1.5, is `weight`.

    Args:
        k: How many columns, the likeliest first.
        beta: The weight of the logarithmic cost.
        gamma: The weight of the Sinkhorn distance, which grows with an answer's length.
        epsilon: How much its plan is smoothed.
        num_iterations: How often its plan's rows and columns are scaled.
    """

    type: Literal["multi_level_ot"] = "multi_level_ot"
    k: Annotated[int, Field(gt=0)] = 50
    beta: _NonNegative = 0.1
    gamma: _NonNegative = 1e-4
    epsilon: _Positive = 0.1
    num_iterations: Annotated[int, Field(gt=0)] = 10

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits"})
    term_names: ClassVar[tuple[str, ...]] = ("absolute", "logarithmic", "transport")

    @property
    def alignment_rule(self) -> AlignmentRule:
        """The n-th token of one answer with the n-th of the other."""
        return AlignmentRule("positions")

    def denominators(self, batch: Batch) -> dict[str, Float32[Array, ""]]:
        """How many answers the sums are of: those of which any places are compared."""
        return dict.fromkeys(self.term_names, jnp.sum(_position_weights(_as_jax_arrays(batch))))

    def sums(
        self,
        modules: Params,
        student: HiddenSignal,
        teacher: HiddenSignal,
        batch: Batch,
        engine: VocabEngine,
    ) -> dict[str, Float32[Array, ""]]:
        """The three costs of all answers, each added up and weighted.

        Gradients reach the student's hidden states and head.
        """
        del modules
        read = _as_jax_arrays(batch)
        other = read if read.pairing is None else read.pairing.teacher
        shares = _position_weights(read)
        in_answers = (read.loss_mask > 0) & (_segment_sums(shares, read) > 0)
        of = partial(self._top_k_probs, num_shards=engine.num_shards, chunk_size=engine.chunk_size)
        q = of(student, read, in_answers)
        p = of(jax.lax.stop_gradient(teacher), other, other.loss_mask > 0)
        width = max(p.shape[-1], q.shape[-1])
        p, q = (jnp.pad(x, ((0, 0), (0, 0), (0, width - x.shape[-1]))) for x in (p, q))

        met = p if read.pairing is None else gather_teacher(p, read.pairing)
        sides = p, q, _completion_ids(other, other.loss_mask > 0), _completion_ids(read, in_answers)
        found = (
            jnp.sum(shares * losses.holistic_absolute_difference(met, q)),
            self.beta * jnp.sum(shares * losses.sequential_logarithmic_cost(met, q)),
            self.gamma * self._transport_loss(sides, engine.num_shards),
        )
        return dict(zip(self.term_names, found, strict=True))

    def _transport_loss(self, inputs: Any, num_shards: int) -> Float32[Array, ""]:
        """What it costs to move the teacher's places to the student's, in all sequences."""

        # A sequence after the other on each device: a plan is as large as attention's scores.
        @jax.checkpoint
        def of_sequence(arrays: Any) -> Float32[Array, " T"]:
            p, q, left, right = arrays
            is_pair = (left[:, None] == right[None, :]) & (right > 0)[None, :]
            return losses.sinkhorn_distance(
                p, q, is_pair, epsilon=self.epsilon, num_iterations=self.num_iterations
            )

        groups = jax.tree.map(lambda a: a.reshape(num_shards, -1, *a.shape[1:]), inputs)
        return jnp.sum(jax.vmap(partial(jax.lax.map, of_sequence))(groups))

    def _top_k_probs(
        self,
        signal: HiddenSignal,
        batch: Any,
        is_selected: Bool[Array, "B T"],
        *,
        num_shards: int,
        chunk_size: int,
    ) -> Float32[Array, "B T N"]:
        """How likely each answer's likeliest columns are at its places."""
        begins = jnp.diff(batch.segment_ids, axis=1, prepend=-1) != 0
        hidden, begins, asked = (
            split_shards(array, num_shards) for array in (signal.hidden, begins, is_selected)
        )
        answers = jnp.cumsum(begins, axis=1) - 1
        found = sequence_top_k_probs(
            hidden, answers, asked, signal.lm_head, k=self.k, chunk_size=chunk_size
        )
        return found.reshape(*is_selected.shape, -1)


def _as_jax_arrays(batch: Batch) -> Any:
    """Of whatever kind its arrays were."""
    return jax.tree.map(jnp.asarray, batch)


def _position_weights(batch: Any) -> Float32[Array, "B T"]:
    """The share of each place in the mean over its answer; 0 where nothing is compared."""
    weight = batch.loss_mask if batch.pairing is None else batch.pairing.weight
    total = _segment_sums(weight, batch)
    return weight / jnp.where(total > 0, total, 1)


def _segment_sums(values: Float32[Array, "B T"], batch: Any) -> Float32[Array, "B T"]:
    """The sum over each place's segment."""
    add = partial(jax.ops.segment_sum, num_segments=values.shape[1] + 1)
    sums = jax.vmap(add)(values, batch.segment_ids)
    return jnp.take_along_axis(sums, batch.segment_ids, axis=1)


def _completion_ids(batch: Any, is_scored: Bool[Array, "B T"]) -> Int[Array, "B T"]:
    """The answer that each place is part of; 0 for none."""
    return jnp.where(is_scored, batch.segment_ids, 0)
