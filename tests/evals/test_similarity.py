"""Linear CKA: that of its formula over examples; 1 for rotated and scaled features."""

import numpy as np

from jaxdistill.evals import linear_cka


def test_linear_cka_equals_its_formula_over_examples():
    random = np.random.default_rng(0)
    first = {1: random.normal(size=(300, 5)), 2: random.normal(size=(300, 7))}
    rotation = np.linalg.qr(random.normal(size=(5, 5)))[0]
    second = {3: 4 * first[1] @ rotation + 2, 5: random.normal(size=(300, 6)), 9: first[2] ** 2}
    values = linear_cka(first, second)
    assert values.shape == (2, 3)
    np.testing.assert_allclose(values[0, 0], 1, rtol=1e-6)
    assert values[1, 1] < 0.1
    centring = np.eye(300) - 1 / 300
    for i, x in enumerate(first.values()):
        for j, y in enumerate(second.values()):
            k, m = (centring @ z @ z.T @ centring for z in (x, y))
            expected = (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())
            np.testing.assert_allclose(values[i, j], expected, rtol=1e-6)


def test_constant_features_have_no_similarity():
    features = {1: np.ones((4, 2)), 2: np.eye(4)[:, :2]}
    values = linear_cka(features, features)
    assert np.isfinite(values).all()
    assert values[0].tolist() == [0, 0]
