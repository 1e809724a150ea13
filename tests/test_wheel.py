"""The wheel: all of the package and nothing else, and it works where there is no checkout."""

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
places = {module.__file__ for name, module in sys.modules.items() if name.startswith("jaxdistill")}
print("\\n".join(sorted(places)))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built here, with the build backend of the test environment: nothing is fetched."""
    out = tmp_path_factory.mktemp("wheel")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, ROOT)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has the wheel, and none of what it depends on."""
    place = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    _pip("--python", place / "bin" / "python", "install", "--no-deps", wheel)
    return place


def _pip(*arguments: str | Path) -> None:
    offline = ("--quiet", "--disable-pip-version-check", "--no-input")
    command = [sys.executable, "-m", "pip", *offline, *map(str, arguments)]
    subprocess.run(command, check=True, env={**os.environ, "PIP_NO_INDEX": "1"}, cwd=ROOT.anchor)


def _run(place: Path, *command: str) -> str:
    """What a command prints that runs far from the checkout."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    program, *rest = command
    done = subprocess.run(
        [place / "bin" / program, *rest],
        cwd=place,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def test_the_package_is_in_it_and_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        metadata = [name for name in file.namelist() if name.endswith("/licenses/LICENSE")]
    there = {path for path in PACKAGE.rglob("*") if path.is_file()}
    expected = {str(p.relative_to(ROOT)) for p in there if p.parent.name != "__pycache__"}
    assert names == expected
    assert {"jaxdistill/report/page.css", "jaxdistill/report/page.html"} <= names
    assert len(metadata) == 1


def test_help_and_version_need_no_other_package_and_no_time(installed: Path):
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        said = _run(installed, "jaxdistill", "--help")
        seconds.append(time.perf_counter() - start)
    assert "usage: jaxdistill" in said
    assert min(seconds) < 0.4, seconds
    assert _run(installed, "jaxdistill", "--version") == f"{jaxdistill.__version__}\n"
    assert _run(installed, "python", "-m", "jaxdistill", "eval", "--help").startswith("usage:")


def test_every_module_comes_from_it(installed: Path):
    purelib = sysconfig.get_path("purelib", vars={"base": str(installed)})
    # A path in a .pth file brings this environment's packages, but not its own .pth files: the
    # checkout, which is installed by one, stays away.
    (Path(purelib) / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    places = _run(installed, "python", "-c", IMPORT_ALL).splitlines()
    assert len(places) == sum(path.name != "__main__.py" for path in PACKAGE.rglob("*.py"))
    assert all(Path(place).is_relative_to(purelib) for place in places)
