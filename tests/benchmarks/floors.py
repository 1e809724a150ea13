"""How far ours is from what it is made of, for docs/performance.md; `run.sh` sets up what it needs.

    PYTHONPATH=tests/benchmarks .benchmarks/ours/bin/python tests/benchmarks/floors.py

Times are the best of several, in milliseconds, on an idle machine.
"""

import sys
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import shapes

from jaxdistill.losses import sorted_difference, sorted_difference_top_k
from jaxdistill.models import FAMILIES, init_params
from jaxdistill.objectives.chunk import CHUNK_SIZE
from jaxdistill.sampling import Sampling, generate

WIDTH, INNER = shapes.CONFIG["hidden_size"], shapes.CONFIG["intermediate_size"]
WORDS = shapes.CONFIG["vocab_size"]
KEYS = WIDTH * shapes.CONFIG["num_key_value_heads"] // shapes.CONFIG["num_attention_heads"]
# Inputs and outputs of a layer's seven matrices: queries, keys, values, outputs, gate, up, down.
LAYER = [(WIDTH, WIDTH), (WIDTH, KEYS), (WIDTH, KEYS), (WIDTH, WIDTH)]
LAYER += [(WIDTH, INNER), (WIDTH, INNER), (INNER, WIDTH)]
# The same of Gemma-3-270M, which has 18 of them: one head of keys and values, four of queries.
TEACHER_LAYERS, TEACHER_WIDTH, TEACHER_WORDS = 18, 640, 262_144
TEACHER_LAYER = [(640, 1024), (640, 256), (640, 256), (1024, 640)]
TEACHER_LAYER += [(640, 2048), (640, 2048), (2048, 640)]


def main() -> None:
    """Prints them all."""
    array = jnp.ones((131_072, 1024))
    seconds = best(jax.jit(lambda a: a.sum(axis=1)), array)
    say("reading memory", f"{array.nbytes / seconds / 1e9:.0f} GB/s")
    for batch in (1, 8, 32):
        say(f"generation, batch of {batch}, a step", f"{1e3 * generation_step(batch):.1f}")
        say(f"generation, batch of {batch}, its products", f"{1e3 * step_products(batch):.1f}")
    kd_step()
    pair_step()
    wall_chunk()


def generation_step(batch: int) -> float:
    """Seconds of one more token: what 64 take longer than one, by 63."""
    config = FAMILIES["llama"].decoder_config({**shapes.CONFIG, "num_hidden_layers": shapes.LAYERS})
    params = init_params(config, jax.random.key(0))
    prompts = np.random.default_rng(0).integers(0, WORDS, (batch, shapes.PROMPT)).tolist()

    def write(count: int) -> Callable[[], object]:
        sampling = Sampling(max_new_tokens=count)
        return lambda: generate(config, params, prompts, sampling, eos_ids=(), batch_size=batch)

    more = shapes.NEW_TOKENS - 1
    return (best(write(shapes.NEW_TOKENS), repeats=3) - best(write(1), repeats=3)) / more


def step_products(batch: int) -> float:
    """Seconds of all products of a step of generation, each after those whose result it needs."""
    layers = [[random(outputs, inputs) for inputs, outputs in LAYER] for _ in range(shapes.LAYERS)]

    def multiply(matrix: jax.Array, rows: jax.Array) -> jax.Array:
        return jax.lax.optimization_barrier(jnp.einsum("yx,rx->yr", matrix, rows)).T

    def products(x: jax.Array, layers: list, head: jax.Array) -> jax.Array:
        for query, key, value, output, gate, up, down in layers:
            mixed = jnp.tile(multiply(key, x) + multiply(value, x), WIDTH // KEYS)
            x = x + multiply(output, multiply(query, x) + mixed)
            x = x + multiply(down, multiply(gate, x) * multiply(up, x))
        return multiply(head, x)

    return best(jax.jit(products), random(batch, WIDTH), layers, random(WORDS, WIDTH))


def kd_step() -> None:
    """The products of a step of logit distillation."""
    both = shapes.LAYERS + shapes.STUDENT_LAYERS
    counts = [(shape, both, shapes.STUDENT_LAYERS) for shape in LAYER] + [((WIDTH, WORDS), 2, 1)]
    products("KD step, its products", shapes.BATCH * shapes.LENGTH, counts)


def pair_step() -> None:
    """The products of a step with a teacher of another tokenizer, and what is done with words."""
    learner = [*((shape, shapes.LAYERS) for shape in LAYER), ((WIDTH, WORDS), 1)]
    counts = [(shape, count, count) for shape, count in learner]
    counts += [(shape, TEACHER_LAYERS, 0) for shape in TEACHER_LAYER]
    counts += [((TEACHER_WIDTH, TEACHER_WORDS), 1, 0)]
    rows = shapes.PAIR_BATCH * shapes.PAIR_LENGTH
    products("step with two tokenizers, its products", rows, counts)
    chances = [jax.nn.softmax(random(16, words)) for words in (TEACHER_WORDS, WORDS)]
    ways = {"exact": sorted_difference, "top_k": partial(sorted_difference_top_k, k=1024)}
    for name, way in ways.items():
        differentiate = jax.jit(jax.grad(lambda q, p, way=way: jax.tree.leaves(way(p, q))[0].sum()))
        seconds = best(differentiate, *reversed(chances)) * rows / 16
        say(f"step with two tokenizers, its ranks, {name}", 1e3 * seconds)


def products(what: str, rows: int, counts: list[tuple[tuple[int, int], int, int]]) -> None:
    """Of matrices, forward and backward so many times, each done alone on all rows."""
    seconds = operations = 0.0
    for (inputs, outputs), forward, backward in counts:
        x, matrix, slope = random(rows, inputs), random(inputs, outputs), random(rows, outputs)
        seconds += forward * best(jax.jit(lambda x, w: x @ w), x, matrix)
        if backward:
            seconds += backward * best(jax.jit(lambda d, w: d @ w.T), slope, matrix)
            seconds += backward * best(jax.jit(lambda x, d: x.T @ d), x, slope)
        operations += 2 * rows * inputs * outputs * (forward + 2 * backward)
    say(what, f"{1e3 * seconds:,.0f} ({operations / seconds / 1e9:.0f} GFLOP/s)")


def wall_chunk() -> None:
    """The products of one chunk of the wall."""
    hidden, matrix = random(CHUNK_SIZE, WIDTH), random(WORDS, WIDTH)
    slope, total = random(CHUNK_SIZE, WORDS), random(WORDS, WIDTH)
    say("wall, a chunk's logits", 1e3 * best(jax.jit(lambda h, w: h @ w.T), hidden, matrix))
    say("wall, a chunk's hidden gradient", 1e3 * best(jax.jit(lambda d, w: d @ w), slope, matrix))
    add = jax.jit(lambda t, d, h: t + d.T @ h)
    say("wall, a chunk's head gradient", 1e3 * best(add, total, slope, hidden))


def best(work: Callable[..., object], *arguments: object, repeats: int = 7) -> float:
    """Seconds, after one time that compiles."""
    found = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        jax.block_until_ready(work(*arguments))
        found.append(time.perf_counter() - start)
    return min(found[1:])


def random(*shape: int) -> jax.Array:
    """Numbers to multiply."""
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))


def say(what: str, value: float | str) -> None:
    """A line of the list."""
    text = value if isinstance(value, str) else f"{value:.1f}"
    sys.stdout.write(f"{what:<48}{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
