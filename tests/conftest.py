"""Settings of all tests: four fake CPU devices, strict rank promotion, a cache of programs."""

import hashlib
import os
import platform
import signal
from pathlib import Path


def _program_cache() -> Path:
    """Folder of compiled programs, one for each set of CPU features: others cannot run them.

    Not by `jaxdistill.files.cache_folder`: what is imported here escapes jaxtyping's checks.
    """
    cpu_info = Path("/proc/cpuinfo")
    text = cpu_info.read_text() if cpu_info.exists() else platform.processor()
    features = next((line for line in text.splitlines() if line.startswith("flags")), text)
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "jaxdistill" / f"tests-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


# Before JAX is imported, and for the processes that tests start. JAX's own limits would leave out
# all programs of the tests: they are small.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_program_cache()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# The compiler of TPUs is installed, and would look for one in every process.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")

# `nohup` and `&` start processes that ignore some signals; the tests need their handlers.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

_MAX_MAPS = 20_000
_HELP = "also run the tests marked slow"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help=_HELP)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


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
