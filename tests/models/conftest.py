"""Fixtures: a tiny random model of every family, and tokens."""

import numpy as np
import pytest
from tiny_models import TIME, VARIANTS, Case, make_case


@pytest.fixture(params=VARIANTS)
def case(request: pytest.FixtureRequest) -> Case:
    return make_case(request.param)


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 61, (2, TIME))
