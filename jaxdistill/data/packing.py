"""From token sequences of any length to rows of equal length, several to a row where they fit."""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jaxdistill.data.examples import Example, TeacherExample
from jaxdistill.types import Batch, TokenAlignment


def best_fit_decreasing(sizes: Sequence[int], capacity: int) -> list[list[int]]:
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


def pack_sequence(
    examples: Sequence[Example], length: int, *, has_teacher_view: bool = False
) -> Batch:
    """The examples one after the other in `length` places (a Batch without a batch axis).

    Each is a segment of its own, 1 for the first; what is left is padding, segment 0. The labels
    are shifted here: the place that reads token t of an example has token t + 1 as its label.

    Args:
        examples: What stands in it.
        length: How many places there are.
        has_teacher_view: Whether examples have counterparts, which fill as many places of the teacher's.
    """
    batch = _concatenate(examples, [one.row_id for one in examples], length)
    return replace(batch, pairing=_pairing(examples, length)) if has_teacher_view else batch


def _concatenate(
    examples: Sequence[Example | TeacherExample], example_ids: Sequence[int], length: int
) -> Batch:
    tokens, labels, positions, segment_ids = np.zeros((4, length), dtype=np.int32)
    rows = np.full(length, -1, dtype=np.int32)
    loss_mask = np.zeros(length, dtype=np.float32)
    for segment, (one, here) in enumerate(
        zip(examples, _segment_slices(examples), strict=True), start=1
    ):
        tokens[here] = one.tokens[:-1]
        labels[here] = one.tokens[1:]
        loss_mask[here] = one.loss_mask[1:]
        positions[here] = np.arange(len(one.tokens) - 1)
        segment_ids[here] = segment
        rows[here] = example_ids[segment - 1]
    return Batch(
        tokens=tokens,
        labels=labels,
        loss_mask=loss_mask,
        positions=positions,
        segment_ids=segment_ids,
        example_ids=rows,
    )


def _pairing(examples: Sequence[Example], length: int) -> TokenAlignment:
    counterparts = [one.teacher_example for one in examples if one.teacher_example is not None]
    student_span_ids, teacher_span_ids = np.full((2, length), -1, dtype=np.int32)
    weight = np.zeros(length, dtype=np.float32)
    places = zip(
        counterparts, _segment_slices(examples), _segment_slices(counterparts), strict=True
    )
    for one, here, there in places:
        weight[here] = one.weight[1:]
        # The group that token n ends is that of the place before it, which predicts it.
        for groups, numbers, at in (
            (student_span_ids, one.student_span_ids, here),
            (teacher_span_ids, one.teacher_span_ids, there),
        ):
            groups[at] = np.where(numbers[1:] >= 0, here.start + numbers[1:] - 1, -1)
    return TokenAlignment(
        teacher=_concatenate(counterparts, [one.row_id for one in examples], length),
        span_weight=weight,
        student_span_ids=student_span_ids,
        teacher_span_ids=teacher_span_ids,
    )


def _segment_slices(examples: Sequence[Example | TeacherExample]) -> list[slice]:
    """Where each stands: a token less than it has, for the last one is only predicted."""
    ends = np.cumsum([len(one.tokens) - 1 for one in examples], dtype=np.int64).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def bucket_length(length: int) -> int:
    """A length at least as great out of few, so that few programs are compiled.

    There are two an octave: 32, 64, 96, 128, 192, 256, 384, ...
    """
    step = max(32, 1 << max(0, length.bit_length() - 2))
    return -(-length // step) * step
