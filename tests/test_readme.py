"""What the README says is so: every file is in its tree, every command can be parsed."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from jaxdistill.cli.parser import build_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MODULES = sorted((ROOT / "jaxdistill").rglob("*.py"))
COMMANDS = re.findall(r"^jaxdistill \w.*$", README, flags=re.MULTILINE)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_tree_says_what_each_file_says_of_itself(module: Path):
    said = ast.get_docstring(ast.parse(module.read_text()))
    assert said, "a file begins with what it holds"
    package = module.name == "__init__.py"
    if package and module.parent.name == "jaxdistill":
        return
    name = f"{module.parent.name}/" if package else module.name
    line = said.splitlines()[0].rstrip(".")
    assert re.search(rf"^ +{re.escape(name)} +{re.escape(line)}$", README, flags=re.MULTILINE)


def test_there_are_commands():
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_parses(command: str):
    words = shlex.split(command, comments=True)
    if words[1] != "fetch":
        named = [word for word in words if word.endswith(".yaml")]
        assert all((ROOT / name).is_file() for name in named)
    build_parser().parse_args(words[1:])
