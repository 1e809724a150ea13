"""Batched generation with a cache equals generation without one, one by one, and `transformers`.

Most tests share two compiled programs: eight sequences, greedy or sampled, with these end tokens.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from jaxdistill.errors import UserError
from jaxdistill.models import FAMILIES, DecoderConfig, DecoderModel, LayerKind, Rope
from jaxdistill.models.decoder import abstract_params, forward, lm_head
from jaxdistill.sampling import Sampling, generate

HF = transformers.LlamaConfig(
    vocab_size=97,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=16,
    initializer_range=0.5,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=0,
)
CONFIG = FAMILIES["llama"].decoder_config(HF.to_dict())
MODEL = DecoderModel(CONFIG)
PROMPTS = [[5, 6, 7], [1], [9, 8, 7, 6, 5, 4, 3], [5, 6], [11] * 12, [3, 1, 4, 1, 5]]
GREEDY = Sampling(max_new_tokens=8)
SAMPLED = Sampling(max_new_tokens=8, temperature=1.0, top_p=0.9)
END_IDS = [52, 75]
"""The model generates each of them in some greedy completion of the prompts."""


@pytest.fixture(scope="module")
def original() -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(HF).eval()


@pytest.fixture(scope="module")
def params(original) -> dict[str, Any]:
    state, tree = original.state_dict(), {}
    for rule in FAMILIES["llama"].tensor_rules(CONFIG):
        names = [name for _, name in rule.tensor_names(CONFIG.num_layers)]
        slices = [rule.to_params(state[name].numpy()) for name in names]
        for path, arrays in zip(rule.paths, zip(*slices, strict=True), strict=True):
            node = tree
            for key in path[:-1]:
                node = node.setdefault(key, {})
            node[path[-1]] = np.stack(arrays) if rule.is_stacked else arrays[0]
    return jax.tree.map(jnp.asarray, tree)


@functools.partial(jax.jit, static_argnums=0)
def all_logits(config: DecoderConfig, params, rows):
    """Compute the logits after each token of each row, without a cache."""
    positions = jnp.broadcast_to(jnp.arange(rows.shape[1])[None], rows.shape)
    segment_ids = jnp.ones_like(positions)
    output = forward(config, params, rows, positions=positions, segment_ids=segment_ids)
    return output.hidden @ lm_head(config, params).matrix.T


def generate_uncached(
    params, vocab_size: int, *, config: DecoderConfig = CONFIG, end_ids: Sequence[int] = ()
) -> list[list[int]]:
    """Continue the prompts greedily, with a forward pass over all tokens for each new one."""
    rows, lengths = np.zeros((len(PROMPTS), 20), np.int32), np.array([*map(len, PROMPTS)])
    for row, prompt in zip(rows, PROMPTS, strict=True):
        row[: len(prompt)] = prompt
    indices = np.arange(len(PROMPTS))
    for step in range(GREEDY.max_new_tokens):
        logits = np.asarray(all_logits(config, params, rows))[..., :vocab_size]
        rows[indices, lengths + step] = logits[indices, lengths + step - 1].argmax(axis=1)
    completions = []
    for row, length in zip(rows.tolist(), lengths, strict=True):
        # The last token that fits is read, and the token that it predicts is generated.
        completion = row[length : min(length + GREEDY.max_new_tokens, config.max_positions + 1)]
        ends = [index + 1 for index, token in enumerate(completion) if token in end_ids]
        completions.append(completion[: ends[0] if ends else None])
    return completions


def test_greedy_generation_equals_argmax_without_a_cache(params) -> None:
    """Completions end with any end token, which is kept, or where the model's positions end."""
    completions = generate(MODEL, params, PROMPTS, GREEDY, eos_ids=END_IDS)
    assert completions == generate_uncached(params, CONFIG.vocab_size, end_ids=END_IDS)
    lasts = {completion[-1] for completion in completions if len(completion) < 8}
    assert lasts >= set(END_IDS)
    assert 8 in map(len, completions)


def test_padding_of_the_lm_head_is_never_sampled(params) -> None:
    completions = generate(MODEL, params, PROMPTS, GREEDY, eos_ids=[], vocab_size=20)
    assert completions == generate_uncached(params, 20)
    assert [len(row) for row in completions] == [8, 8, 8, 8, 5, 8]


def test_a_completion_does_not_depend_on_its_batch(params) -> None:
    """A batch of 8 (two of them padding) equals batches of 1, and other prompts beside the same."""

    def completions(batch_size: int, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        return generate(
            MODEL, params, prompts, SAMPLED, eos_ids=END_IDS, seed=5, batch_size=batch_size
        )

    together = completions(32, PROMPTS)
    assert together == completions(1, PROMPTS)
    others = [[8] * 15, [7], [6, 5], [4] * 9]
    assert together[:2] == completions(32, [*PROMPTS[:2], *others])[:2]


def test_samples_differ_by_seed_and_by_index(params) -> None:
    first, second = (
        generate(MODEL, params, [[5, 6]] * 6, SAMPLED, eos_ids=END_IDS, seed=seed)
        for seed in (0, 1)
    )
    assert first != second
    assert len({tuple(row) for row in first}) > 1


def test_the_maximum_length_of_the_model_is_a_limit(params) -> None:
    prompts = [[1] * 12, [1] * 16, [1], [1] * 15, [2], [3]]
    completions = generate(MODEL, params, prompts, GREEDY, eos_ids=END_IDS)
    assert [len(row) for row in completions[:2]] == [5, 1]
    assert len(completions[3]) == 2


def test_progress_is_reported_after_each_batch(params) -> None:
    calls = []
    completions = generate(
        MODEL,
        params,
        [*PROMPTS, [4], [2], [3, 3]],
        SAMPLED,
        eos_ids=END_IDS,
        batch_size=8,
        on_batch=lambda *numbers: calls.append(numbers),
    )
    assert [call[:2] for call in calls] == [(8, 9), (9, 9)]
    assert sum(call[2] for call in calls) == sum(map(len, completions))


def test_parameters_in_bfloat16_generate(params) -> None:
    half = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf).astype(jnp.bfloat16)), params)
    completions = generate(MODEL, half, PROMPTS, GREEDY, eos_ids=[])
    assert [len(row) for row in completions] == [8, 8, 8, 8, 5, 8]


def test_every_wrong_prompt_is_named(params) -> None:
    with pytest.raises(UserError) as error:
        generate(MODEL, params, [[], [1], [1] * 17, [97], [-1, 5]], SAMPLED, eos_ids=[])
    assert [line.split(":")[0] for line in error.value.lines] == [
        "prompt 0",
        "prompt 2",
        "prompt 3",
        "prompt 4",
    ]
    assert "token -1" in error.value.lines[-1]


def test_hidden_states_with_nan_are_refused(params) -> None:
    scale = np.array(params["final_norm"]["scale"])
    scale[3] = np.nan
    broken = {**params, "final_norm": {**params["final_norm"], "scale": jnp.asarray(scale)}}
    with pytest.raises(UserError, match=r"prompt \d: .* hidden states have NaN .* float32"):
        generate(MODEL, broken, PROMPTS, SAMPLED, eos_ids=END_IDS)


def test_any_integer_is_a_seed(params) -> None:
    def completions(seed: int) -> list[list[int]]:
        return generate(MODEL, params, PROMPTS, SAMPLED, eos_ids=END_IDS, seed=seed)

    assert completions(10**20) == completions(10**20 % 2**32)


def test_no_prompts_give_no_completions() -> None:
    assert generate(MODEL, {}, [], SAMPLED, eos_ids=[]) == []


def test_greedy_generation_equals_transformers(original, params) -> None:
    prompts = [prompt if len(prompt) < 9 else [11] * 8 for prompt in PROMPTS]
    completions = generate(MODEL, params, prompts, GREEDY, eos_ids=END_IDS)
    for prompt, row in zip(prompts, completions, strict=True):
        tokens = original.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=END_IDS,
        )
        assert row == tokens[0, len(prompt) :].tolist()


def test_windows_and_learned_positions_equal_argmax_without_a_cache() -> None:
    kinds = (LayerKind(window=3, rope=Rope(base=100.0)), LayerKind(rope=Rope(base=100.0)))
    config = replace(CONFIG, layers=kinds, has_learned_positions=True, max_positions=32)
    random = np.random.default_rng(2)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(0, 0.5, leaf.shape), leaf.dtype),
        abstract_params(config),
    )
    completions = generate(DecoderModel(config), params, PROMPTS, GREEDY, eos_ids=[])
    assert completions == generate_uncached(params, config.vocab_size, config=config)
