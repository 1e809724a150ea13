"""The wheel holds the package and nothing else, and works without a checkout."""

import os
import subprocess
import sys
import sysconfig
import time
import zipfile
from pathlib import Path

import pytest

import jaxdistill

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxdistill"

IMPORT_ALL = """
import importlib, pkgutil, sys
import jaxdistill

for module in pkgutil.walk_packages(jaxdistill.__path__, "jaxdistill."):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
files = {module.__file__ for name, module in sys.modules.items() if name.startswith("jaxdistill")}
print("\\n".join(sorted(files)))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with the test environment's build backend: nothing is downloaded."""
    out = tmp_path_factory.mktemp("wheel")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, ROOT)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in an environment without its dependencies."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    _pip("--python", venv / "bin" / "python", "install", "--no-deps", wheel)
    return venv


def _pip(*arguments: str | Path) -> None:
    offline = ("--quiet", "--disable-pip-version-check", "--no-input")
    command = [sys.executable, "-m", "pip", *offline, *map(str, arguments)]
    subprocess.run(command, check=True, env={**os.environ, "PIP_NO_INDEX": "1"}, cwd=ROOT.anchor)


def _run(venv: Path, *command: str) -> str:
    """Run a command of an environment outside the checkout, and return its output."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    program, *rest = command
    done = subprocess.run(
        [venv / "bin" / program, *rest],
        cwd=venv,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        metadata = [name for name in file.namelist() if name.endswith("/licenses/LICENSE")]
    files = {path for path in PACKAGE.rglob("*") if path.is_file()}
    expected = {str(p.relative_to(ROOT)) for p in files if p.parent.name != "__pycache__"}
    assert names == expected
    assert {"jaxdistill/report/page.css", "jaxdistill/report/page.html"} <= names
    assert len(metadata) == 1


def test_help_and_version_need_no_dependency_and_are_fast(installed: Path):
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        output = _run(installed, "jaxdistill", "--help")
        seconds.append(time.perf_counter() - start)
    assert "usage: jaxdistill" in output
    assert min(seconds) < 0.4, seconds
    assert _run(installed, "jaxdistill", "--version") == f"{jaxdistill.__version__}\n"
    assert _run(installed, "python", "-m", "jaxdistill", "eval", "--help").startswith("usage:")


def test_every_module_can_be_imported_from_the_wheel(installed: Path):
    purelib = sysconfig.get_path("purelib", vars={"base": str(installed)})
    # A path in a .pth file adds this environment's packages, but not its own .pth files, by which
    # the checkout is installed.
    (Path(purelib) / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    files = _run(installed, "python", "-c", IMPORT_ALL).splitlines()
    assert len(files) == sum(path.name != "__main__.py" for path in PACKAGE.rglob("*.py"))
    assert all(Path(file).is_relative_to(purelib) for file in files)
