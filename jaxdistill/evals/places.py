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
from jaxdistill.objectives import RowLogits, row_statistics
from jaxdistill.objectives.base import RowFunction
from jaxdistill.objectives.chunk import CHUNK_ROWS
from jaxdistill.objectives.cross_entropy import CrossEntropy
from jaxdistill.objectives.forward_kl import ForwardKL
from jaxdistill.objectives.pair import pair
from jaxdistill.sharding import batch_sharding, num_batch_shards, replicated
from jaxdistill.types import Batch, Head, Output, Params, Signal


@dataclass(frozen=True)
class Places:
    """The scored places of a text, in no order that matters; exact over the vocabulary.

    Attributes:
        row_ids: The row that each belongs to.
        positions: Where in its row it is; the place that reads the first token is 0.
        labels: The token that really follows.
        values: By name: `nll` in nats, `accuracy` and `confidence` (whether the likeliest word is
            the label, and its probability); with a teacher `forward_kl` in nats, `teacher_nll`,
            `top1_agreement` and `top5_agreement` (whether the teacher's likeliest word is the
            student's, and among its five likeliest).
    """

    row_ids: Int[np.ndarray, " N"]
    positions: Int[np.ndarray, " N"]
    labels: Int[np.ndarray, " N"]
    values: Mapping[str, Shaped[np.ndarray, " N"]]

    def __len__(self) -> int:
        return len(self.row_ids)


def with_digits(places: Places, is_digit: Bool[np.ndarray, " V"]) -> Places:
    """The places with whether their label is of digits alone, and is guessed then.

    Args:
        places: What was measured.
        is_digit: Which words of the vocabulary are.
    """
    digits = is_digit[places.labels].astype(np.float32)
    guessed = digits * places.values["accuracy"]
    return replace(places, values={**places.values, "digits": digits, "digit_accuracy": guessed})


class Evaluation:
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
        forward: Callable[[Params, Batch], Output],
        head: Callable[[Params], Head],
        teacher: Callable[[Any, Batch], Signal] | None = None,
        mesh: Mesh,
        chunk_rows: int = CHUNK_ROWS,
    ):
        self._forward, self._head, self._teacher = forward, head, teacher
        self._num_groups = num_batch_shards(mesh)
        self._sharding = batch_sharding(mesh)
        self._chunk_rows = chunk_rows
        # Every process gets all of it: a few numbers a place.
        self._jitted = jax.jit(self._measure, out_shardings=replicated(mesh))

    def __call__(
        self, params: Params, batches: Iterable[Batch], *, teacher_params: Any = None
    ) -> Places:
        """What a student says of all of `batches`.

        Args:
            params: The student's parameters.
            batches: Held-out text, each row once (`data.ordered_batches`).
            teacher_params: Handed to the teacher.

        Raises:
            UserError: when there is nothing to score, batches do not fit the mesh, or a model's
                numbers are none (NaN).
        """
        parts = [self._scored(params, teacher_params, batch) for batch in batches]
        if not any(len(part["row_ids"]) for part in parts):
            raise UserError("evaluation: there is no token to score. Hold out more rows.")
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if broken := [name for name, column in columns.items() if np.isnan(column).any()]:
            whose = "model" if "nll" in broken else "teacher"
            raise UserError(
                f"evaluation: {broken[0]} is NaN. The {whose}'s weights are damaged, or were made "
                "by training that diverged; or it needs more than 16 bits: try `float32`."
            )
        where = {name: columns.pop(name) for name in ("row_ids", "positions", "labels")}
        return Places(**where, values=columns)

    def _scored(self, params: Params, teacher_params: Any, batch: Batch) -> dict[str, np.ndarray]:
        """The columns of one batch, without the places that do not count."""
        self._check_size(batch)
        values = jax.device_get(self._jitted(params, teacher_params, self._placed(batch)))
        columns = {"row_ids": batch.row_ids, "positions": batch.positions, "labels": batch.labels}
        columns |= {name: value.reshape(batch.tokens.shape) for name, value in values.items()}
        counts = np.asarray(batch.loss_mask) != 0
        return {name: np.asarray(column)[counts] for name, column in columns.items()}

    def _measure(self, params: Params, teacher_params: Any, batch: Batch) -> dict[str, Array]:
        signal = None if self._teacher is None else self._teacher(teacher_params, batch)
        student = Signal(self._forward(params, batch).hidden, self._head(params))
        return row_statistics(
            _OWN if signal is None else {**_OWN, **_BESIDE_TEACHER},
            pair(student, signal, batch, num_groups=self._num_groups),
            student.head,
            None if signal is None else signal.head,
            chunk_rows=self._chunk_rows,
        )

    def _placed(self, batch: Batch) -> Batch:
        def place(array: np.ndarray) -> Array:
            return jax.make_array_from_process_local_data(self._sharding, array, array.shape)

        return jax.tree.map(place, batch)

    def _check_size(self, batch: Batch) -> None:
        size = batch.tokens.shape[0]
        if size % self._num_groups:
            raise UserError(
                f"evaluation: batches of {size} cannot be split evenly over {self._num_groups} "
                f"devices. Use a batch size that is a multiple of {self._num_groups}."
            )


def _accuracy(student: RowLogits, teacher: RowLogits | None) -> Float32[Array, " R"]:
    del teacher
    return (jnp.argmax(student.logits, axis=-1) == student.labels).astype(jnp.float32)


def _confidence(student: RowLogits, teacher: RowLogits | None) -> Float32[Array, " R"]:
    del teacher
    return jnp.exp(jnp.max(student.log_probs(), axis=-1))


def _teacher_nll(student: RowLogits, teacher: RowLogits | None) -> Float32[Array, " R"]:
    del student
    assert teacher is not None, "the wall shows the teacher to whom needs it"
    return -teacher.label_log_probs()


def _agreement(most: int) -> RowFunction:
    """Whether the teacher's likeliest word is among the student's `most` likeliest."""

    def agrees(student: RowLogits, teacher: RowLogits | None) -> Float32[Array, " R"]:
        assert teacher is not None, "the wall shows the teacher to whom needs it"
        chosen = jnp.argmax(teacher.logits, axis=-1)[:, None]
        score = jnp.take_along_axis(student.logits, chosen, axis=-1)
        # Of words that are equally likely the first counts, as with `argmax`.
        is_before = jax.lax.broadcasted_iota(chosen.dtype, student.logits.shape, 1) < chosen
        is_ahead = (student.logits > score) | ((student.logits == score) & is_before)
        return (is_ahead.sum(axis=-1) < most).astype(jnp.float32)

    return agrees


_OWN: dict[str, RowFunction] = {
    "nll": CrossEntropy().row_values,
    "accuracy": _accuracy,
    "confidence": _confidence,
}
_BESIDE_TEACHER: dict[str, RowFunction] = {
    "forward_kl": ForwardKL().row_values,
    "top1_agreement": _agreement(1),
    "top5_agreement": _agreement(5),
    "teacher_nll": _teacher_nll,
}
