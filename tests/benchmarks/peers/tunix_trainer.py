"""Tunix's distillation trainer with its Llama and its logit strategy.

The strategy computes the cross-entropy at any weight, 0 included, so both sides include it.
"""

import jax
import jax.numpy as jnp
import optax
import shapes
from flax import nnx
from tunix.distillation.distillation_trainer import DistillationTrainer, TrainingConfig
from tunix.distillation.strategies.logit import LogitStrategy
from tunix.models.llama3.model import Llama3, ModelConfig

VOCAB_SIZE = shapes.CONFIG["vocab_size"]


def make_config(num_layers: int) -> ModelConfig:
    """Return the config of a model with `num_layers` layers."""
    return ModelConfig(
        num_layers=num_layers,
        vocab_size=VOCAB_SIZE,
        embed_dim=shapes.CONFIG["hidden_size"],
        hidden_dim=shapes.CONFIG["intermediate_size"],
        num_heads=shapes.CONFIG["num_attention_heads"],
        head_dim=64,
        num_kv_heads=shapes.CONFIG["num_key_value_heads"],
        rope_theta=int(shapes.CONFIG["rope_theta"]),
        norm_eps=1e-6,
        weight_tying=True,
    )


def make_trainer(student: Llama3, teacher: Llama3, num_steps: int) -> DistillationTrainer:
    """Return a trainer with jaxdistill's optimizer and clipping, and one step in flight."""
    return DistillationTrainer(
        student,
        teacher,
        LogitStrategy(_forward, _forward, _labels, temperature=1.0, alpha=0.5),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4)),
        TrainingConfig(eval_every_n_steps=10**6, max_steps=num_steps, max_inflight_computations=1),
    )


def _forward(model: nnx.Module, input_tokens: jax.Array, input_mask: jax.Array) -> jax.Array:
    """Return the logits of every position."""
    del input_mask
    length = input_tokens.shape[1]
    positions = jnp.broadcast_to(jnp.arange(length), input_tokens.shape)
    causal = jnp.broadcast_to(jnp.tri(length, dtype=bool), (len(input_tokens), length, length))
    return model(input_tokens, positions, None, causal)[0]


def _labels(input_tokens: jax.Array, input_mask: jax.Array) -> jax.Array:
    """Return the labels as one-hot vectors, which the strategy expects."""
    del input_mask
    return jax.nn.one_hot(jnp.roll(input_tokens, -1, axis=1), VOCAB_SIZE)
