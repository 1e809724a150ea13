"""Log-likelihoods of continuations of contexts."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxdistill.data import Example, ProgressCallback, bucket_length, ordered_batches
from jaxdistill.evals.aggregation import sum_by_example
from jaxdistill.evals.token_metrics import TokenEvaluator
from jaxdistill.types import Batch, Params

ContextContinuation = tuple[Sequence[int], Sequence[int]]
"""The tokens of a context, at least one, and of its continuation."""


class LogLikelihood(NamedTuple):
    """Log-probability of a continuation in nats, and True if greedy decoding gives it."""

    log_prob: float
    is_greedy: bool


def log_likelihoods(
    evaluator: TokenEvaluator,
    params: Params,
    pairs: Sequence[ContextContinuation],
    *,
    max_positions: int,
    batch_size: int,
    on_progress: ProgressCallback,
) -> list[LogLikelihood]:
    """Compute the log-likelihood of each continuation, in the given order.

    Pairs of similar length share a batch of at most `batch_size`, and shapes are rounded up, so
    that few programs are compiled. Pairs longer than `max_positions` lose the beginning of their
    context; no continuation may be longer. An empty continuation has probability 1. `on_progress`
    is called before each batch and at the end.
    """
    examples = [
        _make_example(index, *pair, max_positions) for index, pair in enumerate(pairs) if pair[1]
    ]
    results = [LogLikelihood(0.0, True)] * len(pairs)
    if examples:
        batches = _batch_by_length(examples, max_positions, batch_size, on_progress)
        sums = sum_by_example(evaluator(params, batches))
        columns = (sums[name] for name in ("example_ids", "scored_tokens", "nll", "accuracy"))
        for index, count, nll, num_correct in zip(*columns, strict=True):
            results[index] = LogLikelihood(-float(nll), bool(num_correct == count))
    return results


def _make_example(
    index: int, context: Sequence[int], continuation: Sequence[int], max_positions: int
) -> Example:
    tokens = np.array([*context, *continuation], np.int32)[-max_positions - 1 :]
    is_scored = np.arange(len(tokens)) >= len(tokens) - len(continuation)
    return Example(tokens, is_scored, index, f"request {index}", 0)


def _batch_by_length(
    examples: Sequence[Example],
    max_positions: int,
    batch_size: int,
    on_progress: ProgressCallback,
) -> Iterator[Batch]:
    """Yield every example once, the longest first: a lack of memory shows in the first batch."""
    buckets: dict[int, list[Example]] = {}
    for example in sorted(examples, key=lambda example: -example.num_positions):
        length = min(max_positions, bucket_length(example.num_positions))
        buckets.setdefault(length, []).append(example)
    done = tokens = 0
    for length, bucket in buckets.items():
        size = min(batch_size, 1 << (len(bucket) - 1).bit_length())
        for batch in ordered_batches(bucket, length=length, batch_size=size, pack=False):
            on_progress(done, len(examples), tokens)
            yield batch
            done += len(np.unique(batch.example_ids[batch.example_ids >= 0]))
            tokens = int((batch.segment_ids > 0).sum())
    on_progress(done, len(examples), tokens)
