"""Batched generation with a cache equals generation without one, one by one, and `transformers`."""

import functools
from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxdistill.errors import UserError
from jaxdistill.models import DecoderConfig, LayerKind, Rope, forward, init_params, lm_head
from jaxdistill.sampling import Sampling, generate

CONFIG = tiny.decoder(initializer_range=0.5)
PROMPTS = [[5, 6, 7], [1], [9, 8, 7, 6, 5, 4, 3], [5, 6], [11] * 12, [3, 1, 4, 1, 5]]
GREEDY = Sampling(max_new_tokens=8)
SAMPLED = Sampling(max_new_tokens=8, temperature=1.0, top_p=0.9)


@pytest.fixture(scope="module")
def params():
    return init_params(CONFIG, jax.random.key(1))


@functools.partial(jax.jit, static_argnums=0)
def last_logits(config: DecoderConfig, params, row, length):
    """Compute the logits after `length` tokens of a row, without a cache."""
    positions = jnp.arange(row.size)[None]
    segment_ids = jnp.ones_like(positions)
    output = forward(config, params, row[None], positions=positions, segment_ids=segment_ids)
    return lm_head(config, params).matrix @ output.hidden[0, length - 1]


def generate_uncached(params, prompt: Sequence[int], count: int, vocab_size: int) -> list[int]:
    """Generate greedily, with one forward pass over all tokens for each new one."""
    row, length = np.zeros(20, np.int32), len(prompt)
    row[:length] = prompt
    for position in range(length, length + count):
        row[position] = np.argmax(last_logits(CONFIG, params, row, position)[:vocab_size])
    return row[length : length + count].tolist()


def test_greedy_generation_equals_argmax_without_a_cache(params) -> None:
    completions = generate(CONFIG, params, PROMPTS, GREEDY, eos_ids=[])
    assert completions == [
        generate_uncached(params, prompt, 8, CONFIG.vocab_size) for prompt in PROMPTS
    ]


def test_padding_of_the_lm_head_is_never_sampled(params) -> None:
    completions = generate(CONFIG, params, PROMPTS, GREEDY, eos_ids=[], vocab_size=20)
    assert completions == [generate_uncached(params, prompt, 8, 20) for prompt in PROMPTS]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "p"])
def test_a_completion_does_not_depend_on_its_batch(params, sampling: Sampling) -> None:
    def completions(batch_size: int, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        return generate(
            CONFIG, params, prompts, sampling, eos_ids=[3], seed=5, batch_size=batch_size
        )

    together = completions(32, PROMPTS)
    assert together == completions(1, PROMPTS) == completions(2, PROMPTS)
    # Other prompts in the batch, same index in the list.
    assert together[:2] == completions(32, [*PROMPTS[:2], [8] * 30])[:2]


def test_samples_differ_by_seed_and_by_index(params) -> None:
    first, second = (
        generate(CONFIG, params, [[5, 6]] * 4, SAMPLED, eos_ids=[], seed=seed) for seed in (0, 1)
    )
    assert first != second
    assert len({tuple(row) for row in first}) > 1


def test_any_eos_token_ends_its_completion_and_is_kept(params) -> None:
    unstopped = generate(CONFIG, params, PROMPTS, GREEDY, eos_ids=[])
    eos_ids = [unstopped[0][2], unstopped[2][4]]
    stopped = generate(CONFIG, params, PROMPTS, GREEDY, eos_ids=eos_ids)
    for expected, tokens in zip(unstopped, stopped, strict=True):
        ends = [index for index, token in enumerate(expected) if token in eos_ids]
        assert tokens == expected[: ends[0] + 1 if ends else None]
    assert len(stopped[0]) <= 3


def test_the_maximum_length_of_the_model_is_a_limit(params) -> None:
    prompts = [[1] * 60, [1] * 64, [1]]
    completions = generate(CONFIG, params, prompts, Sampling(max_new_tokens=20), eos_ids=[])
    # The last token that fits is read, and the token that it predicts is generated.
    assert [len(row) for row in completions] == [5, 1, 20]


def test_progress_is_reported_after_each_batch(params) -> None:
    calls = []
    completions = generate(
        CONFIG,
        params,
        PROMPTS,
        GREEDY,
        eos_ids=[],
        batch_size=4,
        on_batch=lambda *numbers: calls.append(numbers),
    )
    assert [call[:2] for call in calls] == [(4, 6), (6, 6)]
    assert sum(call[2] for call in calls) == sum(map(len, completions))


def test_parameters_in_bfloat16_generate(params) -> None:
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    completions = generate(CONFIG, half, PROMPTS, SAMPLED, eos_ids=[])
    assert [len(row) for row in completions] == [8] * len(PROMPTS)


def test_every_wrong_prompt_is_named(params) -> None:
    with pytest.raises(UserError) as error:
        generate(CONFIG, params, [[], [1], [1] * 65, [97], [-1, 5]], SAMPLED, eos_ids=[])
    assert [line.split(":")[0] for line in error.value.lines] == [
        "prompt 0",
        "prompt 2",
        "prompt 3",
        "prompt 4",
    ]
    assert "token -1" in error.value.lines[-1]


def test_hidden_states_with_nan_are_refused(params) -> None:
    broken = jax.tree.map(lambda leaf: leaf, params)
    broken["final_norm"]["scale"] = broken["final_norm"]["scale"].at[3].set(jnp.nan)
    with pytest.raises(UserError, match=r"prompt \d: .* hidden states have NaN .* float32"):
        generate(CONFIG, broken, PROMPTS, SAMPLED, eos_ids=[0])


def test_any_integer_is_a_seed(params) -> None:
    def completions(seed: int) -> list[list[int]]:
        return generate(CONFIG, params, PROMPTS, SAMPLED, eos_ids=[], seed=seed)

    assert completions(10**20) == completions(10**20 % 2**32)


def test_no_prompts_give_no_completions() -> None:
    assert generate(CONFIG, {}, [], SAMPLED, eos_ids=[]) == []


def test_greedy_generation_equals_transformers() -> None:
    import torch
    import transformers

    from jaxdistill.models import FAMILIES

    torch.manual_seed(0)
    hf = transformers.LlamaConfig(
        vocab_size=97,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=3,
        pad_token_id=0,
    )
    model = transformers.LlamaForCausalLM(hf).eval()
    family = FAMILIES["llama"]
    config = family.decoder_config(hf.to_dict())
    params = _import_params(family, config, model.state_dict())
    completions = generate(config, params, PROMPTS, GREEDY, eos_ids=[3])
    for prompt, row in zip(PROMPTS, completions, strict=True):
        tokens = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=8,
            do_sample=False,
        )
        assert row == tokens[0, len(prompt) :].tolist()


def _import_params(family, config, state):
    tree: dict = {}
    for rule in family.tensor_rules(config):
        names = [name for _, name in rule.tensor_names(config.num_layers)]
        slices = [rule.to_params(state[name].numpy()) for name in names]
        for path, arrays in zip(rule.paths, zip(*slices, strict=True), strict=True):
            node = tree
            for key in path[:-1]:
                node = node.setdefault(key, {})
            node[path[-1]] = np.stack(arrays) if rule.is_stacked else arrays[0]
    return tree


def test_windows_and_learned_positions_do_not_depend_on_the_batch(params) -> None:
    kinds = (LayerKind(window=3, rope=Rope(base=100.0)), LayerKind(rope=Rope(base=100.0)))
    config = replace(CONFIG, layers=kinds, has_learned_positions=True)
    params = init_params(config, jax.random.key(2))
    together = generate(config, params, PROMPTS, GREEDY, eos_ids=[])
    alone = generate(config, params, PROMPTS, GREEDY, eos_ids=[], batch_size=1)
    assert together == alone
