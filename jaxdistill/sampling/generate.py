"""Continuing prompts in batches, with a cache of keys and values and the loop on the device.

What is written for a prompt depends on its tokens, its place in the list and the seed, and on
nothing else: not on the batch it shares or on how large batches are.
"""

import functools
from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from jaxdistill.errors import UserError
from jaxdistill.models import DecoderConfig, forward, head, init_cache
from jaxdistill.objectives import wall
from jaxdistill.sampling.config import Sampling
from jaxdistill.sampling.select import select
from jaxdistill.types import Params

OnBatch = Callable[[int, int, int], None]
"""Called after a batch with the prompts done, the prompts in all, and the tokens just written."""

_NOTHING = -1
"""Stands in the array of written tokens where a row has ended."""


def generate(
    config: DecoderConfig,
    params: Params,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    eos_ids: Collection[int],
    seed: int = 0,
    vocab_size: int | None = None,
    batch_size: int = 32,
    on_batch: OnBatch | None = None,
) -> list[list[int]]:
    """Continue every prompt until the model ends it, or `sampling` or the model's length does.

    Prompts of similar length go through together, and shapes are rounded up, so that few
    programs are compiled.

    Args:
        config: The model's shape.
        params: Its parameters.
        prompts: Token ids of each prompt, at least one token each.
        sampling: How the next token is chosen, and how many there are at most.
        eos_ids: The tokens that end an answer.
        seed: Decides what is sampled, for each prompt by its place in the list.
        vocab_size: How many tokens the tokenizer has; rows of the head beyond that are never
            chosen. None for all of them.
        batch_size: How many prompts are continued at a time.
        on_batch: Is told of the progress.

    Returns:
        The new tokens of each prompt in the given order, the one that ended it included.

    Raises:
        UserError: naming every prompt that is empty, too long, or not made of known tokens.
    """
    _check(config, prompts)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), np.arange(len(prompts)))
    answers: list[list[int]] = [[] for _ in prompts]
    by_length = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    for first in range(0, len(by_length), batch_size):
        numbers = by_length[first : first + batch_size]
        tokens, lengths = _padded([prompts[number] for number in numbers], batch_size)
        written = _write(
            config,
            sampling,
            tuple(sorted(eos_ids)),
            vocab_size,
            params,
            tokens,
            lengths,
            keys[np.resize(numbers, len(tokens))],
        )
        rows = np.asarray(written)[: len(numbers)]
        for number, row in zip(numbers, rows, strict=True):
            answers[number] = row[row != _NOTHING].tolist()
        if on_batch is not None:
            on_batch(first + len(numbers), len(prompts), int((rows != _NOTHING).sum()))
    return answers


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _write(
    config: DecoderConfig,
    sampling: Sampling,
    eos_ids: tuple[int, ...],
    vocab_size: int | None,
    params: Params,
    prompts: Int[Array, "B T"],
    lengths: Int[Array, " B"],
    keys: Key[Array, " B"],
) -> Int[Array, "B new"]:
    """New tokens of every row, `_NOTHING` after its end; rows of length 0 are padding."""
    batch, time = prompts.shape
    unembedding = head(config, params, vocab_size=vocab_size)
    ends = jnp.array(eos_ids, jnp.int32)

    def choose(hidden, number):
        logits = wall.logits(hidden, unembedding)
        return select(logits, jax.vmap(jax.random.fold_in, (0, None))(keys, number), sampling)

    def record(written, number, token, is_done):
        """Write token `number`; a row is done when it ended or has no position to read it at."""
        written = written.at[:, number].set(jnp.where(is_done, _NOTHING, token))
        is_end = (token[:, None] == ends[None]).any(axis=1)
        return written, is_done | is_end | (lengths + number >= config.max_positions)

    def advance(state):
        number, token, is_done, written, cache = state
        output = forward(
            config,
            params,
            token[:, None],
            positions=(lengths + number - 1)[:, None],
            segment_ids=jnp.ones((batch, 1), jnp.int32),
            cache=cache,
        )
        token = choose(output.hidden[:, 0], number)
        written, is_done = record(written, number, token, is_done)
        return number + 1, token, is_done, written, output.cache

    places = jnp.broadcast_to(jnp.arange(time)[None], (batch, time))
    output = forward(
        config,
        params,
        prompts,
        positions=places,
        segment_ids=(places < lengths[:, None]).astype(jnp.int32),
        cache=init_cache(config, batch, time + sampling.max_new_tokens - 1, _dtype(params)),
    )
    last = jnp.maximum(lengths - 1, 0)[:, None, None]
    token = choose(jnp.take_along_axis(output.hidden, last, axis=1)[:, 0], 0)
    written = jnp.full((batch, sampling.max_new_tokens), _NOTHING, jnp.int32)
    written, is_done = record(written, 0, token, lengths == 0)
    state = (1, token, is_done, written, output.cache)
    return jax.lax.while_loop(
        lambda state: (state[0] < sampling.max_new_tokens) & ~state[2].all(), advance, state
    )[3]


def _padded(
    prompts: Sequence[Sequence[int]], batch_size: int
) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, " B"]]:
    """The prompts as rows of one of few shapes, and their lengths; padding rows have length 0."""
    rows = min(batch_size, 1 << (len(prompts) - 1).bit_length())
    longest = max(map(len, prompts))
    # Two lengths an octave: 32, 64, 96, 128, 192, 256, 384, ...
    step = max(32, 1 << max(0, longest.bit_length() - 2))
    tokens = np.zeros((rows, -(-longest // step) * step), np.int32)
    lengths = np.zeros(rows, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
        lengths[row] = len(prompt)
    return tokens, lengths


def _dtype(params: Params) -> np.dtype:
    return jax.tree.leaves(params["embedding"])[0].dtype


def _check(config: DecoderConfig, prompts: Sequence[Sequence[int]]) -> None:
    findings = []
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            findings.append(
                f"prompt {number}: it has no token. Begin it with the tokenizer's first token "
                "(BOS), or with a text."
            )
        elif len(prompt) > config.max_positions:
            findings.append(
                f"prompt {number}: it has {len(prompt):,} tokens, and the model reads "
                f"{config.max_positions:,} at most. Shorten it."
            )
        elif min(prompt) < 0 or max(prompt) >= config.vocab_size:
            findings.append(
                f"prompt {number}: it has token {max(prompt)}, and the model knows 0 to "
                f"{config.vocab_size - 1}. Encode it with the model's own tokenizer."
            )
    if findings:
        raise UserError(*findings)
