"""Jensen–Shannon in TRL's β convention: equal to numbers that TRL itself computed."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.objectives import OBJECTIVES, TokenDistribution

GOLDEN = json.loads((Path(__file__).parent / "golden_trl.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: f"{c['beta']}-{c['temperature']}")
def test_jensen_shannon_equals_trl(case: dict) -> None:
    objective = OBJECTIVES["jensen_shannon"](beta=case["beta"], temperature=case["temperature"])
    student, teacher = (jnp.array(GOLDEN[model], jnp.float32) for model in ("student", "teacher"))
    labels = jnp.zeros(len(student), jnp.int32)

    def total(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        values = objective.values(
            TokenDistribution(logits, labels), TokenDistribution(teacher, labels)
        )
        return jnp.sum(values), values

    gradient, values = jax.grad(total, has_aux=True)(student)
    np.testing.assert_allclose(values, case["values"], rtol=1e-5)
    np.testing.assert_allclose(gradient, case["gradient"], rtol=1e-5, atol=1e-6)
