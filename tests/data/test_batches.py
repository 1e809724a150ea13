"""Sequences and batches: nothing is lost, nothing leaks, and a resumed run sees the same."""

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


def example(row_id: int, num_tokens: int) -> Example:
    """Tokens that say which row and which place they are of."""
    tokens = np.arange(num_tokens, dtype=np.int32) + 100 * (row_id + 1)
    mask = (np.arange(num_tokens) + row_id) % 3 > 0
    mask[0] = False
    return Example(tokens, mask, row_id, f"row {row_id}", 0)


def examples(*sizes: int) -> list[Example]:
    return [example(row_id, size) for row_id, size in enumerate(sizes)]


SIZES = st.lists(st.integers(2, LENGTH + 1), min_size=1, max_size=20)


@settings(deadline=None)
@given(SIZES)
def test_bins_hold_everything_once_and_no_more_than_fits(sizes):
    bins = best_fit_decreasing(sizes, LENGTH + 1)
    assert sorted(thing for one in bins for thing in one) == list(range(len(sizes)))
    assert all(sum(sizes[thing] for thing in one) <= LENGTH + 1 for one in bins)
    filled = sorted(sum(sizes[thing] for thing in one) for one in bins)
    assert len(bins) == 1 or filled[0] + filled[1] > LENGTH + 1  # no two could have been one


def pairs(batch) -> Counter:
    """What is learned: (row, token read, position, token predicted), counted."""
    kept = np.asarray(batch.loss_mask) > 0
    columns = (batch.example_ids, batch.tokens, batch.positions, batch.labels)
    return Counter(zip(*(np.asarray(c)[kept].tolist() for c in columns), strict=True))


def expected(rows) -> Counter:
    return Counter(
        (e.row_id, int(e.tokens[t]), t, int(e.tokens[t + 1]))
        for e in rows
        for t in range(e.num_places)
        if e.loss_mask[t + 1]
    )


@settings(deadline=None, max_examples=50)
@given(SIZES, st.booleans(), st.integers(1, 5))
def test_evaluation_sees_every_token_once_and_none_across_segments(sizes, pack, batch_size):
    rows = examples(*sizes)
    seen, places = Counter(), Counter()
    for batch in ordered_batches(rows, length=LENGTH, batch_size=batch_size, pack=pack):
        assert all(getattr(batch, f).shape == (batch_size, LENGTH) for f in FIELDS)
        assert all(getattr(batch, f).dtype == np.int32 for f in FIELDS if f != "loss_mask")
        assert batch.loss_mask.dtype == np.float32
        seen += pairs(batch)
        real = batch.segment_ids > 0
        places.update(batch.example_ids[real].tolist())
        assert (batch.example_ids[~real] == -1).all()
        assert not batch.loss_mask[~real].any()
        assert not batch.positions[~real].any()
        for tokens, segments, positions in zip(
            batch.tokens, batch.segment_ids, batch.positions, strict=True
        ):
            for segment in set(segments.tolist()) - {0}:
                inside = segments == segment
                assert len(set((tokens[inside] // 100).tolist())) == 1
                assert positions[inside].tolist() == list(range(inside.sum()))
    assert seen == expected(rows)
    assert places == Counter({e.row_id: e.num_positions for e in rows})


def test_labels_are_the_next_tokens():
    first, second = examples(4, 3)
    batch = pack_sequence([first, second], 7)
    assert batch.tokens.tolist() == [100, 101, 102, 200, 201, 0, 0]
    assert batch.labels.tolist() == [101, 102, 103, 201, 202, 0, 0]
    assert batch.segment_ids.tolist() == [1, 1, 1, 2, 2, 0, 0]
    assert batch.positions.tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert batch.example_ids.tolist() == [0, 0, 0, 1, 1, -1, -1]
    assert batch.loss_mask.tolist() == [*first.loss_mask[1:], *second.loss_mask[1:], 0, 0]


def stream(rows, **options):
    return shuffled_batches(
        rows, **{"length": LENGTH, "batch_size": 4, "pack": False, "seed": 0} | options
    )


def rows_in(batch) -> list[int]:
    """The rows of an unpacked batch."""
    return batch.example_ids[:, 0].tolist()


def test_every_row_once_an_epoch_in_a_new_order_each():
    rows = examples(*[5] * 10)
    endless = stream(rows)
    seen = [row for _ in range(15) for row in rows_in(next(endless))]  # six epochs
    epochs = [tuple(seen[n : n + 10]) for n in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(epochs)) == 6
    other = stream(rows, seed=1)
    assert [r for _ in range(15) for r in rows_in(next(other))] != seen


@pytest.mark.parametrize("processes", [1, 2])
def test_a_batch_may_be_one_sequence_a_process(processes):
    options = {"batch_size": processes, "process_count": processes}
    streams = [stream(examples(*[5] * 6), process_index=n, **options) for n in range(processes)]
    seen = [row for _ in range(6 // processes) for one in streams for row in rows_in(next(one))]
    assert sorted(seen) == list(range(6))


def test_packed_epochs_learn_every_token_once():
    rows = examples(*[2 + n % 9 for n in range(40)])
    number = len(list(ordered_batches(rows, length=LENGTH, batch_size=1)))
    endless = stream(rows, pack=True, batch_size=number)
    for _ in range(3):
        assert pairs(next(endless)) == expected(rows)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 9), st.booleans())
def test_a_resumed_stream_is_bit_identical(step, pack):
    rows = examples(*[2 + n % 9 for n in range(11)])
    undisturbed = stream(rows, pack=pack)
    killed = stream(rows, pack=pack)
    for _ in range(step):
        next(undisturbed)
        next(killed)
    state = json.dumps(killed.get_state())
    assert len(state) < 100
    resumed = stream(rows, pack=pack)
    resumed.set_state(json.loads(state))
    for _ in range(5):
        jax.tree.map(np.testing.assert_array_equal, next(undisturbed), next(resumed))


@pytest.mark.parametrize("count", [2, 4])
def test_the_parts_of_several_processes_are_the_batch_of_one(count):
    rows = examples(*[5] * 9)
    alone = stream(rows)
    parts = [stream(rows, process_index=n, process_count=count) for n in range(count)]
    for _ in range(6):
        shares = [rows_in(next(part)) for part in parts]
        assert all(len(share) == 4 // count for share in shares)
        assert sorted(chain(*shares)) == sorted(rows_in(next(alone)))
    options = {"length": LENGTH, "batch_size": 4}
    shared = [
        list(ordered_batches(rows, **options, pack=False, process_index=n, process_count=count))
        for n in range(count)
    ]
    assert {len(one) for one in shared} == {3}
    assert sum((pairs(b) for one in shared for b in one), Counter()) == expected(rows)
    with pytest.raises(UserError, match="batch size 4 cannot be shared evenly by 3 processes"):
        stream(rows, process_count=3)


def test_fewer_rows_than_a_batch_make_a_full_batch():
    endless = stream(examples(3), batch_size=4)
    assert rows_in(next(endless)) == [0, 0, 0, 0]
