"""Likelihood of held-out text, and agreement with a teacher on it, exact over the vocabulary."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int

from jaxdistill.errors import UserError
from jaxdistill.objectives import RowLogits, row_statistics
from jaxdistill.objectives.cross_entropy import CrossEntropy
from jaxdistill.objectives.forward_kl import ForwardKL
from jaxdistill.objectives.rows import pair
from jaxdistill.objectives.wall import CHUNK_ROWS, RowFunction
from jaxdistill.sharding import batch_sharding, num_batch_shards
from jaxdistill.types import Batch, Head, Output, Params, Signal, Total


class Evaluation:
    """Measures a student as often as it is asked to, and is compiled once.

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
        self._jitted = jax.jit(self._measure)

    def __call__(
        self,
        params: Params,
        batches: Iterable[Batch],
        *,
        num_bytes: int,
        teacher_params: Any = None,
    ) -> dict[str, float]:
        """Measure a student on all of `batches`.

        Args:
            params: The student's parameters.
            batches: Held-out text, each row once (`data.ordered_batches`).
            num_bytes: How long the scored text is in UTF-8 (the sum of `Example.num_bytes`).
            teacher_params: Handed to the teacher.

        Returns:
            Means over scored tokens: `nll` in nats, its `perplexity`, `bits_per_byte`; with a
            teacher also `forward_kl` in nats, `top1_agreement` from 0 to 1, `teacher_nll`,
            `teacher_perplexity` and `teacher_bits_per_byte`. Last, `scored_tokens`.

        Raises:
            UserError: when there is nothing to score, or batches do not fit the mesh.
        """
        totals = []
        for batch in batches:
            self._check_size(batch)
            totals.append(self._jitted(params, teacher_params, self._placed(batch)))
        return _summary(jax.device_get(totals), num_bytes)

    def _measure(self, params: Params, teacher_params: Any, batch: Batch) -> dict[str, Total]:
        signal = None if self._teacher is None else self._teacher(teacher_params, batch)
        hidden = self._forward(params, batch).hidden
        rows = pair(hidden, signal, batch, num_groups=self._num_groups)
        values = row_statistics(
            _LIKELIHOOD if signal is None else {**_LIKELIHOOD, **_AGREEMENT},
            rows,
            self._head(params),
            None if signal is None else signal.head,
            chunk_rows=self._chunk_rows,
        )
        weight = rows.mask.sum()
        return {name: Total((rows.mask * value).sum(), weight) for name, value in values.items()}

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


def _top1_agreement(
    student: RowLogits, teacher: RowLogits | None, labels: Int[Array, " R"]
) -> Float32[Array, " R"]:
    """1 where both find the same word the likeliest, else 0."""
    del labels
    assert teacher is not None, "the wall shows the teacher to whom needs it"
    agrees = jnp.argmax(student.logits, axis=-1) == jnp.argmax(teacher.logits, axis=-1)
    return agrees.astype(jnp.float32)


def _teacher_nll(
    student: RowLogits, teacher: RowLogits | None, labels: Int[Array, " R"]
) -> Float32[Array, " R"]:
    """What the teacher thinks of the word that really follows, in nats."""
    del student
    assert teacher is not None, "the wall shows the teacher to whom needs it"
    return CrossEntropy().row_values(teacher, None, labels)


_LIKELIHOOD: dict[str, RowFunction] = {"nll": CrossEntropy().row_values}
_AGREEMENT: dict[str, RowFunction] = {
    "forward_kl": ForwardKL().row_values,
    "top1_agreement": _top1_agreement,
    "teacher_nll": _teacher_nll,
}


def _summary(totals: list[dict[str, Total]], num_bytes: int) -> dict[str, float]:
    """Sums of batches, which are float32, added up in float64 and divided once."""
    sums = {
        name: math.fsum(float(total[name].sum) for total in totals)
        for name in (totals[0] if totals else ())
    }
    weight = math.fsum(float(total["nll"].weight) for total in totals)
    if not weight:
        raise UserError("evaluation: there is no token to score. Hold out more rows.")
    means = {name: value / weight for name, value in sums.items()}
    for name in ("nll", "teacher_nll"):
        if name in means:
            prefix = name.removesuffix("nll")
            means[f"{prefix}perplexity"] = _perplexity(means[name])
            if num_bytes:
                means[f"{prefix}bits_per_byte"] = sums[name] / math.log(2) / num_bytes
    return {**means, "scored_tokens": weight}


def _perplexity(nll: float) -> float:
    try:
        return math.exp(nll)
    except OverflowError:
        return math.inf
