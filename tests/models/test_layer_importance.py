"""Importance of layers, against hidden states that PyTorch models read and write."""

import jax
import numpy as np
import pytest
import torch
from tiny_models import Case, make_case

from jaxdistill.losses.hidden_distances import cosine_distance
from jaxdistill.models.decoder_model import DecoderModel
from jaxdistill.types import Batch

FAMILIES = ["gemma3", "gpt2-inverse-layers", "gpt_neo"]


def batch_of(tokens: np.ndarray, loss_mask: np.ndarray, segment_ids: np.ndarray) -> Batch:
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    return Batch(
        tokens=tokens,
        labels=tokens,
        loss_mask=loss_mask.astype(np.float32),
        positions=positions,
        segment_ids=segment_ids,
        example_ids=segment_ids,
    )


def importance(case: Case, *batches: Batch, params=None) -> np.ndarray:
    model = DecoderModel(case.config)
    parts = [model.importance_sums(params or case.params, batch) for batch in batches]
    distances, weight = (np.sum(column, axis=0) for column in zip(*parts, strict=True))
    return distances / weight


def dense_distances(case: Case, tokens: np.ndarray) -> np.ndarray:
    """1 - cos(input, output) of every layer and position, from hooks on the PyTorch model."""
    body = case.original.base_model
    layers, distances = getattr(body, "layers", None) or body.h, []

    def compare(_module, arguments, output):
        after = output[0] if isinstance(output, tuple) else output
        x, y = arguments[0].double().numpy(), after.double().numpy()
        norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
        distances.append(1 - (x * y).sum(axis=-1) / norms)

    hooks = [layer.register_forward_hook(compare) for layer in layers]
    with torch.no_grad():
        case.original(torch.tensor(tokens))
    for hook in hooks:
        hook.remove()
    return np.stack(distances)


@pytest.mark.parametrize("name", FAMILIES)
def test_importance_equals_a_dense_computation(name: str, tokens: np.ndarray) -> None:
    case = make_case(name)
    loss_mask = np.random.default_rng(1).integers(0, 2, tokens.shape)
    distances = dense_distances(case, tokens)
    expected = (distances * loss_mask).sum(axis=(1, 2)) / loss_mask.sum()
    computed = importance(case, batch_of(tokens, loss_mask, np.ones_like(tokens)))
    np.testing.assert_allclose(computed, expected, rtol=1e-4)


def test_importance_ignores_other_rows_and_padding(tokens: np.ndarray) -> None:
    case = make_case("gemma3")
    segment_ids = (np.arange(tokens.shape[1]) < 19).astype(int) * np.ones_like(tokens)
    loss_mask = np.random.default_rng(1).integers(0, 2, tokens.shape) * segment_ids
    together = importance(case, batch_of(tokens, loss_mask, segment_ids))
    alone = []
    for row in range(2):
        is_row = segment_ids * (np.arange(2) == row)[:, None]
        others = np.where(is_row == 1, tokens, 7)
        alone.append(batch_of(others, loss_mask * is_row, is_row))
    np.testing.assert_allclose(importance(case, *alone), together, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_layer_that_adds_nothing_has_no_importance(name: str, tokens: np.ndarray) -> None:
    case = make_case(name)
    layers = {part: dict(leaves) for part, leaves in case.params["layers"].items()}
    for part, leaf in (("attention", "output"), ("mlp", "down")):
        for key in (leaf, f"{leaf}_bias"):
            if key in layers[part]:
                layers[part][key] = np.array(layers[part][key])
                layers[part][key][2] = 0
    batch = batch_of(tokens, np.ones_like(tokens), np.ones_like(tokens))
    computed = importance(case, batch, params={**case.params, "layers": layers})
    assert abs(computed[2]) < 1e-6
    assert (np.delete(computed, 2) > 1e-3).all()


def test_the_distance_of_vectors(key: jax.Array) -> None:
    x = jax.random.normal(key, (1, 3, 8))
    for y, expected in ((2 * x, 0), (-x, 2), (0 * x, 1)):
        np.testing.assert_allclose(cosine_distance(x, y), expected, atol=1e-6)
