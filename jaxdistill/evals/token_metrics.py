"""One walk over held-out text: what a student, and its teacher, say at every scored place."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float32, Int, Shaped

from jaxdistill.errors import UserError
from jaxdistill.objectives import TokenDistribution, position_metrics
from jaxdistill.objectives.alignment import align_batch
from jaxdistill.objectives.base import PositionFunction
from jaxdistill.objectives.chunk import CHUNK_SIZE
from jaxdistill.objectives.cross_entropy import CrossEntropy
from jaxdistill.objectives.forward_kl import ForwardKL
from jaxdistill.sharding import batch_sharding, num_batch_shards, replicated_sharding
from jaxdistill.types import Batch, HiddenSignal, LMHead, ModelOutput, Params


@dataclass(frozen=True)
class TokenMetrics:
    """The scored places of a text, in no order that matters; exact over the vocabulary.

    Attributes:
        example_ids: The row that each belongs to.
        positions: Where in its row it is; the place that reads the first token is 0.
        labels: The token that really follows.
        values: By name: `nll` in nats, `accuracy` and `confidence` (whether the likeliest word is
            the label, and its probability); with a teacher `forward_kl` in nats, `teacher_nll`,
            `top1_agreement` and `top5_agreement` (whether the teacher's likeliest word is the
            student's, and among its five likeliest).
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
    """The places with whether their label is of digits alone, and is guessed then.

    Args:
        places: What was measured.
        is_digit: Which words of the vocabulary are.
    """
    digits = is_digit[token_metrics.labels].astype(np.float32)
    guessed = digits * token_metrics.values["accuracy"]
    return replace(
        token_metrics, values={**token_metrics.values, "digits": digits, "digit_accuracy": guessed}
    )


class TokenEvaluator:
    """Reads held-out text with a student as often as it is asked to, and is compiled once.

    Args:
        forward: The student's hidden states for a batch.
        head: The student's unembedding, from the same parameters.
        teacher: What the teacher says of a batch, from its own parameters.
        mesh: The devices that a batch is split over.
        chunk_rows: How many places the wall looks at together.
    """

    def __init__(
        self,
        *,
        forward: Callable[[Params, Batch], ModelOutput],
        lm_head: Callable[[Params], LMHead],
        teacher_signal: Callable[[Any, Batch], HiddenSignal] | None = None,
        mesh: Mesh,
        chunk_size: int = CHUNK_SIZE,
    ):
        self._forward, self._lm_head, self._teacher_signal = forward, lm_head, teacher_signal
        self._num_shards = num_batch_shards(mesh)
        self._sharding = batch_sharding(mesh)
        self._chunk_size = chunk_size
        # Every process gets all of it: a few numbers a place.
        self._jitted = jax.jit(self._compute_metrics, out_shardings=replicated_sharding(mesh))

    def __call__(
        self, params: Params, batches: Iterable[Batch], *, teacher_params: Any = None
    ) -> TokenMetrics:
        """What a student says of all of `batches`.

        Args:
            params: The student's parameters.
            batches: Held-out text, each row once (`data.ordered_batches`).
            teacher_params: Handed to the teacher.

        Raises:
            UserError: when there is nothing to score, batches do not fit the mesh, or a model's
                numbers are none (NaN).
        """
        parts = [self._score_batch(params, teacher_params, batch) for batch in batches]
        if not any(len(part["example_ids"]) for part in parts):
            raise UserError("evaluation: there is no token to score. Hold out more rows.")
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if broken := [name for name, column in columns.items() if np.isnan(column).any()]:
            whose = "model" if "nll" in broken else "teacher"
            raise UserError(
                f"evaluation: {broken[0]} is NaN. The {whose}'s weights are damaged, or were made "
                "by training that diverged; or it needs more than 16 bits: try `float32`."
            )
        where = {name: columns.pop(name) for name in ("example_ids", "positions", "labels")}
        return TokenMetrics(**where, values=columns)

    def _score_batch(
        self, params: Params, teacher_params: Any, batch: Batch
    ) -> dict[str, np.ndarray]:
        """The columns of one batch, without the places that do not count."""
        self._check_batch_size(batch)
        values = jax.device_get(self._jitted(params, teacher_params, self._shard_batch(batch)))
        columns = {
            "example_ids": batch.example_ids,
            "positions": batch.positions,
            "labels": batch.labels,
        }
        columns |= {name: value.reshape(batch.tokens.shape) for name, value in values.items()}
        counts = np.asarray(batch.loss_mask) != 0
        return {name: np.asarray(column)[counts] for name, column in columns.items()}

    def _compute_metrics(
        self, params: Params, teacher_params: Any, batch: Batch
    ) -> dict[str, Array]:
        signal = (
            None if self._teacher_signal is None else self._teacher_signal(teacher_params, batch)
        )
        student = HiddenSignal(self._forward(params, batch).hidden, self._lm_head(params))
        return position_metrics(
            _STUDENT_METRICS if signal is None else {**_STUDENT_METRICS, **_TEACHER_METRICS},
            align_batch(student, signal, batch, num_shards=self._num_shards),
            student.lm_head,
            None if signal is None else signal.lm_head,
            chunk_size=self._chunk_size,
        )

    def _shard_batch(self, batch: Batch) -> Batch:
        def place(array: np.ndarray) -> Array:
            return jax.make_array_from_process_local_data(self._sharding, array, array.shape)

        return jax.tree.map(place, batch)

    def _check_batch_size(self, batch: Batch) -> None:
        size = batch.tokens.shape[0]
        if size % self._num_shards:
            raise UserError(
                f"evaluation: batches of {size} cannot be split evenly over {self._num_shards} "
                f"devices. Use a batch size that is a multiple of {self._num_shards}."
            )


def _accuracy(
    student: TokenDistribution, teacher: TokenDistribution | None
) -> Float32[Array, " R"]:
    del teacher
    return (jnp.argmax(student.logits, axis=-1) == student.labels).astype(jnp.float32)


def _confidence(
    student: TokenDistribution, teacher: TokenDistribution | None
) -> Float32[Array, " R"]:
    del teacher
    return jnp.exp(jnp.max(student.log_probs(), axis=-1))


def _teacher_nll(
    student: TokenDistribution, teacher: TokenDistribution | None
) -> Float32[Array, " R"]:
    del student
    assert teacher is not None, "the wall shows the teacher to whom needs it"
    return -teacher.label_log_probs()


def _teacher_top1_in_top_k(k: int) -> PositionFunction:
    """Whether the teacher's likeliest word is among the student's `most` likeliest."""

    def agrees(
        student: TokenDistribution, teacher: TokenDistribution | None
    ) -> Float32[Array, " R"]:
        assert teacher is not None, "the wall shows the teacher to whom needs it"
        chosen = jnp.argmax(teacher.logits, axis=-1)[:, None]
        score = jnp.take_along_axis(student.logits, chosen, axis=-1)
        # Of words that are equally likely the first counts, as with `argmax`.
        is_before = jax.lax.broadcasted_iota(chosen.dtype, student.logits.shape, 1) < chosen
        is_ahead = (student.logits > score) | ((student.logits == score) & is_before)
        return (is_ahead.sum(axis=-1) < k).astype(jnp.float32)

    return agrees


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
}
