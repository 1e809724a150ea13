"""The same step with Tunix: its trainer, and its logit strategy, whose loss is forward KL."""

import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import shapes
from flax import nnx
from measure import tell
from tunix.distillation.distillation_trainer import (
    DistillationTrainer,
    TrainingConfig,
    TrainingInput,
)
from tunix.distillation.strategies.logit import LogitStrategy
from tunix.models.llama3.model import Llama3, ModelConfig

WARM_UP, STEPS = 2, 5
size = shapes.BATCH, shapes.LENGTH
words = shapes.CONFIG["vocab_size"]


def model(layers: int) -> Llama3:
    """A model of `layers` layers, in float32."""
    config = ModelConfig(
        num_layers=layers,
        vocab_size=words,
        embed_dim=shapes.CONFIG["hidden_size"],
        hidden_dim=shapes.CONFIG["intermediate_size"],
        num_heads=shapes.CONFIG["num_attention_heads"],
        head_dim=64,
        num_kv_heads=shapes.CONFIG["num_key_value_heads"],
        rope_theta=int(shapes.CONFIG["rope_theta"]),
        norm_eps=1e-6,
        weight_tying=True,
    )
    made = Llama3(config, rngs=nnx.Rngs(0))
    nnx.update(made, jax.tree.map(lambda a: a.astype(jnp.float32), nnx.state(made)))
    return made


def forward(made: Llama3, input_tokens: jax.Array, input_mask: jax.Array) -> jax.Array:
    """The logits of every place."""
    del input_mask
    length = input_tokens.shape[1]
    positions = jnp.broadcast_to(jnp.arange(length), input_tokens.shape)
    causal = jnp.broadcast_to(jnp.tri(length, dtype=bool), (len(input_tokens), length, length))
    return made(input_tokens, positions, None, causal)[0]


def labels(input_tokens: jax.Array, input_mask: jax.Array) -> jax.Array:
    """What follows, one-hot, as its loss wants it."""
    del input_mask
    return jax.nn.one_hot(jnp.roll(input_tokens, -1, axis=1), words)


def batches(times: list[float]) -> Iterator[TrainingInput]:
    """The same batch again and again, and when each was asked for."""
    tokens = np.random.default_rng(0).integers(0, words, size, np.int32)
    for _ in range(WARM_UP + STEPS + 1):
        times.append(time.perf_counter())
        yield TrainingInput(input_tokens=tokens, input_mask=np.ones(size, bool))


mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
with mesh:
    trainer = DistillationTrainer(
        model(shapes.STUDENT_LAYERS),
        model(shapes.LAYERS),
        LogitStrategy(forward, forward, labels, temperature=1.0, alpha=1.0),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4)),
        TrainingConfig(
            eval_every_n_steps=10**6,
            max_steps=WARM_UP + STEPS + 1,
            max_inflight_computations=1,
        ),
    )
    asked: list[float] = []
    trainer.train(batches(asked))
tell(np.diff(asked)[WARM_UP:].tolist(), units=shapes.BATCH * shapes.LENGTH)
