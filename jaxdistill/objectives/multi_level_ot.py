"""MultiLevelOT: compare whole completions over their likeliest tokens, by optimal transport.

Cui et al., "Multi-Level Optimal Transport for Universal Cross-Tokenizer Knowledge Distillation on
Language Models", 2025, https://arxiv.org/abs/2412.14528.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32
from pydantic import Field

from jaxdistill.align import AlignmentRule
from jaxdistill.config import configclass
from jaxdistill.losses import multi_level_ot as costs
from jaxdistill.objectives.alignment import gather_teacher, split_shards
from jaxdistill.objectives.base import OBJECTIVES, LossContext, LossTerm, Objective, Positive
from jaxdistill.objectives.completion_top_k import completion_top_k_probs
from jaxdistill.objectives.needs import TEACHER_LOGITS, Needs
from jaxdistill.objectives.weight_schedule import NonNegative
from jaxdistill.objectives.weights import (
    as_jax_arrays,
    example_mean_weight,
    segment_sums,
    teacher_batch,
)
from jaxdistill.types import Batch, HiddenSignal


@OBJECTIVES.register
@configclass
class MultiLevelOT(Objective):
    """L_HAD + β L_SL + γ L_SD of each completion, over its k likeliest tokens on each side.

    L_HAD (absolute difference) and L_SL (logarithmic cost) are means over a completion's positions,
    the n-th beside the n-th up to the end of the shorter side. L_SD is the Sinkhorn distance from
    all scored positions of the teacher's completion to those of the student's. With two tokenizers
    L_HAD and L_SL leave out the special token that ends a completion. None compares which tokens
    are likely: combine it with `cross_entropy`.

    Formulas and numbers are those of the authors' code, where L_SL and L_SD apply a second softmax
    to the probabilities. Four things differ. Each completion sorts tokens by its own sums, not by
    those of its batch; padding is no position; L_SD is a mean over completions like the others, not
    a sum; and the authors' factor α = 1.5 of the whole is `weight`.

    Attributes:
        k: Number of likeliest tokens.
        beta: Weight of the logarithmic cost.
        gamma: Weight of the Sinkhorn distance, which grows with the length of a completion.
        epsilon: Strength of the entropic smoothing of its transport plan.
        num_iterations: How often rows and columns of its plan are scaled.
    """

    type: Literal["multi_level_ot"] = "multi_level_ot"
    k: Annotated[int, Field(gt=0)] = 50
    beta: NonNegative = 0.1
    gamma: NonNegative = 1e-4
    epsilon: Positive = 0.1
    num_iterations: Annotated[int, Field(gt=0)] = 10

    needs: ClassVar[Needs] = Needs(teacher=TEACHER_LOGITS)
    term_names: ClassVar[tuple[str, ...]] = ("absolute", "logarithmic", "transport")
    alignment: ClassVar[AlignmentRule] = AlignmentRule("positions")

    def denominators(self, batch: Batch) -> Mapping[str, Float32[Array, ""]]:
        """Return the number of completions with a position that is compared."""
        count = jnp.sum(example_mean_weight(as_jax_arrays(batch)))
        return dict.fromkeys(self.term_names, count)

    def terms(self, context: LossContext) -> Mapping[str, LossTerm]:
        """Compute the sum of each cost over all completions, weighted.

        Gradients reach the student's hidden states and LM head.
        """
        teacher, batch = context.teacher, as_jax_arrays(context.batch)
        assert teacher is not None, "needs logits of the teacher"
        read = teacher_batch(batch)
        is_scored = jnp.asarray(read.loss_mask) > 0
        weights = example_mean_weight(batch)
        is_compared = (jnp.asarray(batch.loss_mask) > 0) & (segment_sums(weights, batch) > 0)
        q = self._top_k_probs(context, context.student, batch, is_compared)
        p = self._top_k_probs(context, jax.lax.stop_gradient(teacher), read, is_scored)
        size = max(p.shape[-1], q.shape[-1])
        p, q = (jnp.pad(x, ((0, 0), (0, 0), (0, size - x.shape[-1]))) for x in (p, q))

        aligned_p = p if batch.alignment is None else gather_teacher(p, batch.alignment)
        completion_ids = (
            jnp.where(is_selected, jnp.asarray(one.segment_ids), 0)
            for one, is_selected in ((read, is_scored), (batch, is_compared))
        )
        inputs = p, q, *completion_ids
        sums = (
            jnp.sum(weights * costs.holistic_absolute_difference(aligned_p, q)),
            self.beta * jnp.sum(weights * costs.sequential_logarithmic_cost(aligned_p, q)),
            self.gamma * self._transport_loss(inputs, context.num_shards),
        )
        return dict(zip(self.term_names, sums, strict=True))

    def _transport_loss(self, inputs: tuple[Array, ...], num_shards: int) -> Float32[Array, ""]:
        """Sum the Sinkhorn distances of all completions.

        `inputs` are the top-k probabilities of teacher and student `[B, T, N]`, and the completion
        of each position `[B, T]`; 0 for none.
        """

        # One sequence at a time on each device: a plan is as large as attention scores.
        @jax.checkpoint
        def sequence_distance(inputs: tuple[Array, ...]) -> Float32[Array, " T"]:
            p, q, teacher_ids, student_ids = inputs
            is_pair = (teacher_ids[:, None] == student_ids[None, :]) & (student_ids > 0)[None, :]
            return costs.sinkhorn_distance(
                p, q, is_pair, epsilon=self.epsilon, num_iterations=self.num_iterations
            )

        shards = jax.tree.map(lambda a: a.reshape(num_shards, -1, *a.shape[1:]), inputs)
        return jnp.sum(jax.vmap(partial(jax.lax.map, sequence_distance))(shards))

    def _top_k_probs(
        self,
        context: LossContext,
        signal: HiddenSignal,
        batch: Batch,
        is_selected: Bool[Array, "B T"],
    ) -> Float32[Array, "B T N"]:
        """Compute the probabilities of each completion's likeliest tokens at its positions."""
        is_start = jnp.diff(jnp.asarray(batch.segment_ids), axis=1, prepend=-1) != 0
        hidden, is_start, selected = (
            split_shards(array, context.num_shards)
            for array in (signal.hidden, is_start, is_selected)
        )
        columns = hidden, jnp.cumsum(is_start, axis=1) - 1, selected
        probs = completion_top_k_probs(
            *columns, signal.lm_head, k=self.k, chunk_size=context.chunk_size
        )
        return probs.reshape(*is_selected.shape, -1)
