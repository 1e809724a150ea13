"""From token sequences of any length to rows of equal length, several to a row where they fit."""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from jaxdistill.data.examples import Example
from jaxdistill.types import Batch


def best_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Put things into bins, the largest first, each where it leaves the least room.

    Args:
        sizes: Of each thing, between 1 and `capacity`.
        capacity: Of a bin.

    Returns:
        The numbers of the things in each bin; every thing once.
    """
    bins: list[list[int]] = []
    by_room: dict[int, list[int]] = defaultdict(list)  # room left -> the bins that have it
    rooms: list[int] = []  # the keys of `by_room` that have bins, in order
    for thing in sorted(range(len(sizes)), key=lambda thing: -sizes[thing]):
        size = sizes[thing]
        place = bisect_left(rooms, size)
        if place < len(rooms):
            room = rooms[place]
            chosen = by_room[room].pop()
            if not by_room[room]:
                rooms.pop(place)
        else:
            room, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(thing)
        if not by_room[room - size]:
            insort(rooms, room - size)
        by_room[room - size].append(chosen)
    return bins


def sequence(examples: Sequence[Example], length: int) -> Batch:
    """The examples one after the other in `length` places (a Batch without a batch axis).

    Each is a segment of its own, 1 for the first; what is left is padding, segment 0. The labels
    are shifted here: the place that reads token t of an example has token t + 1 as its label.
    """
    tokens, labels, positions, segment_ids = np.zeros((4, length), dtype=np.int32)
    row_ids = np.full(length, -1, dtype=np.int32)
    loss_mask = np.zeros(length, dtype=np.float32)
    start = 0
    for segment, example in enumerate(examples, start=1):
        end = start + example.num_places
        tokens[start:end] = example.tokens[:-1]
        labels[start:end] = example.tokens[1:]
        loss_mask[start:end] = example.loss_mask[1:]
        positions[start:end] = np.arange(example.num_places)
        segment_ids[start:end] = segment
        row_ids[start:end] = example.row_id
        start = end
    return Batch(
        tokens=tokens,
        labels=labels,
        loss_mask=loss_mask,
        positions=positions,
        segment_ids=segment_ids,
        row_ids=row_ids,
    )


def rounded_length(length: int) -> int:
    """A length at least as great out of few, so that few programs are compiled.

    There are two an octave: 32, 64, 96, 128, 192, 256, 384, ...
    """
    step = max(32, 1 << max(0, length.bit_length() - 2))
    return -(-length // step) * step
