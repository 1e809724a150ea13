"""Hidden-state alignment: layer maps, bridges of every kind, searched layers, and zero vectors."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.errors import UserError
from jaxdistill.losses import hidden_distances
from jaxdistill.objectives import OBJECTIVES, CombinedLoss, init_modules
from jaxdistill.objectives.calibration import CalibrationData, search_pairs
from jaxdistill.objectives.layer_map import EveryLayer
from jaxdistill.run.calibration import Calibration
from jaxdistill.taps import TapValues, Widths
from jaxdistill.types import Batch, HiddenSignal, LMHead

HIDDEN = OBJECTIVES["hidden"]
SHAPE = 2, 6
IS_COMPLETION = np.tile(np.arange(6) >= 3, (2, 1))


def widths(hidden=8, layers=4):
    return Widths(hidden=hidden, layers=layers, query=hidden, key_value=hidden)


def signal(layers):
    layers = {layer: jnp.asarray(x) for layer, x in layers.items()}
    last = layers[max(layers)]
    return HiddenSignal(last, LMHead(jnp.ones((5, last.shape[-1]))), taps=TapValues(layers))


def random_layers(width, count, seed):
    random = np.random.default_rng(seed)
    return {n: random.normal(size=(*SHAPE, width)).astype("float32") for n in range(count + 1)}


BATCH = Batch(
    tokens=np.ones(SHAPE, np.int32),
    labels=np.ones(SHAPE, np.int32),
    loss_mask=IS_COMPLETION.astype(np.float32),
    positions=np.tile(np.arange(6), (2, 1)),
    segment_ids=np.where(np.arange(6) < 5, 1, 0) * np.ones(SHAPE, np.int32),
    example_ids=np.zeros(SHAPE, np.int32),
)


def mean(objective, student, teacher, *, frozen=None, modules=None, batch=BATCH):
    loss, one = CombinedLoss([objective]), jnp.float32(1)
    denominators = loss.denominators(batch)
    value, _ = loss(
        {"hidden": modules or {}},
        signal(student),
        signal(teacher),
        batch,
        frozen={"hidden": frozen or {}},
        weights={"hidden": one},
        denominators=denominators,
    )
    return value


@pytest.mark.parametrize("distance", ["cosine", "mse", "normalized_mse"])
def test_equal_hidden_states_have_no_distance_and_cosine_ignores_their_size(distance):
    layers = random_layers(8, 4, 0)
    for bridge in ("none", "learned"):  # of equal widths, it begins as the identity
        objective = HIDDEN(distance=distance, bridge=bridge).bind(widths(), widths())
        modules = init_modules([objective], 0, widths(), widths()).get("hidden")
        np.testing.assert_allclose(mean(objective, layers, layers, modules=modules), 0, atol=1e-6)
    doubled = {layer: 2 * x for layer, x in layers.items()}
    assert (mean(objective, doubled, layers, modules=modules) < 1e-6) == (distance == "cosine")


@pytest.mark.parametrize(
    ("layers", "count", "sizes", "expected"),
    [
        ("uniform", 4, (10, 30), ((2, 6), (5, 15), (8, 24), (10, 30))),
        ("uniform", 4, (3, 7), ((1, 2), (2, 5), (3, 7))),
        ("last", 2, (10, 30), ((9, 29), (10, 30))),
        ("last", 4, (2, 30), ((1, 29), (2, 30))),
        ("first_last", 4, (10, 30), ((1, 1), (10, 30))),
        ("first_last", 4, (1, 30), ((1, 30),)),
        (EveryLayer(every=4), 1, (10, 30), ((4, 12), (8, 24))),
        (((0, 0), (10, 29)), 1, (10, 30), ((0, 0), (10, 29))),
    ],
)
def test_layer_maps(layers, count, sizes, expected):
    objective = HIDDEN(layers=layers, num_layers=count)
    bound = objective.bind(*(widths(layers=size) for size in sizes))
    assert bound.pairs == expected
    assert bound.bind(*(widths(layers=size) for size in sizes)) == bound


def calibration_data():
    """Layers 2, 3 and 5 of the teacher, in another basis, are those of the student, with noise."""
    random = np.random.default_rng(0)
    teacher = {n: random.normal(size=(400, 12)).astype("float32") for n in range(1, 7)}
    maps = {1: 2, 2: 3, 3: 5}
    student = {
        own: teacher[other] @ random.normal(size=(12, 8)).astype("float32")
        + 0.1 * random.normal(size=(400, 8)).astype("float32")
        for own, other in maps.items()
    }
    relevance = {n: np.arange(12.0) * (-1) ** np.arange(12) for n in teacher}
    return CalibrationData(student, teacher, relevance), tuple(maps.items())


def test_constant_dimensions_do_not_count_in_a_search():
    data, expected = calibration_data()
    for features in (data.student[1], data.teacher[2]):
        features[:200, 3] = 1.0  # constant where maps are fitted, and not where they are scored
    result = search_pairs(data)
    assert np.isfinite(result.scores).all()
    assert result.pairs == expected


def test_layers_that_nothing_predicts_are_named():
    data, _ = calibration_data()
    data.student[1][:] = np.random.default_rng(1).normal(size=data.student[1].shape)
    (note,) = Calibration((), scores={"hidden": search_pairs(data)}).notes
    assert "layer(s) 1 of the student" in note


def test_the_search_finds_the_layers_that_a_linear_map_predicts():
    data, expected = calibration_data()
    result = search_pairs(data)
    assert result.pairs == expected
    scores = np.array(result.scores)
    is_pair = np.array([[(s, t) in expected for t in range(1, 7)] for s in (1, 2, 3)])
    assert scores[is_pair].min() > 0.9
    assert scores[~is_pair].max() < 0.2  # on positions that were not fitted
    objective = HIDDEN(layers="searched", num_layers=3, bridge="pca", rank=4)
    sizes = widths(layers=3), widths(12, layers=6)
    request = objective.calibration_request(*sizes)
    assert request.teacher.hidden == tuple(range(1, 7))
    assert objective.calibrate(data, *sizes).objective.pairs == expected


@pytest.mark.parametrize("bridge", ["pca", "selected"])
def test_frozen_bridges_equal_a_dense_formula_and_get_no_gradient(bridge):
    data, pairs = calibration_data()
    sizes = widths(layers=3), widths(12, layers=6)
    objective = HIDDEN(layers=pairs, bridge=bridge, rank=4, distance="mse")
    calibrated = objective.calibrate(data, *sizes)
    assert calibrated.objective == objective
    student, teacher = random_layers(8, 3, 1), random_layers(12, 6, 2)
    expected = []
    for own, other in pairs:
        a, b = (x.astype(np.float64) for x in (student[own], teacher[other]))
        if bridge == "selected":  # the eight largest of 0, -1, 2, -3, ...
            b = b[..., [0, 1, 2, 3, 4, 6, 8, 10]]
        else:
            features = data.teacher[other].astype(np.float64)
            centred = features - features.mean(0)
            basis = np.linalg.svd(centred, full_matrices=False)[2][:4].T
            inputs = data.student[own].astype(np.float64)
            mean_input, inputs = inputs.mean(0), inputs - inputs.mean(0)
            ridge = 1e-3 * np.trace(inputs.T @ inputs) / 8 * np.eye(8)
            kernel = np.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ centred @ basis)
            a = (a - mean_input) @ kernel
            b = (b - features.mean(0)) @ basis
        expected.append(np.square(a - b).mean(-1)[IS_COMPLETION].mean())
    frozen = jax.tree.map(jnp.asarray, calibrated.frozen)
    value = functools.partial(mean, objective, student, teacher)
    np.testing.assert_allclose(value(frozen=frozen), np.mean(expected), rtol=1e-4)
    if bridge == "pca":  # the other has integers alone
        gradients = jax.tree.leaves(jax.grad(lambda f: value(frozen=f))(frozen))
        assert gradients
        assert not any(map(np.any, gradients))


def test_a_spoilt_position_changes_no_gradient_of_a_bridge():
    student, teacher = random_layers(8, 4, 1), random_layers(12, 4, 2)
    sizes = widths(), widths(12)
    objective = HIDDEN().bind(*sizes)
    modules = init_modules([objective], 0, *sizes)["hidden"]

    def gradient(layers):
        return jax.grad(lambda m: mean(objective, layers, teacher, modules=m))(modules)

    is_kept = IS_COMPLETION[..., None]
    spoilt = {n: np.where(is_kept, x, np.float32(np.nan)) for n, x in student.items()}
    jax.tree.map(np.testing.assert_array_equal, gradient(spoilt), gradient(student))


def test_positions_choose_what_is_compared():
    student, teacher = random_layers(8, 4, 1), random_layers(8, 4, 2)
    distance = 1 - (student[4] * teacher[4]).sum(-1) / (
        np.linalg.norm(student[4], axis=-1) * np.linalg.norm(teacher[4], axis=-1)
    )
    chosen = {
        "completion": IS_COMPLETION,
        "all": np.tile(np.arange(6) < 5, (2, 1)),
        "last": np.tile(np.arange(6) == 4, (2, 1)),
    }
    batch = replace(BATCH, loss_mask=BATCH.loss_mask * (np.arange(6) < 5))
    for positions, mask in chosen.items():
        objective = HIDDEN(layers=((4, 4),), bridge="none", positions=positions)
        value = mean(objective, student, teacher, batch=batch)
        expected = distance[mask & (np.arange(6) < 5)].mean()
        np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["cosine_distance", "mean_squared_difference", "normalized_squared_difference"]
)
def test_zero_vectors_have_finite_distances_and_gradients(name):
    function, zero, one = getattr(hidden_distances, name), jnp.zeros((1, 3)), jnp.ones((1, 3))
    for a, b in ((zero, zero), (zero, one), (one, zero)):
        value, gradient = jax.value_and_grad(lambda x, y: function(x, y).sum(), (0, 1))(a, b)
        assert np.isfinite(value)
        assert all(np.isfinite(g).all() for g in gradient)


def test_a_wider_student_cannot_select_dimensions():
    with pytest.raises(UserError, match="bridge=selected: the student is 12 wide"):
        HIDDEN(bridge="selected").bind(widths(12), widths(8))
