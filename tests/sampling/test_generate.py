"""Writing with a cache and in batches, against no cache, one by one, and `transformers`."""

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
    """Of one row in one whole pass, without a cache; what follows `length` changes nothing."""
    places = jnp.arange(row.size)[None]
    output = forward(config, params, row[None], positions=places, segment_ids=jnp.ones_like(places))
    return lm_head(config, params).matrix @ output.hidden[0, length - 1]


def uncached(params, prompt: Sequence[int], count: int, vocab_size: int) -> list[int]:
    """The likeliest tokens, one whole pass each."""
    row, length = np.zeros(20, np.int32), len(prompt)
    row[:length] = prompt
    for place in range(length, length + count):
        row[place] = np.argmax(last_logits(CONFIG, params, row, place)[:vocab_size])
    return row[length : length + count].tolist()


def test_greedy_equals_argmax_without_a_cache(params) -> None:
    written = generate(CONFIG, params, PROMPTS, GREEDY, eos_ids=[])
    assert written == [uncached(params, prompt, 8, CONFIG.vocab_size) for prompt in PROMPTS]


def test_padded_columns_of_the_head_are_never_chosen(params) -> None:
    written = generate(CONFIG, params, PROMPTS, GREEDY, eos_ids=[], vocab_size=20)
    assert written == [uncached(params, prompt, 8, 20) for prompt in PROMPTS]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "p"])
def test_a_row_does_not_depend_on_its_batch(params, sampling: Sampling) -> None:
    def written(batch_size: int, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        return generate(
            CONFIG, params, prompts, sampling, eos_ids=[3], seed=5, batch_size=batch_size
        )

    together = written(32, PROMPTS)
    assert together == written(1, PROMPTS) == written(2, PROMPTS)
    # Other neighbours, same place in the list.
    assert together[:2] == written(32, [*PROMPTS[:2], [8] * 30])[:2]


def test_seeds_and_places_in_the_list_differ(params) -> None:
    first, second = (
        generate(CONFIG, params, [[5, 6]] * 4, SAMPLED, eos_ids=[], seed=seed) for seed in (0, 1)
    )
    assert first != second
    assert len({tuple(row) for row in first}) > 1


def test_any_end_stops_its_row_and_is_kept(params) -> None:
    free = generate(CONFIG, params, PROMPTS, GREEDY, eos_ids=[])
    ends = [free[0][2], free[2][4]]
    stopped = generate(CONFIG, params, PROMPTS, GREEDY, eos_ids=ends)
    for without, row in zip(free, stopped, strict=True):
        places = [place for place, token in enumerate(without) if token in ends]
        assert row == without[: places[0] + 1 if places else None]
    assert len(stopped[0]) <= 3


def test_the_models_length_is_a_limit(params) -> None:
    prompts = [[1] * 60, [1] * 64, [1]]
    written = generate(CONFIG, params, prompts, Sampling(max_new_tokens=20), eos_ids=[])
    # The last token that fits is read, and what it predicts is written.
    assert [len(row) for row in written] == [5, 1, 20]


def test_progress_is_told_by_batch(params) -> None:
    calls = []
    written = generate(
        CONFIG,
        params,
        PROMPTS,
        GREEDY,
        eos_ids=[],
        batch_size=4,
        on_batch=lambda *numbers: calls.append(numbers),
    )
    assert [call[:2] for call in calls] == [(4, 6), (6, 6)]
    assert sum(call[2] for call in calls) == sum(map(len, written))


def test_low_precision_parameters(params) -> None:
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    written = generate(CONFIG, low, PROMPTS, SAMPLED, eos_ids=[])
    assert [len(row) for row in written] == [8] * len(PROMPTS)


def test_all_bad_prompts_are_named(params) -> None:
    with pytest.raises(UserError) as caught:
        generate(CONFIG, params, [[], [1], [1] * 65, [97], [-1, 5]], SAMPLED, eos_ids=[])
    assert [line.split(":")[0] for line in caught.value.lines] == [
        "prompt 0",
        "prompt 2",
        "prompt 3",
        "prompt 4",
    ]
    assert "token -1" in caught.value.lines[-1]


def test_a_model_that_makes_no_numbers_is_told(params) -> None:
    broken = jax.tree.map(lambda leaf: leaf, params)
    broken["final_norm"]["scale"] = broken["final_norm"]["scale"].at[3].set(jnp.nan)
    with pytest.raises(UserError, match=r"prompt \d: the model makes no numbers .* float32"):
        generate(CONFIG, broken, PROMPTS, SAMPLED, eos_ids=[0])


def test_any_whole_number_is_a_seed(params) -> None:
    def written(seed: int) -> list[list[int]]:
        return generate(CONFIG, params, PROMPTS, SAMPLED, eos_ids=[], seed=seed)

    assert written(10**20) == written(10**20 % 2**32)


def test_no_prompts() -> None:
    assert generate(CONFIG, {}, [], SAMPLED, eos_ids=[]) == []


def test_greedy_equals_transformers() -> None:
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
    params = _imported(family, config, model.state_dict())
    written = generate(config, params, PROMPTS, GREEDY, eos_ids=[3])
    for prompt, row in zip(PROMPTS, written, strict=True):
        tokens = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=8,
            do_sample=False,
        )
        assert row == tokens[0, len(prompt) :].tolist()


def _imported(family, config, state):
    tree: dict = {}
    for rule in family.rules(config):
        slices = [rule.to_params(state[name].numpy()) for _, name in rule.names(config.num_layers)]
        for path, arrays in zip(rule.paths, zip(*slices, strict=True), strict=True):
            place = tree
            for step in path[:-1]:
                place = place.setdefault(step, {})
            place[path[-1]] = np.stack(arrays) if rule.is_stacked else arrays[0]
    return tree


def test_windows_and_learned_positions(params) -> None:
    kinds = (LayerKind(window=3, rope=Rope(base=100.0)), LayerKind(rope=Rope(base=100.0)))
    config = replace(CONFIG, layers=kinds, has_learned_positions=True)
    params = init_params(config, jax.random.key(2))
    together = generate(config, params, PROMPTS, GREEDY, eos_ids=[])
    alone = generate(config, params, PROMPTS, GREEDY, eos_ids=[], batch_size=1)
    assert together == alone
