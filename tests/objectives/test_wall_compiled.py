"""What the compiler makes of the wall: memory that does not grow with T·V, and no needless work."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from random_rows import WORDS, Case, measure, random_case

from jaxdistill.objectives import OBJECTIVES, weighted_loss
from jaxdistill.objectives.compaction import AlignedPositions, ModelPositions
from jaxdistill.types import LMHead

MIX = (OBJECTIVES["forward_kl"](), OBJECTIVES["cross_entropy"]())
QWEN_WORDS, WIDTH = 151_936, 64


def compile_wall(rows: int, *, differentiate: tuple[int, ...] = (0, 1)):
    """The wall over `rows` rows of a real vocabulary, compiled from shapes alone."""
    hidden = jax.ShapeDtypeStruct((1, rows, WIDTH), jnp.float32)
    matrix = jax.ShapeDtypeStruct((QWEN_WORDS, WIDTH), jnp.float32)
    labels = jax.ShapeDtypeStruct((1, rows), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, rows), jnp.float32)

    def loss(student_hidden, matrix, labels, mask, teacher_hidden, teacher_matrix):
        rows = AlignedPositions(
            ModelPositions(student_hidden, labels), ModelPositions(teacher_hidden, labels), mask
        )
        heads = LMHead(matrix), LMHead(teacher_matrix)
        return weighted_loss(MIX, jnp.ones(2), rows, *heads, chunk_size=64)[0]

    function = jax.value_and_grad(loss, argnums=differentiate) if differentiate else loss
    return jax.jit(function).lower(hidden, matrix, labels, mask, hidden, matrix).compile()


def temporary_bytes(rows: int, **options) -> int:
    return compile_wall(rows, **options).memory_analysis().temp_size_in_bytes


def test_temporary_memory_does_not_grow_with_rows_times_vocabulary() -> None:
    growth = temporary_bytes(2048) - temporary_bytes(1024)
    row_of_hidden = 4 * WIDTH
    # Compacted copies of both hidden states and the gradient, before and after it is put in order.
    assert growth <= 1024 * (4 * row_of_hidden + 64)
    assert growth < 1024 * QWEN_WORDS * 4 / 100


HEAD_GRADIENT = f"f32[{QWEN_WORDS},{WIDTH}]{{1,0}} dot"


def test_gradients_are_formed_only_where_they_are_asked_for() -> None:
    assert HEAD_GRADIENT in compile_wall(128).as_text()
    assert HEAD_GRADIENT not in compile_wall(128, differentiate=(0,)).as_text()
    assert HEAD_GRADIENT not in compile_wall(128, differentiate=()).as_text()


def test_nothing_is_projected_twice() -> None:
    """XLA:CPU may fuse a projection with what reduces it, and then computes it for each use."""
    for computation in compile_wall(128).as_text().split("\n}\n"):
        if computation.lstrip().startswith("%fused") and " dot(" in computation:
            assert " reduce(" not in computation


MESHES = {"data": (4, 1), "vocabulary": (1, 4), "both": (2, 2)}


def on_mesh(case: Case, data: int, vocabulary: int) -> Case:
    """The case with its groups spread over `data` devices, its heads' words over `vocabulary`."""
    axis_types = (AxisType.Auto, AxisType.Auto)
    mesh = jax.make_mesh((data, vocabulary), ("data", "vocabulary"), axis_types=axis_types)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    words = NamedSharding(mesh, PartitionSpec("vocabulary"))
    heads = jax.device_put((case.student_lm_head, case.teacher_lm_head), words)
    spread = jax.device_put(case, rows)
    return spread.replace(student_lm_head=heads[0], teacher_lm_head=heads[1])


def with_words(case: Case, num_words: int) -> Case:
    """Heads of an even width, of which `num_words` rows are words and the rest is junk."""
    heads = [
        LMHead(
            jnp.concatenate([head.matrix, jnp.full((36 - WORDS, head.matrix.shape[1]), 9.0)]),
            vocab_size=num_words,
        )
        for head in (case.student_lm_head, case.teacher_lm_head)
    ]
    return case.replace(student_lm_head=heads[0], teacher_lm_head=heads[1])


@pytest.mark.parametrize(
    ("mesh", "num_words"),
    [("data", 36), ("vocabulary", 36), ("vocabulary", WORDS), ("both", WORDS)],
)
def test_devices_change_nothing(key: jax.Array, mesh: str, num_words: int) -> None:
    case = with_words(random_case(key, groups=4), num_words)
    value, gradient = measure(MIX, case)
    spread_value, spread_gradient = measure(MIX, on_mesh(case, *MESHES[mesh]))
    np.testing.assert_allclose(spread_value, value, rtol=1e-6)
    for name in ("student_hidden", "student_lm_head"):
        found, expected = getattr(spread_gradient, name), getattr(gradient, name)
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def collectives(text: str) -> dict[str, list[str]]:
    """The communicating instructions of a compiled program, inside its loops and outside."""
    found: dict[str, list[str]] = {"entry": [], "loop": []}
    where = "loop"
    for line in text.splitlines():
        if line.endswith("{"):
            where = "entry" if line.startswith("ENTRY") else "loop"
        operation = re.search(r" (all-gather|all-reduce|all-to-all|collective-permute)\(", line)
        if operation:
            found[where].append(line.split(" = ")[1])
    return found


def compiled_on(mesh: str, key: jax.Array) -> dict[str, list[str]]:
    case = on_mesh(with_words(random_case(key, groups=4), WORDS), *MESHES[mesh])
    return collectives(measure.lower(MIX, case).compile().as_text())


def test_a_walk_over_a_sharded_batch_talks_only_before_and_after(key: jax.Array) -> None:
    found = compiled_on("data", key)
    assert found["loop"] == []
    # How many chunks the longest group has; and the sums and the head's gradient, once.
    assert len(found["entry"]) <= 3
    assert all("all-reduce(" in line for line in found["entry"])


def test_a_vocabulary_that_is_sharded_stays_where_it_is(key: jax.Array) -> None:
    found = compiled_on("vocabulary", key)
    for line in found["entry"] + found["loop"]:
        assert "all-reduce(" in line, "a row's maximum and sums are exchanged, and nothing else"
        assert "36" not in line.split("all-reduce(")[0]
