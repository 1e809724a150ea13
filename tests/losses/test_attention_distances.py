"""Distances of attention: dense formulas, and windows that the student does not see."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.losses import attention_distances


def test_distances_equal_their_formulas():
    p, q = np.random.default_rng(0).dirichlet(np.ones(5), size=(2, 3)).astype("float32")
    value = attention_distances.kl(jnp.asarray(p), jnp.asarray(q))
    np.testing.assert_allclose(value, (p * np.log(p / q)).sum(-1), rtol=1e-5)
    value = attention_distances.squared_difference(jnp.asarray(p), jnp.asarray(q))
    np.testing.assert_allclose(value, np.square(p - q).sum(-1), rtol=1e-5)


def test_keys_outside_of_the_students_window_do_not_count():
    teacher, student = jnp.array([[0.5, 0.3, 0.2]]), jnp.array([[0.0, 0.6, 0.4]])
    value, gradient = jax.value_and_grad(lambda q: attention_distances.kl(teacher, q).sum())(
        student
    )
    np.testing.assert_allclose(value, 0, atol=1e-6)
    assert np.isfinite(gradient).all()
    unseen = attention_distances.kl(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]]))
    assert np.isfinite(unseen).all()
