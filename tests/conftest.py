"""Every test runs on four fake CPU devices, with strict shapes and warnings as errors."""

import os
import signal
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Whatever started the tests: `nohup` and `&` have some of them ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

_MOST_MAPS = 20_000
_NUMERICS = {"losses", "objectives"}
_HELP = "also run the tests marked slow, and compile all programs as users' are"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help=_HELP)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


_is_hasty = False
"""How this process compiles."""


@pytest.fixture(autouse=True, scope="module")
def _haste(request: pytest.FixtureRequest):
    """Compiles without costly optimizations where what is computed is tested elsewhere.

    Most of a fast test is compiling. Losses and objectives, all processes that tests start, and
    everything with `--slow`, are compiled as users' programs are.
    """
    global _is_hasty
    is_numeric = request.path.parent.name in _NUMERICS
    is_hasty = not is_numeric and not request.config.getoption("--slow")
    if is_hasty != _is_hasty:
        jax.config.update("jax_disable_most_optimizations", is_hasty)
        jax.clear_caches()  # they do not tell programs apart by it
        _is_hasty = is_hasty


@pytest.fixture(autouse=True, scope="module")
def _few_programs():
    """XLA:CPU maps each compiled program into memory, and dies where a process has 65,530 maps."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > _MOST_MAPS:
        jax.clear_caches()


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
