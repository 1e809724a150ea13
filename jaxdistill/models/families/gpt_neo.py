"""GPT-Neo: GPT-2 with unscaled scores; by default every second layer has a sliding window.

Black et al., 2021, https://doi.org/10.5281/zenodo.5297715.
"""

from typing import Any, ClassVar

from jaxdistill.models.config import DecoderConfig, LayerKind
from jaxdistill.models.families.gpt2 import GPT2, SHARED_FIELD_KEYS
from jaxdistill.models.families.hf_config import HFConfig, HFConfigReader
from jaxdistill.models.tensor_rules import TensorRule, identity_rule, linear_rule


class GPTNeo(GPT2):
    """`model_type` gpt_neo."""

    model_types: ClassVar = {"gpt_neo": "GPTNeoForCausalLM"}
    ignored_tensors = ("*.attn.attention.bias", "*.attn.attention.masked_bias")
    config_aliases: ClassVar = {
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
    }
    defaults: ClassVar = {
        "vocab_size": 50_257,
        "hidden_size": 2048,
        "num_layers": 24,
        "num_heads": 16,
        "window_size": 256,
        "activation_function": "gelu_new",
        "max_position_embeddings": 2048,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
    }
    field_keys: ClassVar = {
        **SHARED_FIELD_KEYS,
        "hidden_size": "embed_dim",
        "intermediate_size": "mlp_dim",
        "num_heads": "num_heads",
        "num_layers": "num_layers",
        "max_position_embeddings": "max_positions",
    }

    def decoder_config(self, hf_config: HFConfig) -> DecoderConfig:
        """Read the keys of GPTNeoConfig."""
        reader = HFConfigReader(hf_config, self.defaults, self.config_aliases)
        config = DecoderConfig(
            **self._shared_fields(reader), layers=_layer_kinds(reader), query_scale=1.0
        )
        reader.raise_mistakes()
        return config

    def tensor_rules(self, config: DecoderConfig) -> tuple[TensorRule, ...]:
        """Return the rule of every tensor of a GPTNeoForCausalLM."""
        embed, mlp = (config.embed_dim,), (config.mlp_dim,)
        heads = (config.num_heads, config.head_dim)
        layer, attention = "transformer.h.{i}", "transformer.h.{i}.attn.attention"
        path = ("layers", "attention")
        return (
            *self._embedding_and_norm_rules(config),
            linear_rule(f"{attention}.q_proj.weight", (*path, "query"), embed, heads),
            linear_rule(f"{attention}.k_proj.weight", (*path, "key"), embed, heads),
            linear_rule(f"{attention}.v_proj.weight", (*path, "value"), embed, heads),
            linear_rule(f"{attention}.out_proj.weight", (*path, "output"), heads, embed),
            identity_rule(f"{attention}.out_proj.bias", (*path, "output_bias"), *embed),
            linear_rule(f"{layer}.mlp.c_fc.weight", ("layers", "mlp", "up"), embed, mlp),
            identity_rule(f"{layer}.mlp.c_fc.bias", ("layers", "mlp", "up_bias"), *mlp),
            linear_rule(f"{layer}.mlp.c_proj.weight", ("layers", "mlp", "down"), mlp, embed),
            identity_rule(f"{layer}.mlp.c_proj.bias", ("layers", "mlp", "down_bias"), *embed),
        )

    def _hf_config_keys(self, config: DecoderConfig, original: HFConfig) -> dict[str, Any]:
        names = ["local" if kind.window else "global" for kind in config.layers]
        windows = {kind.window for kind in config.layers} - {None}
        return {
            "attention_types": [[names, 1]],
            "attention_layers": names,
            **({"window_size": windows.pop()} if windows else {}),
        }


def _layer_kinds(reader: HFConfigReader) -> tuple[LayerKind, ...]:
    """Read the kind of each layer from `attention_types` or the older `attention_layers`.

    `attention_types` lists patterns and how often each is repeated.
    """
    num_layers = reader.num_layers("num_layers")
    kinds = {"global": LayerKind(), "local": LayerKind(window=reader.positive_int("window_size"))}
    types = reader.values.get("attention_types") or [[["global", "local"], 12]]
    try:
        names = [name for pattern, count in types for name in list(pattern) * count]
    except (TypeError, ValueError):
        reader.add_mistake("attention_types", types, 'a list such as [[["global", "local"], 12]]')
        return ()
    listed = reader.values.get("attention_layers") or names
    if listed != names and reader.values.get("attention_types"):
        reader.add_mistake("attention_layers", listed, f"the layers of attention_types, {names}")
    if len(listed) != num_layers or not all(name in ("global", "local") for name in listed):
        reader.add_mistake(
            "attention_types", types, f"{num_layers} (num_layers) names, each global or local"
        )
        return ()
    return tuple(kinds[name] for name in listed)


FAMILY = GPTNeo()
