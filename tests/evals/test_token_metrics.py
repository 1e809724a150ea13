"""Token metrics compared with dense NumPy: packed and padded, on one device and on four."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.data.batches import ordered_batches
from jaxdistill.data.examples import Example
from jaxdistill.errors import UserError
from jaxdistill.evals import TokenEvaluator, TokenMetrics, num_parameters, size_on_disk
from jaxdistill.sharding import MeshConfig, make_mesh
from jaxdistill.types import Batch, HiddenSignal, LMHead, ModelOutput

NUM_ROWS, VOCAB_SIZE, EMBED_DIM = 19, 17, 5
"""Rows of the embedding and LM head, of which the last two are padding; and their width."""


def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    result = []
    for index, length in enumerate([3, 9, 2, 12, 5, 7, 4, 11, 6]):
        mask = rng.random(length) < 0.6
        mask[0], mask[-1] = False, True
        tokens = rng.integers(0, VOCAB_SIZE, length).astype(np.int32)
        result.append(Example(tokens, mask, index, f"row {index}", int(mask.sum()) * 3))
    return result


def models() -> tuple[dict, dict]:
    rng = np.random.default_rng(1)
    return tuple(
        {
            "embedding": rng.normal(size=(NUM_ROWS, width)).astype(np.float32),
            "lm_head": rng.normal(size=(NUM_ROWS, width)).astype(np.float32),
        }
        for width in (EMBED_DIM, EMBED_DIM + 2)
    )  # pyright: ignore


def forward(params, batch: Batch) -> ModelOutput:
    hidden = params["embedding"][batch.tokens]
    return ModelOutput(hidden + 0.1 * batch.positions[..., None])


def lm_head(params) -> LMHead:
    return LMHead(jnp.asarray(params["lm_head"]), vocab_size=VOCAB_SIZE)


def signal(params, batch: Batch) -> HiddenSignal:
    return HiddenSignal(forward(params, batch).hidden, lm_head(params))


def evaluator(num_devices: int, *, has_teacher: bool = True, chunk_size: int = 256):
    return TokenEvaluator(
        student_signal=signal,
        teacher_signal=signal if has_teacher else None,
        mesh=make_mesh(MeshConfig(), jax.devices()[:num_devices]),
        chunk_size=chunk_size,
    )


def dense(rows: list[Example]) -> dict[str, np.ndarray]:
    """Compute the metrics in float64, without packing and padding."""
    student, teacher = models()
    columns: dict[str, list[np.ndarray]] = {}
    for row in rows:
        positions = np.arange(len(row.tokens) - 1)
        log_probs = []
        for params in (teacher, student):
            hidden = params["embedding"][row.tokens[:-1]].astype(np.float64)
            logits = (hidden + 0.1 * positions[:, None]) @ params["lm_head"][:VOCAB_SIZE].T
            log_probs.append(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
        log_p, log_q = log_probs
        labels = row.tokens[1:]
        top5 = np.argsort(-log_q, axis=-1)[:, :5]
        values = {
            "example_ids": np.full(len(positions), row.row_id),
            "positions": positions,
            "labels": labels,
            "nll": -log_q[positions, labels],
            "accuracy": log_q.argmax(-1) == labels,
            "confidence": np.exp(log_q.max(-1)),
            "forward_kl": (np.exp(log_p) * (log_p - log_q)).sum(-1),
            "acceptance": np.minimum(np.exp(log_p), np.exp(log_q)).sum(-1),
            "top1_agreement": log_p.argmax(-1) == log_q.argmax(-1),
            "top5_agreement": (top5 == log_p.argmax(-1)[:, None]).any(-1),
            "teacher_nll": -log_p[positions, labels],
        }
        for name, value in values.items():
            columns.setdefault(name, []).append(value[row.loss_mask[1:]])
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def sort_tokens(metrics: TokenMetrics) -> dict[str, np.ndarray]:
    """Sort by example and position, since packing changes the order."""
    columns = {
        "example_ids": metrics.example_ids,
        "positions": metrics.positions,
        "labels": metrics.labels,
        **metrics.values,
    }
    order = np.lexsort((metrics.positions, metrics.example_ids))
    return {name: column[order] for name, column in columns.items()}


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("devices", [1, 4])
def test_every_token_equals_dense_numpy(pack: bool, devices: int) -> None:
    student, teacher = models()
    batches = ordered_batches(examples(), length=12, batch_size=4, pack=pack)
    evaluate = evaluator(devices, chunk_size=3)
    metrics = sort_tokens(evaluate(student, batches, teacher_params=teacher))
    expected = dense(examples())
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, atol=1e-6, err_msg=name)


def test_without_a_teacher_there_are_only_metrics_of_the_student() -> None:
    rows = examples()
    evaluate = evaluator(1, has_teacher=False)
    metrics = evaluate(models()[0], ordered_batches(rows, length=12, batch_size=2))
    assert metrics.values.keys() == {"nll", "accuracy", "confidence"}
    np.testing.assert_allclose(sort_tokens(metrics)["nll"], dense(rows)["nll"], rtol=2e-5)


def test_a_student_equal_to_its_teacher_agrees_with_it() -> None:
    student = models()[0]
    batches = ordered_batches(examples(), length=12, batch_size=2)
    values = evaluator(1)(student, batches, teacher_params=student).values
    np.testing.assert_allclose(values["forward_kl"], 0, atol=1e-6)
    assert values["top1_agreement"].all()
    np.testing.assert_array_equal(values["nll"], values["teacher_nll"])


def test_of_equal_logits_the_first_token_is_top_1_for_both_models() -> None:
    constant = jax.tree.map(np.zeros_like, models()[0])
    batches = ordered_batches(examples(), length=12, batch_size=2)
    metrics = evaluator(1)(constant, batches, teacher_params=constant)
    assert metrics.values["top1_agreement"].all()
    np.testing.assert_array_equal(metrics.values["accuracy"], metrics.labels == 0)


def test_empty_and_indivisible_batches_are_refused() -> None:
    evaluate = evaluator(2, has_teacher=False)
    student = models()[0]
    with pytest.raises(UserError, match="no token to score"):
        evaluate(student, [])
    with pytest.raises(UserError, match=r"batches of 3 .* 2 devices"):
        evaluate(student, ordered_batches(examples(), length=12, batch_size=3))


def test_sizes(tmp_path: Path) -> None:
    assert num_parameters(models()[0]) == 2 * NUM_ROWS * EMBED_DIM
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "deep" / "b").write_bytes(b"4567")
    assert size_on_disk(tmp_path) == 7
    assert size_on_disk(tmp_path / "a") == 3
