"""Llama and models with its architecture: Mistral, SmolLM2, TinyLlama. https://arxiv.org/abs/2302.13971.

Mistral adds a sliding window to all layers (https://arxiv.org/abs/2310.06825).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxdistill.models.config import DecoderConfig, LayerKind
from jaxdistill.models.families.family import Family
from jaxdistill.models.families.hf_config import HFConfig, HFConfigReader, hf_activation_name
from jaxdistill.models.families.rope_config import read_rope
from jaxdistill.models.tensor_rules import TensorRule, flattened_rule, identity_rule, linear_rule

LLAMA_DEFAULTS = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
}
MISTRAL_DEFAULTS = {
    **LLAMA_DEFAULTS,
    "intermediate_size": 14_336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
}

LLAMA_NORM_NAMES = {"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"}


class Llama(Family):
    """`model_type` llama and mistral."""

    model_types: ClassVar = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
    tensor_prefix = "model."
    ignored_tensors = ("*.rotary_emb.inv_freq",)

    def decoder_config(self, hf_config: HFConfig) -> DecoderConfig:
        """Read the keys of LlamaConfig or MistralConfig."""
        is_mistral = hf_config.get("model_type") == "mistral"
        reader = HFConfigReader(hf_config, MISTRAL_DEFAULTS if is_mistral else LLAMA_DEFAULTS)
        reader.require_allowed(
            "pretraining_tp", (None, 1), "set it to 1, which differs by rounding only"
        )
        reader.require_allowed(
            "rope_interleaved", (None, False), "only rotation of the two halves is supported"
        )
        window = reader.optional_positive_int("sliding_window") if is_mistral else None
        kind = LayerKind(window=window, rope=read_rope(reader))
        attention_bias = not is_mistral and reader.flag("attention_bias")
        fields = llama_decoder_fields(reader)
        config = DecoderConfig(
            **fields,
            layers=(kind,) * reader.num_layers("num_hidden_layers"),
            activation=reader.activation("hidden_act"),
            has_query_key_value_bias=attention_bias,
            has_attention_output_bias=attention_bias,
            has_mlp_bias=not is_mistral and reader.flag("mlp_bias"),
            query_scale=fields["head_dim"] ** -0.5,
        )
        reader.raise_mistakes()
        return config

    def tensor_rules(self, config: DecoderConfig) -> tuple[TensorRule, ...]:
        """Return the rule of every tensor of a LlamaForCausalLM."""
        return (
            *embedding_and_projection_rules(config),
            *layer_norm_rules(config, LLAMA_NORM_NAMES),
        )

    def _hf_config_keys(self, config: DecoderConfig, original: HFConfig) -> dict[str, Any]:
        keys = llama_hf_config_keys(config, original)
        if original.get("model_type") == "mistral":
            return {**keys, "sliding_window": config.layers[0].window}
        return {
            **keys,
            "attention_bias": config.has_query_key_value_bias,
            "mlp_bias": config.has_mlp_bias,
        }


def llama_decoder_fields(reader: HFConfigReader) -> dict[str, Any]:
    """Read the fields whose keys Llama, Mistral, Qwen2 and Gemma 3 share."""
    return {
        **reader.attention_fields(),
        "vocab_size": reader.positive_int("vocab_size"),
        "embed_dim": reader.positive_int("hidden_size"),
        "mlp_dim": reader.positive_int("intermediate_size"),
        "max_positions": reader.positive_int("max_position_embeddings"),
        "norm_epsilon": reader.positive_float("rms_norm_eps"),
        "has_tied_embeddings": reader.flag("tie_word_embeddings"),
        "initializer_range": reader.positive_float("initializer_range"),
    }


def llama_hf_config_keys(
    config: DecoderConfig,
    original: HFConfig,
    *,
    activation_key: str = "hidden_act",
) -> dict[str, Any]:
    """Return the keys that Llama, Mistral, Qwen2 and Gemma 3 share."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.has_tied_embeddings,
        "initializer_range": config.initializer_range,
        activation_key: hf_activation_name(config.activation, original.get(activation_key)),
    }


def embedding_and_projection_rules(config: DecoderConfig) -> tuple[TensorRule, ...]:
    """Return the rules that Llama, Mistral, Qwen2 and Gemma 3 share: all but layer norms."""
    embed, mlp = (config.embed_dim,), (config.mlp_dim,)
    query = (config.num_heads, config.head_dim)
    key = (config.num_kv_heads, config.head_dim)
    inputs_biased, output_biased = config.has_query_key_value_bias, config.has_attention_output_bias
    mlp_biased = config.has_mlp_bias
    projections = [
        # name in the file, our path, input shape, output shape, has a bias
        ("self_attn.q_proj", ("attention", "query"), embed, query, inputs_biased),
        ("self_attn.k_proj", ("attention", "key"), embed, key, inputs_biased),
        ("self_attn.v_proj", ("attention", "value"), embed, key, inputs_biased),
        ("self_attn.o_proj", ("attention", "output"), query, embed, output_biased),
        ("mlp.gate_proj", ("mlp", "gate"), embed, mlp, mlp_biased),
        ("mlp.up_proj", ("mlp", "up"), embed, mlp, mlp_biased),
        ("mlp.down_proj", ("mlp", "down"), mlp, embed, mlp_biased),
    ]
    rules = [
        identity_rule("model.embed_tokens.weight", ("embedding",), config.vocab_size, *embed),
        identity_rule("model.norm.weight", ("final_norm", "scale"), *embed),
    ]
    if not config.has_tied_embeddings:
        rules.append(identity_rule("lm_head.weight", ("unembedding",), config.vocab_size, *embed))
    for name, (module, kernel), inputs, outputs, has_bias in projections:
        name = f"model.layers.{{i}}.{name}"
        rules.append(linear_rule(f"{name}.weight", ("layers", module, kernel), inputs, outputs))
        if has_bias:
            path = ("layers", module, f"{kernel}_bias")
            rules.append(flattened_rule(f"{name}.bias", path, *outputs))
    return tuple(rules)


def layer_norm_rules(
    config: DecoderConfig, param_names: Mapping[str, str]
) -> tuple[TensorRule, ...]:
    """Return the rules of a layer's norms; `param_names` maps names in the file to ours."""
    return tuple(
        identity_rule(
            f"model.layers.{{i}}.{hf}.weight", ("layers", name, "scale"), config.embed_dim
        )
        for hf, name in param_names.items()
    )


FAMILY = Llama()
