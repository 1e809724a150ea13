"""Jensen–Shannon in TRL's β convention: equal to numbers that TRL itself computed."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.objectives import OBJECTIVES, TokenDistribution

GOLDEN = json.loads((Path(__file__).parent / "golden_trl.json").read_text())


CASES = GOLDEN["cases"]


@jax.jit
def values_and_gradients(student: jax.Array, teacher: jax.Array) -> list[tuple]:
    """Compute the divergence of each case, and its gradient, in one program."""
    labels = jnp.zeros(len(student), jnp.int32)

    def total(logits: jax.Array, case: dict) -> tuple[jax.Array, jax.Array]:
        objective = OBJECTIVES["jensen_shannon"](beta=case["beta"], temperature=case["temperature"])
        values = objective.values(
            TokenDistribution(logits, labels), TokenDistribution(teacher, labels)
        )
        return jnp.sum(values), values

    return [jax.grad(total, has_aux=True)(student, case)[::-1] for case in CASES]


@pytest.mark.parametrize("index", range(len(CASES)))
def test_jensen_shannon_equals_trl(index: int) -> None:
    logits = (np.float32(GOLDEN[model]) for model in ("student", "teacher"))
    values, gradient = values_and_gradients(*logits)[index]
    np.testing.assert_allclose(values, CASES[index]["values"], rtol=1e-5)
    np.testing.assert_allclose(gradient, CASES[index]["gradient"], rtol=1e-5, atol=1e-6)
