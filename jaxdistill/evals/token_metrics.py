"""Metrics of held-out text per token: likelihood, accuracy, agreement with the teacher."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float32, Int, Shaped

from jaxdistill import losses
from jaxdistill.errors import UserError
from jaxdistill.objectives import TokenDistribution, position_metrics
from jaxdistill.objectives.alignment import align_batch
from jaxdistill.objectives.base import PositionFunction
from jaxdistill.objectives.chunk import CHUNK_SIZE
from jaxdistill.objectives.cross_entropy import CrossEntropy
from jaxdistill.objectives.forward_kl import ForwardKL
from jaxdistill.sharding import (
    batch_sharding,
    num_batch_shards,
    replicated_sharding,
    shard_batch,
)
from jaxdistill.types import Batch, HiddenSignal, Params

_TOKEN_COLUMNS = ("example_ids", "positions", "labels")


@dataclass(frozen=True)
class TokenMetrics:
    """Metrics of the scored tokens of a text, in any order; exact over the vocabulary.

    Attributes:
        example_ids: Index of the row that each token belongs to.
        positions: Position in its example that predicts the token; the first token's is 0.
        labels: Token ids.
        values: Metrics by name: `nll` in nats; `accuracy`, 1 if the top-1 token is the label;
            `confidence`, the probability of the top-1 token. With a teacher also `teacher_nll`
            and `forward_kl` in nats; `acceptance`, Σ min(p, q), the probability that the teacher
            accepts a draft token of the student in speculative decoding; `top1_agreement` and
            `top5_agreement`, 1 if the teacher's top-1 token is the student's, or in its top 5.
    """

    example_ids: Int[np.ndarray, " N"]
    positions: Int[np.ndarray, " N"]
    labels: Int[np.ndarray, " N"]
    values: Mapping[str, Shaped[np.ndarray, " N"]]

    def __len__(self) -> int:
        return len(self.example_ids)


def add_digit_accuracy(
    token_metrics: TokenMetrics, is_digit: Bool[np.ndarray, " V"]
) -> TokenMetrics:
    """Add `digits`, 1 if a label consists of digits, and `digit_accuracy`, 1 if also predicted.

    `is_digit` is True for the tokens of the vocabulary that consist of digits.
    """
    digits = is_digit[token_metrics.labels].astype(np.float32)
    accuracy = digits * token_metrics.values["accuracy"]
    return replace(
        token_metrics, values={**token_metrics.values, "digits": digits, "digit_accuracy": accuracy}
    )


class TokenEvaluator:
    """An evaluator of students of one architecture; its program is compiled once.

    Args:
        student_signal: Computes the student's signal for a batch from its parameters.
        teacher_signal: Computes the teacher's signal for a batch from its parameters; None
            without a teacher.
        mesh: Devices over which a batch is sharded.
        chunk_size: Number of positions whose logits are in memory at a time.
    """

    def __init__(
        self,
        *,
        student_signal: Callable[[Params, Batch], HiddenSignal],
        teacher_signal: Callable[..., HiddenSignal] | None = None,
        mesh: Mesh,
        chunk_size: int = CHUNK_SIZE,
    ):
        self._student_signal, self._teacher_signal = student_signal, teacher_signal
        self._num_shards = num_batch_shards(mesh)
        self._sharding = batch_sharding(mesh)
        self._chunk_size = chunk_size
        # Every process gets all metrics: a few numbers per position.
        self._jitted = jax.jit(self._compute_metrics, out_shardings=replicated_sharding(mesh))

    def __call__(
        self, params: Params, batches: Iterable[Batch], *, teacher_params: Params | None = None
    ) -> TokenMetrics:
        """Compute the metrics of all scored tokens of `batches`.

        Args:
            params: Parameters of the student.
            batches: Held-out text, each example once (`data.ordered_batches`).
            teacher_params: Parameters for `teacher_signal`.

        Raises:
            UserError: No token is scored, batches cannot be sharded over the mesh, or metrics
                are NaN.
        """
        parts = [self._score_batch(params, teacher_params, batch) for batch in batches]
        if not any(len(part["example_ids"]) for part in parts):
            raise UserError("evaluation: there is no token to score. Hold out more rows.")
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if broken := [name for name, column in columns.items() if np.isnan(column).any()]:
            owner = "model" if "nll" in broken else "teacher"
            name = next((name for name in ("nll", "forward_kl") if name in broken), broken[0])
            raise UserError(
                f"evaluation: {name} is NaN. The {owner}'s weights are damaged, or its "
                "training diverged, or it needs more than 16 bits: try `float32`."
            )
        tokens = {name: columns.pop(name) for name in _TOKEN_COLUMNS}
        return TokenMetrics(**tokens, values=columns)

    def _score_batch(
        self, params: Params, teacher_params: Params | None, batch: Batch
    ) -> dict[str, np.ndarray]:
        """Return the columns of a batch at the positions whose label is scored."""
        if (size := batch.tokens.shape[0]) % self._num_shards:
            raise UserError(
                f"evaluation: batches of {size} cannot be split evenly over {self._num_shards} "
                f"devices. Use a batch size that is a multiple of {self._num_shards}."
            )
        sharded = shard_batch(batch, self._sharding)
        values = jax.device_get(self._jitted(params, teacher_params, sharded))
        columns = {name: getattr(batch, name) for name in _TOKEN_COLUMNS}
        columns |= {name: value.reshape(batch.tokens.shape) for name, value in values.items()}
        is_scored = np.asarray(batch.loss_mask) != 0
        return {name: np.asarray(column)[is_scored] for name, column in columns.items()}

    def _compute_metrics(
        self, params: Params, teacher_params: Params | None, batch: Batch
    ) -> dict[str, Array]:
        teacher, metrics = None, _STUDENT_METRICS
        if self._teacher_signal is not None:
            teacher = self._teacher_signal(teacher_params, batch)
            metrics = {**_STUDENT_METRICS, **_TEACHER_METRICS}
        student = self._student_signal(params, batch)
        return position_metrics(
            metrics,
            align_batch(student, teacher, batch, num_shards=self._num_shards),
            student.lm_head,
            None if teacher is None else teacher.lm_head,
            chunk_size=self._chunk_size,
        )


def _accuracy(student: TokenDistribution, _: TokenDistribution | None) -> Float32[Array, " R"]:
    return (jnp.argmax(student.logits, axis=-1) == student.labels).astype(jnp.float32)


def _confidence(student: TokenDistribution, _: TokenDistribution | None) -> Float32[Array, " R"]:
    return jnp.exp(jnp.max(student.log_probs(), axis=-1))


def _teacher_nll(_: TokenDistribution, teacher: TokenDistribution | None) -> Float32[Array, " R"]:
    assert teacher is not None, "needs teacher logits"
    return -teacher.label_log_probs()


def _acceptance(
    student: TokenDistribution, teacher: TokenDistribution | None
) -> Float32[Array, " R"]:
    assert teacher is not None, "needs teacher logits"
    return 1 - losses.total_variation(teacher.log_probs(), student.log_probs())


def _teacher_top1_in_top_k(k: int) -> PositionFunction:
    """Return the metric that is 1 if the teacher's top-1 token is in the student's top k."""

    def is_in_top_k(
        student: TokenDistribution, teacher: TokenDistribution | None
    ) -> Float32[Array, " R"]:
        assert teacher is not None, "needs teacher logits"
        token = jnp.argmax(teacher.logits, axis=-1)[:, None]
        logit = jnp.take_along_axis(student.logits, token, axis=-1)
        # Of equal logits the first token ranks highest, as with `argmax`.
        is_before = jax.lax.broadcasted_iota(token.dtype, student.logits.shape, 1) < token
        is_higher = (student.logits > logit) | ((student.logits == logit) & is_before)
        return (is_higher.sum(axis=-1) < k).astype(jnp.float32)

    return is_in_top_k


_STUDENT_METRICS: dict[str, PositionFunction] = {
    "nll": CrossEntropy().values,
    "accuracy": _accuracy,
    "confidence": _confidence,
}
_TEACHER_METRICS: dict[str, PositionFunction] = {
    "forward_kl": ForwardKL().values,
    "top1_agreement": _teacher_top1_in_top_k(1),
    "top5_agreement": _teacher_top1_in_top_k(5),
    "teacher_nll": _teacher_nll,
    "acceptance": _acceptance,
}
