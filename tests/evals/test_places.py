"""Evaluation against dense NumPy, on packed rows with padding, on one device and on four."""

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

WORDS, REAL, WIDTH = 19, 17, 5


def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    made = []
    for number, length in enumerate([3, 9, 2, 12, 5, 7, 4, 11, 6]):
        mask = rng.random(length) < 0.6
        mask[0], mask[-1] = False, True
        tokens = rng.integers(0, REAL, length).astype(np.int32)
        made.append(Example(tokens, mask, number, f"row {number}", int(mask.sum()) * 3))
    return made


def models() -> tuple[dict, dict]:
    rng = np.random.default_rng(1)
    return tuple(
        {
            "embedding": rng.normal(size=(WORDS, width)).astype(np.float32),
            "head": rng.normal(size=(WORDS, width)).astype(np.float32),
        }
        for width in (WIDTH, WIDTH + 2)
    )  # pyright: ignore


def forward(params, batch: Batch) -> ModelOutput:
    hidden = params["embedding"][batch.tokens]
    return ModelOutput(hidden + 0.1 * batch.positions[..., None])


def head(params) -> LMHead:
    return LMHead(jnp.asarray(params["head"]), vocab_size=REAL)


def teacher(params, batch: Batch) -> HiddenSignal:
    return HiddenSignal(forward(params, batch).hidden, head(params))


def dense(rows: list[Example]) -> dict[str, np.ndarray]:
    """The same numbers place by place in float64, nothing packed or padded."""
    student, other = models()
    columns: dict[str, list[np.ndarray]] = {}
    for row in rows:
        places = np.arange(len(row.tokens) - 1)
        log_probs = []
        for params in (other, student):
            hidden = params["embedding"][row.tokens[:-1]].astype(np.float64)
            logits = (hidden + 0.1 * places[:, None]) @ params["head"][:REAL].T
            log_probs.append(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
        log_p, log_q = log_probs
        labels = row.tokens[1:]
        five_best = np.argsort(-log_q, axis=-1)[:, :5]
        values = {
            "example_ids": np.full(len(places), row.row_id),
            "positions": places,
            "labels": labels,
            "nll": -log_q[places, labels],
            "accuracy": log_q.argmax(-1) == labels,
            "confidence": np.exp(log_q.max(-1)),
            "forward_kl": (np.exp(log_p) * (log_p - log_q)).sum(-1),
            "top1_agreement": log_p.argmax(-1) == log_q.argmax(-1),
            "top5_agreement": (five_best == log_p.argmax(-1)[:, None]).any(-1),
            "teacher_nll": -log_p[places, labels],
        }
        for name, value in values.items():
            columns.setdefault(name, []).append(value[row.loss_mask[1:]])
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def ordered(places: TokenMetrics) -> dict[str, np.ndarray]:
    """By row and position, which packing changes."""
    columns = {
        "example_ids": places.example_ids,
        "positions": places.positions,
        "labels": places.labels,
        **places.values,
    }
    order = np.lexsort((places.positions, places.example_ids))
    return {name: column[order] for name, column in columns.items()}


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("devices", [1, 4])
def test_every_place_equals_dense_numpy(pack: bool, devices: int) -> None:
    rows = examples()
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    evaluate = TokenEvaluator(
        forward=forward, lm_head=head, teacher_signal=teacher, mesh=mesh, chunk_size=3
    )
    student, other = models()
    batches = ordered_batches(rows, length=12, batch_size=4, pack=pack)
    found = ordered(evaluate(student, batches, teacher_params=other))
    expected = dense(rows)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=1e-6, err_msg=name)


def test_without_a_teacher_only_what_the_student_knows() -> None:
    rows = examples()
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    evaluate = TokenEvaluator(forward=forward, lm_head=head, mesh=mesh)
    places = evaluate(models()[0], ordered_batches(rows, length=12, batch_size=2))
    assert places.values.keys() == {"nll", "accuracy", "confidence"}
    np.testing.assert_allclose(ordered(places)["nll"], dense(rows)["nll"], rtol=2e-5)


def test_a_student_that_is_its_teacher_agrees_with_it() -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    evaluate = TokenEvaluator(forward=forward, lm_head=head, teacher_signal=teacher, mesh=mesh)
    student = models()[0]
    batches = ordered_batches(examples(), length=12, batch_size=2)
    values = evaluate(student, batches, teacher_params=student).values
    np.testing.assert_allclose(values["forward_kl"], 0, atol=1e-6)
    assert values["top1_agreement"].all()
    np.testing.assert_array_equal(values["nll"], values["teacher_nll"])


def test_a_draw_is_won_by_the_first_word_on_both_sides() -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    evaluate = TokenEvaluator(forward=forward, lm_head=head, teacher_signal=teacher, mesh=mesh)
    undecided = jax.tree.map(np.zeros_like, models()[0])
    batches = ordered_batches(examples(), length=12, batch_size=2)
    places = evaluate(undecided, batches, teacher_params=undecided)
    assert places.values["top1_agreement"].all()
    np.testing.assert_array_equal(places.values["accuracy"], places.labels == 0)


def test_what_cannot_be_evaluated() -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:2])
    evaluate = TokenEvaluator(forward=forward, lm_head=head, mesh=mesh)
    student = models()[0]
    with pytest.raises(UserError, match="no token to score"):
        evaluate(student, [])
    with pytest.raises(UserError, match=r"batches of 3 .* 2 devices"):
        evaluate(student, ordered_batches(examples(), length=12, batch_size=3))


def test_sizes(tmp_path: Path) -> None:
    assert num_parameters(models()[0]) == 2 * WORDS * WIDTH
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "deep" / "b").write_bytes(b"4567")
    assert size_on_disk(tmp_path) == 7
    assert size_on_disk(tmp_path / "a") == 3
