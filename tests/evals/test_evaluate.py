"""Evaluation against dense NumPy, on packed rows with padding, on one device and on four."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.data.examples import Example
from jaxdistill.data.pipeline import ordered_batches
from jaxdistill.errors import UserError
from jaxdistill.evals import Evaluation, num_parameters, size_on_disk, tokens_per_second
from jaxdistill.models import DecoderConfig, LayerKind, Rope, init_params
from jaxdistill.sharding import MeshConfig, make_mesh
from jaxdistill.types import Batch, Head, Output, Signal

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


def forward(params, batch: Batch) -> Output:
    hidden = params["embedding"][batch.tokens]
    return Output(hidden + 0.1 * batch.positions[..., None])


def head(params) -> Head:
    return Head(jnp.asarray(params["head"]), vocab_size=REAL)


def teacher(params, batch: Batch) -> Signal:
    return Signal(forward(params, batch).hidden, head(params))


def dense(rows: list[Example]) -> dict[str, float]:
    """The same numbers row by row in float64, nothing packed or padded."""
    student, other = models()
    nll = teacher_nll = kl = agreement = count = 0.0
    for row in rows:
        places = np.arange(len(row.tokens) - 1)[:, None]
        log_probs = []
        for params in (other, student):
            hidden = params["embedding"][row.tokens[:-1]].astype(np.float64) + 0.1 * places
            logits = hidden @ params["head"][:REAL].T
            log_probs.append(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
        log_p, log_q = log_probs
        mask, labels = row.loss_mask[1:], row.tokens[1:]
        at = np.arange(len(labels))
        nll -= (log_q[at, labels] * mask).sum()
        teacher_nll -= (log_p[at, labels] * mask).sum()
        kl += ((np.exp(log_p) * (log_p - log_q)).sum(-1) * mask).sum()
        agreement += ((log_p.argmax(-1) == log_q.argmax(-1)) * mask).sum()
        count += mask.sum()
    num_bytes = sum(row.num_bytes for row in rows)
    return {
        "nll": nll / count,
        "perplexity": math.exp(nll / count),
        "bits_per_byte": nll / math.log(2) / num_bytes,
        "forward_kl": kl / count,
        "top1_agreement": agreement / count,
        "teacher_nll": teacher_nll / count,
        "teacher_perplexity": math.exp(teacher_nll / count),
        "teacher_bits_per_byte": teacher_nll / math.log(2) / num_bytes,
        "scored_tokens": count,
    }


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("devices", [1, 4])
def test_it_equals_dense_numpy(pack: bool, devices: int) -> None:
    rows = examples()
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    evaluate = Evaluation(forward=forward, head=head, teacher=teacher, mesh=mesh, chunk_rows=3)
    student, other = models()
    values = evaluate(
        student,
        ordered_batches(rows, length=12, batch_size=4, pack=pack),
        num_bytes=sum(row.num_bytes for row in rows),
        teacher_params=other,
    )
    expected = dense(rows)
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, rel=1e-5), name


def test_without_a_teacher_only_likelihood() -> None:
    rows = examples()
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    evaluate = Evaluation(forward=forward, head=head, mesh=mesh)
    batches = ordered_batches(rows, length=12, batch_size=2)
    num_bytes = sum(row.num_bytes for row in rows)
    values = evaluate(models()[0], batches, num_bytes=num_bytes)
    assert values.keys() == {"nll", "perplexity", "bits_per_byte", "scored_tokens"}
    assert values["nll"] == pytest.approx(dense(rows)["nll"], rel=1e-5)


def test_a_student_that_is_its_teacher_agrees_with_it() -> None:
    rows = examples()
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    evaluate = Evaluation(forward=forward, head=head, teacher=teacher, mesh=mesh)
    student = models()[0]
    values = evaluate(
        student,
        ordered_batches(rows, length=12, batch_size=2),
        num_bytes=1,
        teacher_params=student,
    )
    assert values["forward_kl"] == pytest.approx(0, abs=1e-6)
    assert values["top1_agreement"] == 1
    assert values["nll"] == values["teacher_nll"]


def test_what_cannot_be_evaluated() -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:2])
    evaluate = Evaluation(forward=forward, head=head, mesh=mesh)
    student = models()[0]
    with pytest.raises(UserError, match="no token to score"):
        evaluate(student, [], num_bytes=1)
    with pytest.raises(UserError, match=r"batches of 3 .* 2 devices"):
        evaluate(student, ordered_batches(examples(), length=12, batch_size=3), num_bytes=1)


def test_a_hopeless_model_has_infinite_perplexity() -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    evaluate = Evaluation(forward=forward, head=head, mesh=mesh)
    student = jax.tree.map(lambda leaf: leaf * 1000, models()[0])
    batches = ordered_batches(examples(), length=12, batch_size=2)
    values = evaluate(student, batches, num_bytes=1)
    assert values["perplexity"] == math.inf


def test_sizes(tmp_path: Path) -> None:
    assert num_parameters(models()[0]) == 2 * WORDS * WIDTH
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "deep" / "b").write_bytes(b"4567")
    assert size_on_disk(tmp_path) == 7
    assert size_on_disk(tmp_path / "a") == 3


def test_speed_is_a_positive_number() -> None:
    config = DecoderConfig(
        vocab_size=17,
        embed_dim=8,
        mlp_dim=8,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        layers=(LayerKind(rope=Rope(base=100.0)),),
        max_positions=64,
        query_scale=0.5,
    )
    params = init_params(config, jax.random.key(0))
    assert tokens_per_second(config, params, [[1, 2, 3]], max_new_tokens=4, repeats=1) > 0
