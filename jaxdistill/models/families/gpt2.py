"""GPT-2: learned positions, layer norms, biases, a fused tensor for queries, keys and values.

https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf
"""

from typing import Any, ClassVar

from jaxdistill.models.config import DecoderConfig, LayerKind, NormKind
from jaxdistill.models.families.family import Family
from jaxdistill.models.families.hf_config import HFConfig, HFConfigReader
from jaxdistill.models.tensor_rules import TensorRule, identity_rule

# Keys that GPT-2 and GPT-Neo share.
SHARED_FIELD_KEYS = {
    "vocab_size": "vocab_size",
    "layer_norm_epsilon": "norm_epsilon",
    "activation_function": "activation",
    "tie_word_embeddings": "has_tied_embeddings",
    "initializer_range": "initializer_range",
}


class GPT2(Family):
    """`model_type` gpt2. Its matrices are `[inputs, outputs]` (Conv1D), like ours.

    `reorder_and_upcast_attn` is not read: scores are always computed in float32 here.
    """

    model_types: ClassVar = {"gpt2": "GPT2LMHeadModel"}
    tensor_prefix = "transformer."
    ignored_tensors = ("*.attn.bias", "*.attn.masked_bias")
    config_aliases: ClassVar = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    defaults: ClassVar = {
        "vocab_size": 50_257,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_positions": 1024,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
    }
    field_keys: ClassVar = {
        **SHARED_FIELD_KEYS,
        "n_embd": "embed_dim",
        "n_inner": "mlp_dim",
        "n_head": "num_heads",
        "n_layer": "num_layers",
        "n_positions": "max_positions",
    }

    def decoder_config(self, hf_config: HFConfig) -> DecoderConfig:
        """Read the keys of GPT2Config."""
        reader = HFConfigReader(hf_config, self.defaults, self.config_aliases)
        reader.require_allowed(
            "add_cross_attention", (None, False), "only decoders without an encoder are supported"
        )
        fields = self._shared_fields(reader)
        config = DecoderConfig(
            **fields,
            layers=(LayerKind(),) * reader.num_layers("n_layer"),
            has_query_key_value_bias=True,
            query_scale=fields["head_dim"] ** -0.5 if reader.flag("scale_attn_weights") else 1.0,
            is_scaled_by_inverse_layer=reader.flag("scale_attn_by_inverse_layer_idx"),
        )
        reader.raise_mistakes()
        return config

    def tensor_rules(self, config: DecoderConfig) -> tuple[TensorRule, ...]:
        """Return the rule of every tensor of a GPT2LMHeadModel."""
        embed, mlp = config.embed_dim, config.mlp_dim
        heads = (config.num_heads, config.head_dim)
        attention, feed_forward = ("layers", "attention"), ("layers", "mlp")
        layer, name = "transformer.h.{i}", "transformer.h.{i}.attn"
        kernels = tuple((*attention, name) for name in ("query", "key", "value"))
        biases = tuple((*attention, f"{name}_bias") for name in ("query", "key", "value"))
        return (
            *self._embedding_and_norm_rules(config),
            # The second axis of the view counts query, key and value; `axis_order` moves it first.
            TensorRule(
                f"{name}.c_attn.weight",
                kernels,
                shape=(embed, 3 * embed),
                view_shape=(embed, 3, *heads),
                axis_order=(1, 0, 2, 3),
            ),
            TensorRule(f"{name}.c_attn.bias", biases, (3 * embed,), (3, *heads), (0, 1, 2)),
            TensorRule(
                f"{name}.c_proj.weight",
                ((*attention, "output"),),
                shape=(embed, embed),
                view_shape=(*heads, embed),
                axis_order=(0, 1, 2),
            ),
            identity_rule(f"{name}.c_proj.bias", (*attention, "output_bias"), embed),
            identity_rule(f"{layer}.mlp.c_fc.weight", (*feed_forward, "up"), embed, mlp),
            identity_rule(f"{layer}.mlp.c_fc.bias", (*feed_forward, "up_bias"), mlp),
            identity_rule(f"{layer}.mlp.c_proj.weight", (*feed_forward, "down"), mlp, embed),
            identity_rule(f"{layer}.mlp.c_proj.bias", (*feed_forward, "down_bias"), embed),
        )

    def _hf_config_keys(self, config: DecoderConfig, original: HFConfig) -> dict[str, Any]:
        return {
            "scale_attn_weights": config.query_scale != 1,
            "scale_attn_by_inverse_layer_idx": config.is_scaled_by_inverse_layer,
        }

    def _shared_fields(self, reader: HFConfigReader) -> dict[str, Any]:
        """Read the fields that GPT-2 and GPT-Neo share."""
        keys = {name: key for key, name in self.field_keys.items()}
        fields = reader.fields(self.field_keys, skip=["mlp_dim"])
        embed_dim, num_heads = fields["embed_dim"], fields["num_heads"]
        return {
            **fields,
            "mlp_dim": reader.optional_positive_int(keys["mlp_dim"]) or 4 * embed_dim,
            "num_kv_heads": num_heads,
            "head_dim": reader.derived_head_dim(num_heads, keys["num_heads"], keys["embed_dim"]),
            "has_learned_positions": True,
            "norm": NormKind.LAYER,
            "is_gated": False,
            "has_attention_output_bias": True,
            "has_mlp_bias": True,
        }

    def _embedding_and_norm_rules(self, config: DecoderConfig) -> tuple[TensorRule, ...]:
        """Return the rules that GPT-2 and GPT-Neo share."""
        embed, vocab = config.embed_dim, config.vocab_size
        norms = {
            "ln_f": ("final_norm",),
            "h.{i}.ln_1": ("layers", "attention_norm"),
            "h.{i}.ln_2": ("layers", "mlp_norm"),
        }
        rules = [
            identity_rule("transformer.wte.weight", ("embedding",), vocab, embed),
            identity_rule("transformer.wpe.weight", ("positions",), config.max_positions, embed),
        ]
        for name, path in norms.items():
            rules.append(identity_rule(f"transformer.{name}.weight", (*path, "scale"), embed))
            rules.append(identity_rule(f"transformer.{name}.bias", (*path, "bias"), embed))
        if not config.has_tied_embeddings:
            rules.append(identity_rule("lm_head.weight", ("unembedding",), vocab, embed))
        return tuple(rules)


FAMILY = GPT2()
