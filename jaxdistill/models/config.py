"""What a decoder is made of: enums and numbers, never a family's name."""

import enum
from dataclasses import dataclass


class Activation(enum.Enum):
    """The function between the two halves of the feed-forward part."""

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"


class NormKind(enum.Enum):
    """How hidden states are normalised.

    `RMS` multiplies by the weight, `RMS_PLUS_ONE` by one plus the weight, and `LAYER` also
    centres and adds a bias.
    """

    RMS = "rms"
    RMS_PLUS_ONE = "rms_plus_one"
    LAYER = "layer"


class RopeKind(enum.Enum):
    """How the frequencies of a rotary embedding are stretched for longer texts."""

    DEFAULT = "default"
    LINEAR = "linear"
    LLAMA3 = "llama3"
    YARN = "yarn"


@dataclass(frozen=True, kw_only=True)
class Rope:
    """A rotary position embedding.

    Args:
        base: The base of the wavelengths (`rope_theta`).
        kind: How frequencies are stretched.
        factor: By how much; 1 leaves them as they are.
        original_max_positions: The context length before stretching (llama3, yarn).
        slow: Below this many rotations over the original context, a frequency is stretched in
            full (llama3's `low_freq_factor`, yarn's `beta_slow`).
        fast: Above this many rotations it is kept (`high_freq_factor`, `beta_fast`).
        amplitude: What cosines and sines are multiplied by (yarn's attention factor).
        is_truncated: Whether yarn rounds the range between slow and fast to whole channels.
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
    """What may differ between layers: everything else is the same in all of them.

    Args:
        window: How many places a token sees, itself included; None for all before it.
        rope: Its rotary embedding; None where positions are learned.
    """

    window: int | None = None
    rope: Rope | None = None


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder-only transformer. Hashable, so that it can be a static argument of `jax.jit`.

    Args:
        vocab_size: Rows of the embedding, padding included.
        embed_dim: Width of the hidden states.
        mlp_dim: Width of the feed-forward part.
        num_heads: Query heads.
        num_kv_heads: Key and value heads; each serves `num_heads // num_kv_heads` query heads.
        head_dim: Channels of a head.
        layers: The kind of each layer, from first to last.
        max_positions: The longest text the model is made for.
        has_learned_positions: Whether a table of `max_positions` rows is added to the embedding.
        norm: Kind of norm, the same everywhere.
        norm_epsilon: Added to the variance.
        has_query_key_norm: Whether each head's queries and keys are normalised.
        has_post_norms: Whether the results of attention and feed-forward are normalised, too.
        activation: Of the feed-forward part.
        is_gated: Whether the feed-forward part is `down(activation(gate(x)) * up(x))` rather
            than `down(activation(up(x)))`.
        has_query_key_value_bias: Biases in attention's inputs.
        has_attention_output_bias: A bias in attention's output.
        has_mlp_bias: Biases in the feed-forward part.
        query_scale: What scores are multiplied by.
        is_scaled_by_inverse_layer: Whether scores of layer `i` are also divided by `i + 1`.
        embed_scale: What the token embedding is multiplied by.
        has_tied_embeddings: Whether the unembedding is the embedding.
        logit_soft_cap: Logits are `cap * tanh(logits / cap)`; None leaves them as they are.
        initializer_range: Standard deviation of fresh weights.
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
        """How many layers there are."""
        return len(self.layers)

    @property
    def distinct_layer_kinds(self) -> tuple[LayerKind, ...]:
        """The distinct kinds of layer, each once: masks and rotations are made for each."""
        return tuple(dict.fromkeys(self.layers))
