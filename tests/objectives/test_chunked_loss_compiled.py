"""Compiled programs of the chunked loss: memory that does not grow with T·V, no needless work."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from random_positions import VOCAB_SIZE, Case, measure_terms, random_case

from jaxdistill.objectives import OBJECTIVES, weighted_loss
from jaxdistill.objectives.positions import AlignedPositions, ModelPositions
from jaxdistill.types import LMHead

MIX = (OBJECTIVES["forward_kl"](), OBJECTIVES["cross_entropy"]())
QWEN_VOCAB_SIZE, WIDTH = 151_936, 64


def lower_loss(num_positions: int, *, differentiate: tuple[int, ...] = (0, 1)):
    """Lower the chunked loss over a real vocabulary, from shapes alone."""
    hidden = jax.ShapeDtypeStruct((1, num_positions, WIDTH), jnp.float32)
    matrix = jax.ShapeDtypeStruct((QWEN_VOCAB_SIZE, WIDTH), jnp.float32)
    labels = jax.ShapeDtypeStruct((1, num_positions), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, num_positions), jnp.float32)

    def loss(student_hidden, matrix, labels, mask, teacher_hidden, teacher_matrix):
        positions = AlignedPositions(
            ModelPositions(student_hidden, labels), ModelPositions(teacher_hidden, labels), mask
        )
        lm_heads = LMHead(matrix), LMHead(teacher_matrix)
        return weighted_loss(MIX, jnp.ones(2), positions, *lm_heads, chunk_size=64)[0]

    function = jax.value_and_grad(loss, argnums=differentiate) if differentiate else loss
    return jax.jit(function).lower(hidden, matrix, labels, mask, hidden, matrix)


@functools.cache
def compile_loss(num_positions: int, *, differentiate: tuple[int, ...] = (0, 1)):
    return lower_loss(num_positions, differentiate=differentiate).compile()


def temporary_bytes(num_positions: int) -> int:
    return compile_loss(num_positions).memory_analysis().temp_size_in_bytes


def test_temporary_memory_does_not_grow_with_positions_times_vocabulary() -> None:
    growth = temporary_bytes(1024 + 128) - temporary_bytes(128)
    hidden_bytes = 4 * WIDTH
    # Compacted copies of both hidden states and the gradient, before and after it is scattered.
    assert growth <= 1024 * (4 * hidden_bytes + 64)
    assert growth < 1024 * QWEN_VOCAB_SIZE * 4 / 100


LM_HEAD_GRADIENT = f"f32[{QWEN_VOCAB_SIZE},{WIDTH}]{{1,0}} dot"


def test_only_needed_gradients_are_computed() -> None:
    assert LM_HEAD_GRADIENT in compile_loss(128).as_text()
    assert LM_HEAD_GRADIENT not in compile_loss(128, differentiate=(0,)).as_text()
    # Without any gradient, not even before XLA removes what no output needs.
    dots = re.findall(r"stablehlo.dot_general .*", lower_loss(128, differentiate=()).as_text())
    assert len(dots) == 2
    assert not any(dot.endswith(f"tensor<{QWEN_VOCAB_SIZE}x{WIDTH}xf32>") for dot in dots)


def test_nothing_is_projected_twice() -> None:
    """XLA:CPU may fuse a projection with what reduces it, and then computes it for each use."""
    for computation in compile_loss(128).as_text().split("\n}\n"):
        if computation.lstrip().startswith("%fused") and " dot(" in computation:
            assert " reduce(" not in computation


MESHES = {"data": (4, 1), "vocabulary": (1, 4), "both": (2, 2)}


def on_mesh(case: Case, data: int, vocabulary: int) -> Case:
    """Spread the shards over `data` devices, and the LM heads' tokens over `vocabulary`."""
    axis_types = (AxisType.Auto, AxisType.Auto)
    mesh = jax.make_mesh((data, vocabulary), ("data", "vocabulary"), axis_types=axis_types)
    by_shard = NamedSharding(mesh, PartitionSpec("data"))
    by_token = NamedSharding(mesh, PartitionSpec("vocabulary"))
    lm_heads = jax.device_put((case.student_lm_head, case.teacher_lm_head), by_token)
    spread = jax.device_put(case, by_shard)
    return spread.replace(student_lm_head=lm_heads[0], teacher_lm_head=lm_heads[1])


def with_vocab_size(case: Case, vocab_size: int) -> Case:
    """Give both LM heads 36 rows, an even number; rows from `vocab_size` on are padding."""
    lm_heads = [
        LMHead(
            jnp.asarray(np.pad(lm_head.matrix, ((0, 36 - VOCAB_SIZE), (0, 0)), constant_values=9)),
            vocab_size=vocab_size,
        )
        for lm_head in (case.student_lm_head, case.teacher_lm_head)
    ]
    return case.replace(student_lm_head=lm_heads[0], teacher_lm_head=lm_heads[1])


ONES = np.ones(len(MIX), np.float32)
CASE = with_vocab_size(random_case(shards=4), VOCAB_SIZE)


@functools.cache
def compiled_on(mesh: str):
    """Return the arguments spread over a mesh, and the compiled program for them."""
    arguments = on_mesh(CASE, *MESHES[mesh]), ONES
    return arguments, measure_terms.lower(MIX, *arguments).compile()


@pytest.mark.parametrize("mesh", MESHES)
def test_devices_change_nothing(mesh: str) -> None:
    (value, _), (gradient, _) = jax.device_get(measure_terms(MIX, CASE, ONES))
    arguments, compiled = compiled_on(mesh)
    (spread_value, _), (spread_gradient, _) = jax.device_get(compiled(*arguments))
    np.testing.assert_allclose(spread_value, value, rtol=1e-6)
    for name in ("student_hidden", "student_lm_head"):
        ours, expected = getattr(spread_gradient, name), getattr(gradient, name)
        for leaf, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-5)


def collectives(text: str) -> dict[str, list[str]]:
    """Return the collective operations of a compiled program, inside of its loops and outside."""
    operations: dict[str, list[str]] = {"entry": [], "loop": []}
    computation = "loop"
    for line in text.splitlines():
        if line.endswith("{"):
            computation = "entry" if line.startswith("ENTRY") else "loop"
        operation = re.search(r" (all-gather|all-reduce|all-to-all|collective-permute)\(", line)
        if operation:
            operations[computation].append(line.split(" = ")[1])
    return operations


def test_a_sharded_batch_communicates_only_before_and_after_the_loop() -> None:
    operations = collectives(compiled_on("data")[1].as_text())
    assert operations["loop"] == []
    # The number of chunks of the longest shard; the sums and the LM head's gradient, once.
    assert len(operations["entry"]) <= 3
    assert all("all-reduce(" in line for line in operations["entry"])


def test_a_sharded_vocabulary_is_never_gathered() -> None:
    operations = collectives(compiled_on("vocabulary")[1].as_text())
    for line in operations["entry"] + operations["loop"]:
        assert "all-reduce(" in line, "only maxima and sums over the vocabulary are exchanged"
        assert "36" not in line.split("all-reduce(")[0]
