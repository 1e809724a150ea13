"""Settings of all tests: four fake CPU devices, strict rank promotion, cheap compilation."""

import os
import signal
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")

# `nohup` and `&` start processes that ignore some signals; the tests need their handlers.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

_MAX_MAPS = 20_000
_NUMERIC_FOLDERS = {"losses", "objectives"}
_HELP = "also run the tests marked slow, and compile all programs as for users"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help=_HELP)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


_is_unoptimized = False
"""Whether this process compiles without most optimizations."""


@pytest.fixture(autouse=True, scope="module")
def _cheap_compilation(request: pytest.FixtureRequest):
    """Compile without costly optimizations where the numerics are tested elsewhere.

    Most of a fast test's time is compilation. Tests of losses and objectives, processes that tests
    start, and all tests under `--slow` compile as users' programs do.
    """
    global _is_unoptimized
    is_numeric = request.path.parent.name in _NUMERIC_FOLDERS
    is_unoptimized = not is_numeric and not request.config.getoption("--slow")
    if is_unoptimized != _is_unoptimized:
        jax.config.update("jax_disable_most_optimizations", is_unoptimized)
        jax.clear_caches()  # their keys do not contain this setting
        _is_unoptimized = is_unoptimized


@pytest.fixture(autouse=True, scope="module")
def _limited_memory_maps():
    """Clear compiled programs in time: XLA:CPU maps each, and a process has at most 65,530 maps."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > _MAX_MAPS:
        jax.clear_caches()


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
