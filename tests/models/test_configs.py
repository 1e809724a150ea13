"""Every key of a `config.json` and every field of a DecoderConfig has an effect, or is refused."""

from dataclasses import fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from tiny_models import GEMMA, GPT2, LLAMA, LLAMA3_ROPE, NEO, VARIANTS, YARN, project, run
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from jaxdistill.errors import UserError
from jaxdistill.models import (
    FAMILIES,
    Activation,
    DecoderConfig,
    LayerKind,
    NormKind,
    Rope,
    RopeKind,
)
from jaxdistill.models.decoder import abstract_params, lm_head
from jaxdistill.models.rope import rope_frequencies

ROPE = Rope(base=100.0)
BASE = DecoderConfig(
    vocab_size=61,
    embed_dim=24,
    mlp_dim=40,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    layers=(LayerKind(rope=ROPE),) * 2,
    max_positions=32,
    has_learned_positions=True,
    query_scale=0.3,
    initializer_range=0.2,
)
CHANGES: dict[str, Any] = {
    "vocab_size": 64,
    "embed_dim": 32,
    "mlp_dim": 48,
    "num_heads": 2,
    "num_kv_heads": 4,
    "head_dim": 10,
    "layers": (LayerKind(rope=ROPE, window=3),) * 2,
    "max_positions": 40,
    "has_learned_positions": False,
    "norm": NormKind.LAYER,
    "norm_epsilon": 0.1,
    "has_query_key_norm": True,
    "has_post_norms": True,
    "activation": Activation.GELU,
    "is_gated": False,
    "has_query_key_value_bias": True,
    "has_attention_output_bias": True,
    "has_mlp_bias": True,
    "query_scale": 0.5,
    "is_scaled_by_inverse_layer": True,
    "embed_scale": 2.0,
    "has_tied_embeddings": True,
    "logit_soft_cap": 2.0,
    "initializer_range": 0.3,
}
SCALED_ROPE = Rope(
    base=100.0,
    kind=RopeKind.YARN,
    factor=4.0,
    original_max_positions=64,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
)
ROPE_CHANGES: dict[str, Any] = {
    "base": 1000.0,
    "kind": RopeKind.LLAMA3,
    "factor": 8.0,
    "original_max_positions": 32,
    "low_freq_factor": 0.1,
    "high_freq_factor": 9.0,
    "attention_factor": 1.5,
    "is_truncated": False,
}


def shapes(config: DecoderConfig) -> Any:
    return jax.tree.map(lambda leaf: leaf.shape, abstract_params(config))


def logits(config: DecoderConfig) -> np.ndarray:
    """Compute logits with random parameters that depend on their shapes only."""
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(0, 0.2, leaf.shape), leaf.dtype),
        abstract_params(config),
    )
    hidden = run(config, params, np.arange(20).reshape(2, 10))
    return project(lm_head(config, params), hidden)


@pytest.fixture(scope="module")
def base_logits() -> np.ndarray:
    return logits(BASE)


def test_all_fields_are_tested() -> None:
    assert set(CHANGES) == {field.name for field in fields(DecoderConfig)}
    assert set(ROPE_CHANGES) == {field.name for field in fields(Rope)}


@pytest.mark.parametrize(
    "name", sorted(set(CHANGES) - {"initializer_range"})
)  # see test_every_family.py
def test_every_field_has_an_effect(name: str, base_logits: np.ndarray) -> None:
    config = replace(BASE, **{name: CHANGES[name]})
    if shapes(config) == shapes(BASE):
        assert np.abs(logits(config) - base_logits).max() > 1e-3


@pytest.mark.parametrize("activation", Activation)
def test_no_two_activations_are_equal(activation: Activation) -> None:
    from jaxdistill.models.layers import ACTIVATION_FUNCTIONS

    x = np.linspace(-3, 3, 50, dtype=np.float32)
    for other in set(Activation) - {activation}:
        difference = ACTIVATION_FUNCTIONS[activation](x) - ACTIVATION_FUNCTIONS[other](x)
        assert np.abs(difference).max() > 1e-5


@pytest.mark.parametrize("name", ROPE_CHANGES, ids="rope-{}".format)
def test_every_rope_field_has_an_effect(name: str) -> None:
    changed = replace(SCALED_ROPE, **{name: ROPE_CHANGES[name]})
    before, after = (
        np.append(rope_frequencies(rope, 64), rope.attention_factor)
        for rope in (SCALED_ROPE, changed)
    )
    assert np.abs(before - after).max() > 1e-6


@pytest.mark.parametrize(
    ("parameters", "positions"),
    [
        ({"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}, 8192),
        ({**LLAMA3_ROPE, "original_max_position_embeddings": 8192, "rope_theta": 5e5}, 131_072),
        ({**YARN, "original_max_position_embeddings": 32_768, "rope_theta": 1e6}, 131_072),
        ({**YARN, "truncate": False, "beta_slow": 2, "attention_factor": 1.3}, 131_072),
        ({**YARN, "mscale": 0.7, "mscale_all_dim": 1.2, "beta_fast": 8}, 131_072),
    ],
)
def test_frequencies_equal_transformers_at_full_size(
    parameters: dict[str, Any], positions: int
) -> None:
    hf = {
        "model_type": "llama",
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "max_position_embeddings": positions,
        "rope_parameters": parameters,
    }
    original = transformers.AutoConfig.for_model(**hf)
    expected, attention_factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](original, "cpu")
    rope = FAMILIES["llama"].decoder_config(hf).layers[0].rope
    assert rope is not None
    np.testing.assert_allclose(rope_frequencies(rope, 128), expected.numpy(), rtol=2e-6)
    assert rope.attention_factor == pytest.approx(attention_factor, rel=1e-12)


SHARED_KEYS: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 12,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-3,
    "tie_word_embeddings": True,
    "initializer_range": 0.1,
    "rope_theta": 77.0,
    "rope_scaling": {"rope_type": "linear", "factor": 3.0},
    "partial_rotary_factor": 0.5,
    "quantization_config": {"quant_method": "gptq"},
    "num_local_experts": 8,
}
SHARED_GPT: dict[str, Any] = {
    "vocab_size": 64,
    "layer_norm_epsilon": 1e-3,
    "activation_function": "relu",
    "tie_word_embeddings": False,
    "initializer_range": 0.1,
}
SILU_KEYS = {**SHARED_KEYS, "hidden_act": "gelu", "rope_parameters": {"rope_theta": 9.0}}
KEYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama": (
        LLAMA,
        {
            **SILU_KEYS,
            "attention_bias": True,
            "mlp_bias": True,
            "pretraining_tp": 2,
            "rope_interleaved": True,
        },
    ),
    "mistral": ({**LLAMA, "model_type": "mistral"}, {**SILU_KEYS, "sliding_window": 7}),
    "qwen2": (
        {
            **LLAMA,
            "model_type": "qwen2",
            "sliding_window": 9,
            "use_sliding_window": True,
            "max_window_layers": 2,
        },
        {
            **SILU_KEYS,
            "use_sliding_window": False,
            "max_window_layers": 1,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "gpt2": (
        GPT2,
        {
            **SHARED_GPT,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 16,
            "n_inner": 7,
            "num_hidden_layers": 2,
            "scale_attn_weights": False,
            "scale_attn_by_inverse_layer_idx": True,
            "add_cross_attention": True,
        },
    ),
    "gpt_neo": (
        NEO,
        {
            **SHARED_GPT,
            "hidden_size": 32,
            "num_heads": 2,
            "num_layers": 2,
            "max_position_embeddings": 16,
            "intermediate_size": 7,
            "window_size": 7,
            "attention_types": [[["global"], 4]],
            "attention_layers": ["local"] * 4,
        },
    ),
    "gemma3": (
        {**GEMMA, "layer_types": None, "sliding_window_pattern": 2},
        {
            **SHARED_KEYS,
            "tie_word_embeddings": False,
            "hidden_activation": "silu",
            "query_pre_attn_scalar": 7,
            "sliding_window": 7,
            "sliding_window_pattern": 3,
            "layer_types": ["full_attention"] * 4,
            "rope_local_base_freq": 7.0,
            "rope_parameters": {"sliding_attention": {"rope_theta": 9.0}},
            "attention_bias": True,
            "final_logit_softcapping": 5.0,
            "attn_logit_softcapping": 5.0,
            "use_bidirectional_attention": True,
        },
    ),
}


@pytest.mark.parametrize(
    ("family", "key"), [(family, key) for family in KEYS for key in KEYS[family][1]]
)
def test_every_key_is_read_or_refused(family: str, key: str) -> None:
    hf, changes = KEYS[family]
    read = FAMILIES[hf["model_type"]].decoder_config
    message = ""
    try:
        config = read({**hf, key: changes[key]})
    except UserError as error:
        config, message = None, str(error)
    assert config != read(hf)
    assert config is not None or key in message


ROPE_KEYS = [{"rope_theta", "rope_scaling", "rope_local_base_freq"}, {"rope_parameters"}]
"""Keys of the rotary embedding in transformers 4 and in transformers 5."""


@pytest.mark.parametrize("other_keys", ROPE_KEYS, ids=["5", "4"])
@pytest.mark.parametrize("name", VARIANTS)
def test_rope_is_written_in_the_keys_of_both_versions(name: str, other_keys: set[str]) -> None:
    family = FAMILIES[VARIANTS[name]["model_type"]]
    config = family.decoder_config(VARIANTS[name])
    written = family.hf_config(config, VARIANTS[name])
    one_version = {key: written[key] for key in written.keys() - other_keys}
    assert family.decoder_config(one_version) == config
    assert "rope_theta" not in (written.get("rope_scaling") or {})  # version 4 reads it elsewhere


def test_llama3_rope_is_written_as_in_the_files_of_both_versions() -> None:
    parameters = {**LLAMA3_ROPE, "rope_theta": 500_000.0}
    hf = {**LLAMA, "rope_parameters": parameters}
    written = FAMILIES["llama"].hf_config(FAMILIES["llama"].decoder_config(hf), hf)
    assert written["rope_theta"] == 500_000.0
    assert written["rope_scaling"] == LLAMA3_ROPE
    assert written["rope_parameters"] == parameters


@pytest.mark.parametrize("kept", [[0, 2], [1], [0, 1]])
def test_gemma3_keeps_both_bases_with_any_layers(kept: list[int]) -> None:
    hf = VARIANTS["gemma3-nested"]
    config = FAMILIES["gemma3_text"].decoder_config(hf)
    config = replace(config, layers=tuple(config.layers[layer] for layer in kept))
    written = FAMILIES["gemma3_text"].hf_config(config, hf)
    assert (written["rope_theta"], written["rope_local_base_freq"]) == (2000.0, 70.0)
    assert written["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}


def test_gemma3_refuses_a_scaling_that_only_transformers_5_knows() -> None:
    sliding = {"rope_type": "linear", "factor": 2.0}
    with pytest.raises(UserError, match=r"sliding_attention.rope_type` is 'linear', expected def"):
        FAMILIES["gemma3_text"].decoder_config(
            {**GEMMA, "rope_parameters": {"sliding_attention": sliding}}
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "silo"}, "`hidden_act` is 'silo'"),
        ({"hidden_act": "silo"}, "Did you mean `silu`?"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "`low_freq_factor` is missing"),
        ({"rope_scaling": 3}, "`rope_scaling` is 3"),
        ({"num_hidden_layers": "4"}, "`num_hidden_layers` is '4', expected a whole number"),
        ({"rms_norm_eps": -1.0}, "`rms_norm_eps` is -1.0, expected a number above 0"),
        ({"tie_word_embeddings": 1}, "`tie_word_embeddings` is 1, expected true or false"),
        ({"num_key_value_heads": 3}, "expected a divisor of the 4 query heads"),
        ({"head_dim": 7}, "expected an even number"),
        ({"num_attention_heads": 5}, "`num_attention_heads` is 5, expected a divisor of hidden_si"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=r"config\.json") as error:
        FAMILIES["llama"].decoder_config({**LLAMA, **change})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("family", "key"), [("qwen2", "layer_types"), ("gpt_neo", "attention_types")]
)
def test_layer_types_that_are_not_names_are_refused(family: str, key: str) -> None:
    kinds = {"layer_types": [["full_attention"]] * 4, "attention_types": [[[["global"]], 4]]}
    layers = {"num_hidden_layers": 4} if family == "qwen2" else {"num_layers": 4}
    with pytest.raises(UserError, match=f"`{key}` is "):
        FAMILIES[family].decoder_config({**layers, key: kinds[key]})


def test_all_mistakes_are_reported_at_once() -> None:
    wrong = {**LLAMA, "hidden_act": "x", "pretraining_tp": 2, "rope_scaling": {"type": "longrope"}}
    with pytest.raises(UserError) as error:
        FAMILIES["llama"].decoder_config(wrong)
    assert len(error.value.lines) == 3


def test_an_unknown_model_type_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'lama'.*Did you mean `llama`\?"):
        FAMILIES["lama"]
    with pytest.raises(UserError, match=r"is \['llama'\], expected one of"):
        FAMILIES[["llama"]]  # pyright: ignore[reportArgumentType]


def test_a_config_that_a_family_cannot_express_is_refused() -> None:
    config = FAMILIES["llama"].decoder_config(LLAMA)
    with pytest.raises(UserError, match="has_query_key_norm"):
        FAMILIES["llama"].hf_config(replace(config, has_query_key_norm=True), LLAMA)


def test_a_key_and_its_alias_must_agree() -> None:
    with pytest.raises(UserError, match="hidden_size"):
        FAMILIES["gpt2"].decoder_config({**GPT2, "hidden_size": 99})
    aliased = {"hidden_size" if key == "n_embd" else key: GPT2[key] for key in GPT2}
    assert FAMILIES["gpt2"].decoder_config(aliased) == FAMILIES["gpt2"].decoder_config(GPT2)


def test_defaults_equal_those_of_transformers() -> None:
    for model_type in {hf["model_type"] for hf in VARIANTS.values()}:
        defaults = transformers.AutoConfig.for_model(model_type).to_dict()
        read = FAMILIES[model_type].decoder_config
        assert read({"model_type": model_type}) == read(defaults)


def test_the_keys_of_both_versions_have_to_agree():
    keys = {"rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    with pytest.raises(UserError, match=r"`rope_theta` is 500000\.0, expected the same as in"):
        FAMILIES["llama"].decoder_config({**LLAMA, **keys})
