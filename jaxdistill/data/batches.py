"""Batches: an endless shuffled stream for training, and one ordered pass for evaluation.

grain shuffles, batches and checkpoints the stream; its state is one small number.
"""

from collections.abc import Iterator, Sequence

import grain
import jax
import numpy as np

from jaxdistill.data.examples import Example
from jaxdistill.data.packing import best_fit_decreasing, pack_sequence
from jaxdistill.errors import UserError
from jaxdistill.types import Batch


def shuffled_batches(
    examples: Sequence[Example],
    *,
    length: int,
    batch_size: int,
    pack: bool,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Return an endless iterator of full batches: every example once per epoch, in a new order.

    A batch may continue into the next epoch, so none is short and no example is left out. The
    iterator's `get_state()` is a small dict for JSON; `set_state()` continues from it, bit for
    bit. The batches n of several processes together are batch n of a single process.

    There is at least one example, and none is longer than the `length` positions of a sequence. If
    `pack`, a sequence holds several. `batch_size` counts the sequences of all processes.
    """
    _check_batch_divides(batch_size, process_count)
    sequences = grain.MapDataset.source(_PackedSequences(examples, length, pack))
    endless = sequences.seed(seed).shuffle().repeat()
    own, own_size = endless[process_index::process_count], batch_size // process_count
    if own_size == 1:  # grain cannot count an endless set in batches of one
        own = own.map(lambda sequence: _stack_sequences([sequence]))
    else:
        own = own.batch(own_size, batch_fn=_stack_sequences)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(own.to_iter_dataset(options))


def ordered_batches(
    examples: Sequence[Example],
    *,
    length: int,
    batch_size: int,
    pack: bool = True,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Yield batches with every example exactly once, always in the same order.

    The last batch is filled with padding sequences: segment 0, `loss_mask` 0. Arguments as in
    `shuffled_batches`.
    """
    _check_batch_divides(batch_size, process_count)
    sequences = _PackedSequences(examples, length, pack)
    padding = pack_sequence([], length, has_teacher_view=sequences.has_teacher_view)
    for first in range(0, len(sequences), batch_size):
        indices = range(first + process_index, first + batch_size, process_count)
        yield _stack_sequences([sequences[n] if n < len(sequences) else padding for n in indices])


def padding_batch(length: int, batch_size: int, *, has_teacher_view: bool) -> Batch:
    """Return a batch of padding alone, of the shapes that every batch has."""
    padding = pack_sequence([], length, has_teacher_view=has_teacher_view)
    return _stack_sequences([padding] * batch_size)


class _PackedSequences:
    """Random access to packed sequences, as a source for grain."""

    def __init__(self, examples: Sequence[Example], length: int, pack: bool):
        self._examples = examples
        self._length = length
        self.has_teacher_view = all(example.teacher_example is not None for example in examples)
        sizes = [example.num_positions for example in examples]
        self._bins = (
            best_fit_decreasing(sizes, length) if pack else [[n] for n in range(len(sizes))]
        )

    def __len__(self) -> int:
        return len(self._bins)

    def __getitem__(self, index: int) -> Batch:
        examples = [self._examples[n] for n in self._bins[index]]
        return pack_sequence(examples, self._length, has_teacher_view=self.has_teacher_view)


def _stack_sequences(sequences: Sequence[Batch]) -> Batch:
    return jax.tree.map(lambda *parts: np.stack(parts), *sequences)


def _check_batch_divides(batch_size: int, process_count: int) -> None:
    if batch_size % process_count:
        raise UserError(
            f"batch size {batch_size} cannot be shared evenly by {process_count} processes."
        )
