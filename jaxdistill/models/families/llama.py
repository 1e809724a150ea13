"""Llama and models with its architecture: Mistral, SmolLM2, TinyLlama. https://arxiv.org/abs/2302.13971.

Mistral adds a sliding window to all layers (https://arxiv.org/abs/2310.06825).
"""

from typing import Any, ClassVar

from jaxdistill.models.config import DecoderConfig, LayerKind
from jaxdistill.models.families.family import Family
from jaxdistill.models.families.hf_config import HFConfig, HFConfigReader
from jaxdistill.models.families.rope_config import read_rope, rope_keys
from jaxdistill.models.tensor_rules import TensorRule, flattened_rule, identity_rule, linear_rule


class Llama(Family):
    """`model_type` llama and mistral."""

    model_types: ClassVar = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
    defaults: ClassVar = {
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
    mistral_defaults: ClassVar = {
        **defaults,
        "intermediate_size": 14_336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
    }
    field_keys: ClassVar = {
        "vocab_size": "vocab_size",
        "hidden_size": "embed_dim",
        "intermediate_size": "mlp_dim",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "num_key_value_heads": "num_kv_heads",
        "head_dim": "head_dim",
        "max_position_embeddings": "max_positions",
        "rms_norm_eps": "norm_epsilon",
        "tie_word_embeddings": "has_tied_embeddings",
        "initializer_range": "initializer_range",
        "hidden_act": "activation",
    }
    norm_names: ClassVar = {
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "mlp_norm",
    }
    """Names of a layer's norms in the file, and ours."""

    tensor_prefix = "model."
    ignored_tensors = ("*.rotary_emb.inv_freq",)

    def decoder_config(self, hf_config: HFConfig) -> DecoderConfig:
        """Read the keys of LlamaConfig or MistralConfig."""
        is_mistral = hf_config.get("model_type") == "mistral"
        reader = HFConfigReader(hf_config, self.mistral_defaults if is_mistral else self.defaults)
        reader.require_allowed(
            "pretraining_tp", (None, 1), "set it to 1, which differs by rounding only"
        )
        reader.require_allowed(
            "rope_interleaved", (None, False), "only rotation of the two halves is supported"
        )
        window = reader.optional_positive_int("sliding_window") if is_mistral else None
        kind = LayerKind(window=window, rope=read_rope(reader))
        attention_bias = not is_mistral and reader.flag("attention_bias")
        fields = self._shared_fields(reader)
        config = DecoderConfig(
            **fields,
            layers=(kind,) * reader.num_layers("num_hidden_layers"),
            has_query_key_value_bias=attention_bias,
            has_attention_output_bias=attention_bias,
            has_mlp_bias=not is_mistral and reader.flag("mlp_bias"),
            query_scale=fields["head_dim"] ** -0.5,
        )
        reader.raise_mistakes()
        return config

    def _shared_fields(self, reader: HFConfigReader) -> dict[str, Any]:
        attention = reader.attention_fields()
        return attention | reader.fields(self.field_keys, skip=attention)

    def tensor_rules(self, config: DecoderConfig) -> tuple[TensorRule, ...]:
        """Return the rule of every tensor of a LlamaForCausalLM."""
        embed, mlp = (config.embed_dim,), (config.mlp_dim,)
        query = (config.num_heads, config.head_dim)
        key = (config.num_kv_heads, config.head_dim)
        biased, output_biased = config.has_query_key_value_bias, config.has_attention_output_bias
        mlp_biased = config.has_mlp_bias
        projections = [
            # name in the file, our path, input shape, output shape, has a bias
            ("self_attn.q_proj", ("attention", "query"), embed, query, biased),
            ("self_attn.k_proj", ("attention", "key"), embed, key, biased),
            ("self_attn.v_proj", ("attention", "value"), embed, key, biased),
            ("self_attn.o_proj", ("attention", "output"), query, embed, output_biased),
            ("mlp.gate_proj", ("mlp", "gate"), embed, mlp, mlp_biased),
            ("mlp.up_proj", ("mlp", "up"), embed, mlp, mlp_biased),
            ("mlp.down_proj", ("mlp", "down"), mlp, embed, mlp_biased),
        ]
        vocab = config.vocab_size
        rules = [
            identity_rule("model.embed_tokens.weight", ("embedding",), vocab, *embed),
            identity_rule("model.norm.weight", ("final_norm", "scale"), *embed),
        ]
        if not config.has_tied_embeddings:
            rules.append(identity_rule("lm_head.weight", ("unembedding",), vocab, *embed))
        for name, (module, kernel), inputs, outputs, has_bias in projections:
            name = f"model.layers.{{i}}.{name}"
            rules.append(linear_rule(f"{name}.weight", ("layers", module, kernel), inputs, outputs))
            if has_bias:
                path = ("layers", module, f"{kernel}_bias")
                rules.append(flattened_rule(f"{name}.bias", path, *outputs))
        for hf_name, name in self.norm_names.items():
            path = ("layers", name, "scale")
            rules.append(identity_rule(f"model.layers.{{i}}.{hf_name}.weight", path, *embed))
        return tuple(rules)

    def _hf_config_keys(self, config: DecoderConfig, original: HFConfig) -> dict[str, Any]:
        kind = config.layers[0]
        assert kind.rope is not None
        keys = rope_keys(kind.rope)
        if original.get("model_type") == "mistral":
            return {**keys, "sliding_window": kind.window}
        return {
            **keys,
            "attention_bias": config.has_query_key_value_bias,
            "mlp_bias": config.has_mlp_bias,
        }


FAMILY = Llama()
