"""GPT-2: learned positions, layer norms, biases, one fused tensor for queries, keys and values.

https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxdistill.models.config import DecoderConfig, LayerKind, Norm
from jaxdistill.models.families.family import Family
from jaxdistill.models.families.reading import ACTIVATIONS, Reader, activation_name
from jaxdistill.models.rules import Rule, flattened, same

DEFAULTS = {
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


class GPT2(Family):
    """`model_type` gpt2. Its matrices lie `[inputs, outputs]` (Conv1D), as ours do.

    `reorder_and_upcast_attn` is not read: scores are always formed in float32 here.
    """

    model_types: ClassVar = {"gpt2": "GPT2LMHeadModel"}
    prefix = "transformer."
    ignored = ("*.attn.bias", "*.attn.masked_bias")
    aliases: ClassVar = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    def decoder_config(self, hf: Mapping[str, Any]) -> DecoderConfig:
        """Read the keys of GPT2Config."""
        reader = Reader(hf, DEFAULTS, self.aliases)
        reader.expect("add_cross_attention", (None, False), "there is no encoder to attend to")
        fields = shared_fields(reader, embed="n_embd", heads="n_head", mlp="n_inner")
        config = DecoderConfig(
            **fields,
            layers=(LayerKind(),) * reader.num_layers("n_layer"),
            max_positions=reader.integer("n_positions"),
            has_query_key_value_bias=True,
            query_scale=fields["head_dim"] ** -0.5 if reader.flag("scale_attn_weights") else 1.0,
            is_scaled_by_inverse_layer=reader.flag("scale_attn_by_inverse_layer_idx"),
        )
        reader.finish()
        return config

    def rules(self, config: DecoderConfig) -> tuple[Rule, ...]:
        """Every tensor of a GPT2LMHeadModel."""
        embed, mlp = config.embed_dim, config.mlp_dim
        heads, channels = config.num_heads, config.head_dim
        attention, feed_forward = ("layers", "attention"), ("layers", "mlp")
        layer = "transformer.h.{i}"
        fused = tuple((*attention, part) for part in ("query", "key", "value"))
        biases = tuple((*attention, f"{part}_bias") for part in ("query", "key", "value"))
        return (
            *embedding_rules(config),
            # The second axis of the view counts query, key and value; in `order` it comes first.
            Rule(
                f"{layer}.attn.c_attn.weight",
                fused,
                shape=(embed, 3 * embed),
                view=(embed, 3, heads, channels),
                order=(1, 0, 2, 3),
            ),
            Rule(
                f"{layer}.attn.c_attn.bias",
                biases,
                shape=(3 * embed,),
                view=(3, heads, channels),
                order=(0, 1, 2),
            ),
            Rule(
                f"{layer}.attn.c_proj.weight",
                ((*attention, "output"),),
                shape=(embed, embed),
                view=(heads, channels, embed),
                order=(0, 1, 2),
            ),
            flattened(f"{layer}.attn.c_proj.bias", (*attention, "output_bias"), embed),
            same(f"{layer}.mlp.c_fc.weight", (*feed_forward, "up"), embed, mlp),
            same(f"{layer}.mlp.c_fc.bias", (*feed_forward, "up_bias"), mlp),
            same(f"{layer}.mlp.c_proj.weight", (*feed_forward, "down"), mlp, embed),
            same(f"{layer}.mlp.c_proj.bias", (*feed_forward, "down_bias"), embed),
        )

    def _written(self, config: DecoderConfig, original: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **shared_keys(config, original),
            "n_embd": config.embed_dim,
            "n_inner": config.mlp_dim,
            "n_head": config.num_heads,
            "n_layer": config.num_layers,
            "n_positions": config.max_positions,
            "scale_attn_weights": config.query_scale != 1,
            "scale_attn_by_inverse_layer_idx": config.is_scaled_by_inverse_layer,
        }


def shared_fields(reader: Reader, *, embed: str, heads: str, mlp: str) -> dict[str, Any]:
    """What GPT-2 and GPT-Neo have in common, by the keys of what they name differently."""
    embed_dim, num_heads = reader.integer(embed), reader.integer(heads)
    return {
        "vocab_size": reader.integer("vocab_size"),
        "embed_dim": embed_dim,
        "mlp_dim": reader.optional_integer(mlp) or 4 * embed_dim,
        "num_heads": num_heads,
        "num_kv_heads": num_heads,
        "head_dim": reader.head_dim(num_heads, heads, embed),
        "has_learned_positions": True,
        "norm": Norm.LAYER,
        "norm_epsilon": reader.number("layer_norm_epsilon"),
        "activation": reader.choice("activation_function", ACTIVATIONS),
        "is_gated": False,
        "has_attention_output_bias": True,
        "has_mlp_bias": True,
        "has_tied_head": reader.flag("tie_word_embeddings"),
        "initializer_range": reader.number("initializer_range"),
    }


def shared_keys(config: DecoderConfig, original: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that GPT-2 and GPT-Neo write alike."""
    word = original.get("activation_function", DEFAULTS["activation_function"])
    return {
        "vocab_size": config.vocab_size,
        "layer_norm_epsilon": config.norm_epsilon,
        "activation_function": activation_name(config.activation, word),
        "tie_word_embeddings": config.has_tied_head,
        "initializer_range": config.initializer_range,
    }


def embedding_rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """The tensors that GPT-2 and GPT-Neo name alike: embeddings and norms."""
    embed = config.embed_dim
    norms = {
        "ln_f": ("final_norm",),
        "h.{i}.ln_1": ("layers", "attention_norm"),
        "h.{i}.ln_2": ("layers", "mlp_norm"),
    }
    rules = [
        same("transformer.wte.weight", ("embedding",), config.vocab_size, embed),
        same("transformer.wpe.weight", ("positions",), config.max_positions, embed),
    ]
    for name, path in norms.items():
        rules.append(same(f"transformer.{name}.weight", (*path, "scale"), embed))
        rules.append(same(f"transformer.{name}.bias", (*path, "bias"), embed))
    if not config.has_tied_head:
        rules.append(same("lm_head.weight", ("unembedding",), config.vocab_size, embed))
    return tuple(rules)


FAMILY = GPT2()
