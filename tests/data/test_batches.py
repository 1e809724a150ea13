"""Packed sequences and batches: every token occurs once, and a resumed stream is the same."""

import json
from collections import Counter
from itertools import chain

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdistill.data import Example, ordered_batches, shuffled_batches
from jaxdistill.data.packing import best_fit_decreasing, pack_sequence
from jaxdistill.errors import UserError

LENGTH = 12
FIELDS = ("tokens", "labels", "loss_mask", "positions", "segment_ids", "example_ids")


def make_example(row_id: int, num_tokens: int) -> Example:
    """Return an example whose token ids encode row and position."""
    tokens = np.arange(num_tokens, dtype=np.int32) + 100 * (row_id + 1)
    mask = (np.arange(num_tokens) + row_id) % 3 > 0
    mask[0] = False
    return Example(tokens, mask, row_id, f"row {row_id}", 0)


def make_examples(*sizes: int) -> list[Example]:
    return [make_example(row_id, size) for row_id, size in enumerate(sizes)]


SIZES = st.lists(st.integers(2, LENGTH + 1), min_size=1, max_size=20)


@settings(deadline=None)
@given(SIZES)
def test_bins_hold_every_item_once_within_capacity(sizes):
    bins = best_fit_decreasing(sizes, LENGTH + 1)
    assert sorted(chain(*bins)) == list(range(len(sizes)))
    filled = sorted(sum(sizes[item] for item in items) for items in bins)
    assert filled[-1] <= LENGTH + 1
    assert len(bins) == 1 or filled[0] + filled[1] > LENGTH + 1  # no two bins fit into one


def count_learned(batch) -> Counter:
    """Count the learned (row, token, position, label) of a batch."""
    kept = np.asarray(batch.loss_mask) > 0
    columns = (batch.example_ids, batch.tokens, batch.positions, batch.labels)
    return Counter(zip(*(np.asarray(column)[kept].tolist() for column in columns), strict=True))


def count_expected(examples) -> Counter:
    """Count the learned (row, token, position, label) of examples."""
    return Counter(
        (e.row_id, int(e.tokens[t]), t, int(e.tokens[t + 1]))
        for e in examples
        for t in range(e.num_positions)
        if e.loss_mask[t + 1]
    )


@settings(deadline=None, max_examples=50)
@given(SIZES, st.booleans(), st.integers(1, 5))
def test_ordered_batches_hold_every_token_once_in_its_own_segment(sizes, pack, batch_size):
    examples = make_examples(*sizes)
    learned, num_positions = Counter(), Counter()
    for batch in ordered_batches(examples, length=LENGTH, batch_size=batch_size, pack=pack):
        assert all(getattr(batch, f).shape == (batch_size, LENGTH) for f in FIELDS)
        assert all(getattr(batch, f).dtype == np.int32 for f in FIELDS if f != "loss_mask")
        assert batch.loss_mask.dtype == np.float32
        learned += count_learned(batch)
        is_real = batch.segment_ids > 0
        num_positions.update(batch.example_ids[is_real].tolist())
        assert (batch.example_ids[~is_real] == -1).all()
        assert not batch.loss_mask[~is_real].any()
        assert not batch.positions[~is_real].any()
        for tokens, segments, positions in zip(
            batch.tokens, batch.segment_ids, batch.positions, strict=True
        ):
            for segment in set(segments.tolist()) - {0}:
                inside = segments == segment
                assert len(set((tokens[inside] // 100).tolist())) == 1
                assert positions[inside].tolist() == list(range(inside.sum()))
    assert learned == count_expected(examples)
    assert num_positions == Counter({e.row_id: e.num_positions for e in examples})


def test_labels_are_the_next_tokens():
    first, second = make_examples(4, 3)
    batch = pack_sequence([first, second], 7)
    assert batch.tokens.tolist() == [100, 101, 102, 200, 201, 0, 0]
    assert batch.labels.tolist() == [101, 102, 103, 201, 202, 0, 0]
    assert batch.segment_ids.tolist() == [1, 1, 1, 2, 2, 0, 0]
    assert batch.positions.tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert batch.example_ids.tolist() == [0, 0, 0, 1, 1, -1, -1]
    assert batch.loss_mask.tolist() == [*first.loss_mask[1:], *second.loss_mask[1:], 0, 0]


def stream(examples, **options):
    options = {"length": LENGTH, "batch_size": 4, "pack": False, "seed": 0} | options
    return shuffled_batches(examples, **options)


def row_ids(batch) -> list[int]:
    """Return the rows of a batch that is not packed."""
    return batch.example_ids[:, 0].tolist()


def test_every_epoch_has_every_row_once_in_a_new_order():
    examples = make_examples(*[5] * 10)
    endless = stream(examples)
    rows = [row for _ in range(15) for row in row_ids(next(endless))]  # six epochs
    epochs = [tuple(rows[n : n + 10]) for n in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(epochs)) == 6
    other_seed = stream(examples, seed=1)
    assert [row for _ in range(15) for row in row_ids(next(other_seed))] != rows


@pytest.mark.parametrize("processes", [1, 2])
def test_a_batch_may_be_one_sequence_per_process(processes):
    options = {"batch_size": processes, "process_count": processes}
    examples = make_examples(*[5] * 6)
    streams = [stream(examples, process_index=n, **options) for n in range(processes)]
    rows = [row for _ in range(6 // processes) for part in streams for row in row_ids(next(part))]
    assert sorted(rows) == list(range(6))


def test_packed_epochs_learn_every_token_once():
    examples = make_examples(*[2 + n % 9 for n in range(40)])
    num_sequences = len(list(ordered_batches(examples, length=LENGTH, batch_size=1)))
    endless = stream(examples, pack=True, batch_size=num_sequences)
    for _ in range(3):
        assert count_learned(next(endless)) == count_expected(examples)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 9), st.booleans())
def test_a_resumed_stream_is_bit_identical(step, pack):
    examples = make_examples(*[2 + n % 9 for n in range(11)])
    uninterrupted = stream(examples, pack=pack)
    killed = stream(examples, pack=pack)
    for _ in range(step):
        next(uninterrupted)
        next(killed)
    state = json.dumps(killed.get_state())
    assert len(state) < 100
    resumed = stream(examples, pack=pack)
    resumed.set_state(json.loads(state))
    for _ in range(5):
        jax.tree.map(np.testing.assert_array_equal, next(uninterrupted), next(resumed))


@pytest.mark.parametrize("count", [2, 4])
def test_batches_of_all_processes_make_up_the_batch_of_one(count):
    examples = make_examples(*[5] * 9)
    single = stream(examples)
    parts = [stream(examples, process_index=n, process_count=count) for n in range(count)]
    for _ in range(6):
        rows = [row_ids(next(part)) for part in parts]
        assert all(len(part) == 4 // count for part in rows)
        assert sorted(chain(*rows)) == sorted(row_ids(next(single)))
    options = {"length": LENGTH, "batch_size": 4, "pack": False, "process_count": count}
    ordered = [list(ordered_batches(examples, process_index=n, **options)) for n in range(count)]
    assert {len(batches) for batches in ordered} == {3}
    assert sum(map(count_learned, chain(*ordered)), Counter()) == count_expected(examples)
    with pytest.raises(UserError, match="batch size 4 cannot be shared evenly by 3 processes"):
        stream(examples, process_count=3)


def test_fewer_rows_than_a_batch_make_a_full_batch():
    endless = stream(make_examples(3), batch_size=4)
    assert row_ids(next(endless)) == [0, 0, 0, 0]
