"""Configuration of the decoder: enums and numbers, never the name of a family."""

import enum
from dataclasses import dataclass


class Activation(enum.Enum):
    """The activation function of the feed-forward network."""

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"


class NormKind(enum.Enum):
    """The normalisation of hidden states.

    `RMS` multiplies by the scale, `RMS_PLUS_ONE` by one plus the scale. `LAYER` also subtracts
    the mean and adds a bias.
    """

    RMS = "rms"
    RMS_PLUS_ONE = "rms_plus_one"
    LAYER = "layer"


class RopeKind(enum.Enum):
    """The scaling of rotary frequencies for contexts longer than those of pretraining."""

    DEFAULT = "default"
    LINEAR = "linear"
    LLAMA3 = "llama3"
    YARN = "yarn"


@dataclass(frozen=True, kw_only=True)
class Rope:
    """A rotary position embedding.

    Args:
        base: Base of the wavelengths (`rope_theta`).
        kind: Scaling method of the frequencies.
        factor: Factor by which wavelengths grow; 1 leaves them as they are.
        original_max_positions: Context length before scaling (llama3, yarn).
        low_freq_factor: Frequencies below this many rotations over the original context are
            scaled in full (llama3; yarn calls it `beta_slow`).
        high_freq_factor: Frequencies above this many rotations are kept (yarn: `beta_fast`).
        attention_factor: Factor of cosines and sines (yarn).
        is_truncated: True if yarn rounds the range between both to whole channels.
    """

    base: float
    kind: RopeKind = RopeKind.DEFAULT
    factor: float = 1.0
    original_max_positions: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    attention_factor: float = 1.0
    is_truncated: bool = True


@dataclass(frozen=True, kw_only=True)
class LayerKind:
    """The settings that may differ between the layers of a decoder.

    Args:
        window: Number of positions that a token attends to, its own included; None for all
            positions up to its own.
        rope: Rotary position embedding; None if positions are learned.
    """

    window: int | None = None
    rope: Rope | None = None


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The architecture of a decoder-only transformer; hashable, a static argument of `jax.jit`.

    Args:
        vocab_size: Rows of the token embedding, padding included.
        embed_dim: Width of the hidden states.
        mlp_dim: Width of the feed-forward network.
        num_heads: Number of query heads.
        num_kv_heads: Number of key/value heads; `num_heads // num_kv_heads` query heads share each.
        head_dim: Channels of a head.
        layers: Kind of each layer, from first to last.
        max_positions: Maximum length of a sequence.
        has_learned_positions: True if a table of `max_positions` rows is added to the embedding.
        norm: Kind of every norm.
        norm_epsilon: Number added to the variance.
        has_query_key_norm: True if queries and keys are normalised per head.
        has_post_norms: True if the outputs of attention and feed-forward are normalised, too.
        activation: Activation function of the feed-forward network.
        is_gated: True for `down(activation(gate(x)) * up(x))`, False for
            `down(activation(up(x)))`.
        has_query_key_value_bias: True if queries, keys and values have biases.
        has_attention_output_bias: True if the output of attention has a bias.
        has_mlp_bias: True if the feed-forward network has biases.
        query_scale: Factor of the attention scores.
        is_scaled_by_inverse_layer: True if scores of layer `i` (from 0) are divided by `i + 1`.
        embed_scale: Factor of the token embedding.
        has_tied_embeddings: True if the LM head is the token embedding.
        logit_soft_cap: Logits are `cap * tanh(logits / cap)`; None leaves them as they are.
        initializer_range: Standard deviation of freshly initialised weights.
    """

    vocab_size: int
    embed_dim: int
    mlp_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    layers: tuple[LayerKind, ...]
    max_positions: int
    has_learned_positions: bool = False
    norm: NormKind = NormKind.RMS
    norm_epsilon: float = 1e-6
    has_query_key_norm: bool = False
    has_post_norms: bool = False
    activation: Activation = Activation.SILU
    is_gated: bool = True
    has_query_key_value_bias: bool = False
    has_attention_output_bias: bool = False
    has_mlp_bias: bool = False
    query_scale: float
    is_scaled_by_inverse_layer: bool = False
    embed_scale: float = 1.0
    has_tied_embeddings: bool = False
    logit_soft_cap: float | None = None
    initializer_range: float = 0.02

    @property
    def num_layers(self) -> int:
        """The number of layers."""
        return len(self.layers)

    @property
    def distinct_layer_kinds(self) -> tuple[LayerKind, ...]:
        """Each kind of layer once, in the order of first use."""
        return tuple(dict.fromkeys(self.layers))
