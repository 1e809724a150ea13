"""Gemma 3's text model: norms before and after each block, and on queries and keys.

Most layers have a sliding window and a rotary embedding of small base; every sixth has full
attention and a large base. https://arxiv.org/abs/2503.19786.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxdistill.models.config import DecoderConfig, LayerKind, NormKind, Rope, RopeKind
from jaxdistill.models.families.hf_config import (
    FULL,
    SLIDING,
    HFConfig,
    HFConfigReader,
    layer_type_names,
)
from jaxdistill.models.families.llama import Llama
from jaxdistill.models.families.rope_config import parse_rope, rope_parameters, rope_scaling
from jaxdistill.models.tensor_rules import TensorRule, identity_rule


class Gemma3(Llama):
    """`model_type` gemma3_text."""

    model_types: ClassVar = {"gemma3_text": "Gemma3ForCausalLM"}
    defaults: ClassVar = {
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 131_072,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 256,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
    }
    field_keys: ClassVar = {
        **{key: name for key, name in Llama.field_keys.items() if name != "activation"},
        "hidden_activation": "activation",
    }
    norm_names: ClassVar = {
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "attention_post_norm",
        "pre_feedforward_layernorm": "mlp_norm",
        "post_feedforward_layernorm": "mlp_post_norm",
    }
    ignored_tensors = ("*.rotary_emb.*",)

    def decoder_config(self, hf_config: HFConfig) -> DecoderConfig:
        """Read the keys of Gemma3TextConfig."""
        reader = HFConfigReader(hf_config, self.defaults)
        reader.require_allowed(
            "use_bidirectional_attention", (None, False), "only causal attention is supported"
        )
        reader.require_allowed(
            "attn_logit_softcapping", (None,), "set it to null: transformers does not apply it"
        )
        attention_bias = reader.flag("attention_bias")
        fields = self._shared_fields(reader)
        config = DecoderConfig(
            **fields,
            layers=_layer_kinds(reader),
            norm=NormKind.RMS_PLUS_ONE,
            has_query_key_norm=True,
            has_post_norms=True,
            has_query_key_value_bias=attention_bias,
            has_attention_output_bias=attention_bias,
            query_scale=reader.positive_float("query_pre_attn_scalar") ** -0.5,
            embed_scale=fields["embed_dim"] ** 0.5,
            logit_soft_cap=reader.optional_positive_float("final_logit_softcapping"),
        )
        reader.raise_mistakes()
        return config

    def tensor_rules(self, config: DecoderConfig) -> tuple[TensorRule, ...]:
        """Return the rule of every tensor of a Gemma3ForCausalLM."""
        channels = config.head_dim
        name, path = "model.layers.{i}.self_attn", ("layers", "attention")
        return (
            *super().tensor_rules(config),
            identity_rule(f"{name}.q_norm.weight", (*path, "query_norm", "scale"), channels),
            identity_rule(f"{name}.k_norm.weight", (*path, "key_norm", "scale"), channels),
        )

    def _hf_config_keys(self, config: DecoderConfig, original: HFConfig) -> dict[str, Any]:
        windows = {kind.window for kind in config.layers} - {None}
        return {
            "layer_types": layer_type_names(config),
            **({"sliding_window": windows.pop()} if windows else {}),
            **self._rope_keys(config, original),
            "attention_bias": config.has_query_key_value_bias,
            "query_pre_attn_scalar": round(config.query_scale**-2),
            "final_logit_softcapping": config.logit_soft_cap,
        }

    def _rope_keys(self, config: DecoderConfig, original: HFConfig) -> dict[str, Any]:
        """Return the keys of both versions; a type that no layer has keeps the original's."""
        reader = HFConfigReader(original, self.defaults)
        ropes = dict(zip((FULL, SLIDING), _full_and_sliding_rope(reader), strict=True))
        types = zip(layer_type_names(config), config.layers, strict=True)
        ropes |= {name: kind.rope for name, kind in types if kind.rope is not None}
        return {
            "rope_theta": ropes[FULL].base,
            "rope_scaling": rope_scaling(ropes[FULL]),
            "rope_local_base_freq": ropes[SLIDING].base,
            "rope_parameters": {name: rope_parameters(rope) for name, rope in ropes.items()},
        }


def _layer_kinds(reader: HFConfigReader) -> tuple[LayerKind, ...]:
    """Read `layer_types`, or by default make every `sliding_window_pattern`-th layer full."""
    num_layers = reader.num_layers("num_hidden_layers")
    window = reader.optional_positive_int("sliding_window")
    pattern = reader.positive_int("sliding_window_pattern")
    default = [SLIDING if (i + 1) % pattern else FULL for i in range(num_layers)]
    return reader.layer_kinds(default, window, *_full_and_sliding_rope(reader))


def _full_and_sliding_rope(reader: HFConfigReader) -> tuple[Rope, Rope]:
    """Read the rotary embeddings of full and of sliding layers.

    Newer files nest them by layer type in `rope_parameters`. Older ones have `rope_theta` and
    `rope_scaling` for full layers, and `rope_local_base_freq` for sliding ones.
    """
    key = "rope_parameters"
    nested = reader.values.get(key) or {}
    if not isinstance(nested, Mapping) or set(nested) - {FULL, SLIDING}:
        reader.add_mistake(key, nested, f"an object with the keys {FULL} and {SLIDING}")
        nested = {}
    full = {**(nested.get(FULL) or {}), **(reader.values.get("rope_scaling") or {})}
    sliding = nested.get(SLIDING) or {}
    full_rope = parse_rope(reader, f"{key}.{FULL}", full, reader.values["rope_theta"])
    base = reader.values["rope_local_base_freq"]
    sliding_rope = parse_rope(reader, f"{key}.{SLIDING}", sliding, base)
    if sliding_rope.kind is not RopeKind.DEFAULT:
        # No key of transformers 4 holds it, so that an export would be read by version 5 only.
        reader.add_mistake(f"{key}.{SLIDING}.rope_type", sliding_rope.kind.value, "default")
    return full_rope, sliding_rope


FAMILY = Gemma3()
