"""From examples to batches: without end to train on, and each example once to be measured on.

grain orders, batches, and remembers where it is; what it remembers is one small number.
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
    """Full batches without end: every example once an epoch, in a new order each.

    A batch may run over the end of an epoch, so none is short and nothing is left out. The
    iterator's `get_state()` is a small dict for JSON; `set_state()` goes on from there, bit for
    bit. With several processes, their parts of batch n together are the batch n of one process.

    Args:
        examples: At least one, none longer than `length` places.
        length: How many places a sequence has.
        batch_size: Sequences in a batch, over all processes.
        pack: Whether several examples may share a sequence.
        seed: Another number, another order.
        process_index: Which process this is.
        process_count: How many there are; they divide `batch_size`.
    """
    _check_batch_divides(batch_size, process_count)
    sequences = grain.MapDataset.source(_PackedSequences(examples, length, pack))
    endless = sequences.seed(seed).shuffle().repeat()
    mine, share = endless[process_index::process_count], batch_size // process_count
    # A batch of one of an endless set is more than grain can count.
    mine = mine.map(_add_batch_axis) if share == 1 else mine.batch(share, batch_fn=_stack_sequences)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(mine.to_iter_dataset(options))


def ordered_batches(
    examples: Sequence[Example],
    *,
    length: int,
    batch_size: int,
    pack: bool = True,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Every example exactly once, always in the same order; the last batch is filled up.

    What it is filled with is padding only: segment 0, `loss_mask` 0. The arguments are those of
    `batches`.
    """
    _check_batch_divides(batch_size, process_count)
    sequences = _PackedSequences(examples, length, pack)
    empty = pack_sequence([], length, has_teacher_view=sequences.has_teacher_view)
    for first in range(0, len(sequences), batch_size):
        numbers = range(first + process_index, first + batch_size, process_count)
        yield _stack_sequences([sequences[n] if n < len(sequences) else empty for n in numbers])


class _PackedSequences:
    """Random access to sequences, as grain wants its sources."""

    def __init__(self, examples: Sequence[Example], length: int, pack: bool):
        self._examples = examples
        self._length = length
        self.has_teacher_view = all(example.teacher_example is not None for example in examples)
        sizes = [example.num_positions for example in examples]
        self._bins = (
            best_fit_decreasing(sizes, length) if pack else [[n] for n in range(len(examples))]
        )

    def __len__(self) -> int:
        return len(self._bins)

    def __getitem__(self, index: int) -> Batch:
        together = [self._examples[n] for n in self._bins[index]]
        return pack_sequence(together, self._length, has_teacher_view=self.has_teacher_view)


def _stack_sequences(sequences: Sequence[Batch]) -> Batch:
    return jax.tree.map(lambda *parts: np.stack(parts), *sequences)


def _add_batch_axis(sequence: Batch) -> Batch:
    return _stack_sequences([sequence])


def _check_batch_divides(batch_size: int, process_count: int) -> None:
    if batch_size % process_count:
        raise UserError(
            f"batch size {batch_size} cannot be shared evenly by {process_count} processes."
        )
