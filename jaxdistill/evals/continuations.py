"""How likely a model finds continuations of contexts, and whether it would write them itself."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxdistill.data import Example, ordered_batches, rounded_length
from jaxdistill.evals.places import Evaluation
from jaxdistill.evals.summary import by_row
from jaxdistill.types import Batch, Params

Pair = tuple[Sequence[int], Sequence[int]]
"""The tokens of a context, at least one, and those of what follows it."""

OnScored = Callable[[int, int, int], None]
"""Called before a batch with the pairs done, the pairs in all, and the tokens of the last batch."""


@dataclass(frozen=True)
class Likelihood:
    """What a model says of one continuation.

    Attributes:
        log_prob: Its log-likelihood after its context, in nats.
        is_greedy: Whether each of its tokens is the likeliest at its place.
    """

    log_prob: float
    is_greedy: bool


def likelihoods(
    evaluation: Evaluation,
    params: Params,
    pairs: Sequence[Pair],
    *,
    max_positions: int,
    batch_size: int,
    on_scored: OnScored | None = None,
) -> list[Likelihood]:
    """Of each continuation after its context, in the given order.

    Pairs of similar length are read together, and shapes are rounded up, so that few programs are
    compiled. Of a pair that is longer than the model reads, the beginning is left out.

    Args:
        evaluation: Reads with the model.
        params: The model's parameters.
        pairs: Contexts and continuations; one of no tokens is certain.
        max_positions: How many tokens the model reads; no continuation is longer.
        batch_size: Pairs that are read together.
        on_scored: Is told of the progress.
    """
    examples = [
        _example(number, *pair, max_positions) for number, pair in enumerate(pairs) if pair[1]
    ]
    found = [Likelihood(0.0, True)] * len(pairs)
    if examples:
        batches = _batches(examples, max_positions, batch_size, on_scored)
        columns = by_row(evaluation(params, batches))
        names = ("row_ids", "scored_tokens", "nll", "accuracy")
        for number, count, nll, right in zip(*(columns[name] for name in names), strict=True):
            found[number] = Likelihood(-float(nll), bool(right == count))
    return found


def _example(
    number: int, context: Sequence[int], continuation: Sequence[int], max_positions: int
) -> Example:
    tokens = np.array([*context, *continuation], np.int32)[-max_positions - 1 :]
    is_scored = np.arange(len(tokens)) >= len(tokens) - len(continuation)
    return Example(tokens, is_scored, number, f"request {number}", 0)


def _batches(
    examples: Sequence[Example], max_positions: int, batch_size: int, on_scored: OnScored | None
) -> Iterator[Batch]:
    """Every example once, the longest first: what does not fit into memory says so at once."""
    groups: dict[int, list[Example]] = {}
    for example in sorted(examples, key=lambda example: -example.num_places):
        length = min(max_positions, rounded_length(example.num_places))
        groups.setdefault(length, []).append(example)
    done = tokens = 0
    for length, group in groups.items():
        size = min(batch_size, 1 << (len(group) - 1).bit_length())
        for batch in ordered_batches(group, length=length, batch_size=size, pack=False):
            if on_scored is not None:
                on_scored(done, len(examples), tokens)
            yield batch
            done += len(np.unique(batch.row_ids[batch.row_ids >= 0]))
            tokens = int((batch.segment_ids > 0).sum())
    if on_scored is not None:
        on_scored(done, len(examples), tokens)
