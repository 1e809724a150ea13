"""How likely a model finds continuations of contexts, and whether it would write them itself."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxdistill.data import Example, bucket_length, ordered_batches
from jaxdistill.evals.aggregation import sum_by_example
from jaxdistill.evals.token_metrics import TokenEvaluator
from jaxdistill.types import Batch, Params

ContextContinuation = tuple[Sequence[int], Sequence[int]]
"""The tokens of a context, at least one, and those of what follows it."""

OnProgress = Callable[[int, int, int], None]
"""Called before a batch with the pairs done, the pairs in all, and the tokens of the last batch."""


@dataclass(frozen=True)
class LogLikelihood:
    """What a model says of one continuation.

    Attributes:
        log_prob: Its log-likelihood after its context, in nats.
        is_greedy: Whether each of its tokens is the likeliest at its place.
    """

    log_prob: float
    is_greedy: bool


def log_likelihoods(
    evaluation: TokenEvaluator,
    params: Params,
    pairs: Sequence[ContextContinuation],
    *,
    max_positions: int,
    batch_size: int,
    on_progress: OnProgress | None = None,
) -> list[LogLikelihood]:
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
        _make_example(number, *pair, max_positions) for number, pair in enumerate(pairs) if pair[1]
    ]
    found = [LogLikelihood(0.0, True)] * len(pairs)
    if examples:
        batches = _batch_by_length(examples, max_positions, batch_size, on_progress)
        columns = sum_by_example(evaluation(params, batches))
        names = ("example_ids", "scored_tokens", "nll", "accuracy")
        for number, count, nll, right in zip(*(columns[name] for name in names), strict=True):
            found[number] = LogLikelihood(-float(nll), bool(right == count))
    return found


def _make_example(
    index: int, context: Sequence[int], continuation: Sequence[int], max_positions: int
) -> Example:
    tokens = np.array([*context, *continuation], np.int32)[-max_positions - 1 :]
    is_scored = np.arange(len(tokens)) >= len(tokens) - len(continuation)
    return Example(tokens, is_scored, index, f"request {index}", 0)


def _batch_by_length(
    examples: Sequence[Example], max_positions: int, batch_size: int, on_progress: OnProgress | None
) -> Iterator[Batch]:
    """Every example once, the longest first: what does not fit into memory says so at once."""
    groups: dict[int, list[Example]] = {}
    for example in sorted(examples, key=lambda example: -example.num_positions):
        length = min(max_positions, bucket_length(example.num_positions))
        groups.setdefault(length, []).append(example)
    done = tokens = 0
    for length, group in groups.items():
        size = min(batch_size, 1 << (len(group) - 1).bit_length())
        for batch in ordered_batches(group, length=length, batch_size=size, pack=False):
            if on_progress is not None:
                on_progress(done, len(examples), tokens)
            yield batch
            done += len(np.unique(batch.example_ids[batch.example_ids >= 0]))
            tokens = int((batch.segment_ids > 0).sum())
    if on_progress is not None:
        on_progress(done, len(examples), tokens)
