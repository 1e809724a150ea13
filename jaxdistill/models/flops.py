"""Floating-point operations of a decoder's forward pass, counted from its architecture."""

from jaxdistill.models.config import DecoderConfig


def forward_flops(config: DecoderConfig, length: int) -> float:
    """Count the operations of one sequence of this length, without the LM head.

    Only matrix products count, a multiplication and an addition each. Attention counts the keys
    that are visible: half of them, or those of a window.
    """
    channels = config.num_heads * config.head_dim
    kv_channels = config.num_kv_heads * config.head_dim
    attention = config.embed_dim * (2 * channels + 2 * kv_channels)
    mlp = config.embed_dim * config.mlp_dim * (3 if config.is_gated else 2)
    products = 2 * length * config.num_layers * (attention + mlp)
    keys = sum(_visible_keys(length, kind.window) for kind in config.layers)
    return products + 4 * channels * keys


def _visible_keys(length: int, window: int | None) -> float:
    """Count the pairs of a query and a key that it sees."""
    size = length if window is None else min(window, length)
    return size * (size + 1) / 2 + (length - size) * size
