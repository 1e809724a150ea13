"""Lower bounds for docs/performance.md: times of matrix products and sorting, each run alone.

    PYTHONPATH=tests/benchmarks .benchmarks/ours/bin/python tests/benchmarks/lower_bounds.py

`run.sh` installs that environment. Times are the minimum of several repeats, in milliseconds; run
this on an idle machine.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import shapes

from jaxdistill.losses import sorted_difference, sorted_difference_top_k
from jaxdistill.models import FAMILIES, DecoderModel
from jaxdistill.objectives.chunk import CHUNK_SIZE
from jaxdistill.sampling import Sampling, generate

EMBED_DIM, MLP_DIM = shapes.CONFIG["hidden_size"], shapes.CONFIG["intermediate_size"]
VOCAB_SIZE = shapes.CONFIG["vocab_size"]
KEY_DIM = EMBED_DIM * shapes.CONFIG["num_key_value_heads"] // shapes.CONFIG["num_attention_heads"]
LM_HEAD = (EMBED_DIM, VOCAB_SIZE)
# Input and output sizes of a layer's matrices: query, key, value, output, gate, up, down.
LAYER = [(EMBED_DIM, EMBED_DIM), (EMBED_DIM, KEY_DIM), (EMBED_DIM, KEY_DIM), (EMBED_DIM, EMBED_DIM)]
LAYER += [(EMBED_DIM, MLP_DIM), (EMBED_DIM, MLP_DIM), (MLP_DIM, EMBED_DIM)]
# The same for Gemma-3-270M, whose 18 layers have one key/value head and four query heads.
TEACHER_NUM_LAYERS, TEACHER_VOCAB_SIZE = 18, 262_144
TEACHER_LM_HEAD = (640, TEACHER_VOCAB_SIZE)
TEACHER_LAYER = [(640, 1024), (640, 256), (640, 256), (1024, 640)]
TEACHER_LAYER += [(640, 2048), (640, 2048), (2048, 640)]


class ProductCount(NamedTuple):
    """Number of forward and backward passes through a matrix in one step.

    Attributes:
        shape: Input and output size of the matrix.
        forward: Number of forward products.
        backward: Number of backward passes, each of two products: d(input) and d(matrix).
    """

    shape: tuple[int, int]
    forward: int
    backward: int


def main() -> None:
    """Measure and print all lower bounds."""
    array = jnp.ones((131_072, 1024))
    seconds = min_seconds(jax.jit(lambda a: a.sum(axis=1)), array)
    print_line("memory bandwidth", f"{array.nbytes / seconds / 1e9:.0f} GB/s")
    for batch_size in (1, 8, 32):
        label = f"generation, batch size {batch_size}"
        print_line(f"{label}: step", 1e3 * decoding_step(batch_size))
        print_line(f"{label}: matrix products", 1e3 * decoding_products(batch_size))
    kd_step()
    cross_tokenizer_step()
    chunked_loss()


def decoding_step(batch_size: int) -> float:
    """Return the seconds per token after the first, so that the prompt does not count."""
    config = FAMILIES["llama"].decoder_config(
        {**shapes.CONFIG, "num_hidden_layers": shapes.NUM_LAYERS}
    )
    model = DecoderModel(config)
    params = model.init_params(jax.random.key(0))
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, VOCAB_SIZE, (batch_size, shapes.PROMPT_LENGTH)).tolist()

    def generate_tokens(count: int) -> object:
        sampling = Sampling(max_new_tokens=count)
        return generate(model, params, prompts, sampling, eos_ids=(), batch_size=batch_size)

    all_tokens = min_seconds(partial(generate_tokens, shapes.MAX_NEW_TOKENS), repeats=3)
    first_token = min_seconds(partial(generate_tokens, 1), repeats=3)
    return (all_tokens - first_token) / (shapes.MAX_NEW_TOKENS - 1)


def decoding_products(batch_size: int) -> float:
    """Return the seconds of a decoding step's matrix products, in the order of their dependence."""
    layers = [
        [random_array(outputs, inputs) for inputs, outputs in LAYER]
        for _ in range(shapes.NUM_LAYERS)
    ]

    def multiply(matrix: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.optimization_barrier(jnp.einsum("yx,rx->yr", matrix, x)).T

    def multiply_all(x: jax.Array, layers: list, lm_head: jax.Array) -> jax.Array:
        for query, key, value, output, gate, up, down in layers:
            keys_and_values = multiply(key, x) + multiply(value, x)
            mixed = jnp.tile(keys_and_values, EMBED_DIM // KEY_DIM)
            x = x + multiply(output, multiply(query, x) + mixed)
            x = x + multiply(down, multiply(gate, x) * multiply(up, x))
        return multiply(lm_head, x)

    hidden, lm_head = random_array(batch_size, EMBED_DIM), random_array(VOCAB_SIZE, EMBED_DIM)
    return min_seconds(jax.jit(multiply_all), hidden, layers, lm_head)


def kd_step() -> None:
    """Measure the matrix products of a step of logit distillation."""
    num_layers = shapes.NUM_LAYERS + shapes.NUM_STUDENT_LAYERS
    counts = [ProductCount(shape, num_layers, shapes.NUM_STUDENT_LAYERS) for shape in LAYER]
    counts.append(ProductCount(LM_HEAD, 2, 1))
    matrix_products("KD step", shapes.BATCH_SIZE * shapes.LENGTH, counts)


def cross_tokenizer_step() -> None:
    """Measure the matrix products and the sorting of a step with two tokenizers."""
    counts = [ProductCount(shape, shapes.NUM_LAYERS, shapes.NUM_LAYERS) for shape in LAYER]
    counts.append(ProductCount(LM_HEAD, 1, 1))
    counts += [ProductCount(shape, TEACHER_NUM_LAYERS, 0) for shape in TEACHER_LAYER]
    counts.append(ProductCount(TEACHER_LM_HEAD, 1, 0))
    num_positions = shapes.CROSS_TOKENIZER_BATCH_SIZE * shapes.CROSS_TOKENIZER_LENGTH
    matrix_products("cross-tokenizer step", num_positions, counts)
    slice_size = 16
    p, q = (
        jax.nn.softmax(random_array(slice_size, size)) for size in (TEACHER_VOCAB_SIZE, VOCAB_SIZE)
    )
    losses = {"exact": sorted_difference, "top_k": partial(sorted_difference_top_k, k=1024)}
    for name, loss in losses.items():

        def total(q: jax.Array, p: jax.Array, loss: Callable = loss) -> jax.Array:
            return jax.tree.leaves(loss(p, q))[0].sum()

        seconds = min_seconds(jax.jit(jax.grad(total)), q, p) * num_positions / slice_size
        print_line(f"cross-tokenizer step: sorting, {name}", 1e3 * seconds)


def matrix_products(label: str, num_positions: int, counts: list[ProductCount]) -> None:
    """Measure matrix products, each run alone on all positions, and print their total."""
    seconds = operations = 0.0
    for (inputs, outputs), forward, backward in counts:
        x, matrix = random_array(num_positions, inputs), random_array(inputs, outputs)
        gradient = random_array(num_positions, outputs)
        seconds += forward * min_seconds(jax.jit(lambda x, w: x @ w), x, matrix)
        if backward:
            seconds += backward * min_seconds(jax.jit(lambda d, w: d @ w.T), gradient, matrix)
            seconds += backward * min_seconds(jax.jit(lambda x, d: x.T @ d), x, gradient)
        operations += 2 * num_positions * inputs * outputs * (forward + 2 * backward)
    speed = f"{operations / seconds / 1e9:.0f} GFLOP/s"
    print_line(f"{label}: matrix products", f"{1e3 * seconds:,.0f} ({speed})")


def chunked_loss() -> None:
    """Measure the matrix products of one chunk of the chunked loss."""
    hidden, matrix = random_array(CHUNK_SIZE, EMBED_DIM), random_array(VOCAB_SIZE, EMBED_DIM)
    gradient, total = random_array(CHUNK_SIZE, VOCAB_SIZE), random_array(VOCAB_SIZE, EMBED_DIM)
    bounds = {
        "logits": min_seconds(jax.jit(lambda h, w: h @ w.T), hidden, matrix),
        "d(hidden)": min_seconds(jax.jit(lambda d, w: d @ w), gradient, matrix),
        "d(LM head)": min_seconds(jax.jit(lambda t, d, h: t + d.T @ h), total, gradient, hidden),
    }
    for name, seconds in bounds.items():
        print_line(f"chunked loss: {name} of a chunk", 1e3 * seconds)


def min_seconds(function: Callable[..., object], *arguments: object, repeats: int = 7) -> float:
    """Return the time of the fastest call, after one call for compilation."""
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def random_array(*shape: int) -> jax.Array:
    """Return an array of standard normal numbers."""
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))


def print_line(label: str, value: float | str) -> None:
    """Print a label and a value, a number in milliseconds."""
    text = value if isinstance(value, str) else f"{value:.1f}"
    sys.stdout.write(f"{label:<48}{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
