"""README and docs: every snippet runs, every command parses, every file is in the tree.

Snippets run in a workspace of tiny stand-ins: models, rows and configs have the names that the
pages use, and take seconds. `<!-- test: slow -->` before a snippet leaves it to `--slow`.
"""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny
import yaml

from jaxdistill.cli import main
from jaxdistill.cli.parser import build_parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TREE = (ROOT / "docs" / "architecture.md").read_text()
MODULES = sorted((ROOT / "jaxdistill").rglob("*.py"))

_SNIPPET = re.compile(
    r"^(?:<!-- test: (?P<mark>\w+) -->\n)?```(?P<language>sh|python)\n(?P<code>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)
_SMALL_RUN: dict[str, Any] = {
    "student": {"layers": 1},
    "data": {"length": 64, "rollout": {"max_new_tokens": 4}},
    "train": {"steps": 2, "batch_size": 4, "log_every_steps": 1, "optimizer": {"warmup_steps": 0}},
    "evaluation": {"samples": 1, "max_new_tokens": 4, "speed": False},
}
_TASK = """
task: my_task
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}, cache_dir: {cache}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{completion}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 4, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


class Snippet(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    code: str
    is_slow: bool

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a shell snippet."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def find_snippets() -> list[Snippet]:
    snippets = []
    for page in PAGES:
        text = page.read_text()
        for match in _SNIPPET.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            is_slow = match["mark"] == "slow"
            snippets.append(Snippet(page.name, line, match["language"], match["code"], is_slow))
    return snippets


SNIPPETS = find_snippets()
COMMANDS = [
    (snippet, words)
    for snippet in SNIPPETS
    if snippet.language == "sh"
    for words in snippet.commands
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny models, rows, shrunk configs, and a finished quickstart run."""
    folder = tmp_path_factory.mktemp("docs")
    tiny.model_folder(folder / "models/smollm2-135m-instruct", num_hidden_layers=3)
    other = tiny.sentencepiece()
    tiny.model_folder(folder / "models/gemma3-270m", reads=other, vocab_size=len(other))
    rows = [{"prompt": f"What is {n} and {n}?", "completion": f"It is {2 * n}."} for n in range(30)]
    write_jsonl(folder / "rows.jsonl", rows)
    questions = [{"question": row["prompt"], "answer": row["completion"]} for row in rows[:4]]
    write_jsonl(folder / "questions.jsonl", questions)
    (folder / "tasks").mkdir()
    (folder / "tasks/my_task.yaml").write_text(
        _TASK.format(rows=folder / "rows.jsonl", cache=folder)
    )
    shutil.copytree(ROOT / "configs", folder / "configs")
    write_jsonl(
        folder / "configs/quickstart/prompts.jsonl", [{"prompt": r["prompt"]} for r in rows]
    )
    for name in ("quickstart.yaml", "ten_layers.yaml", "uld/gemma3_smollm2.yaml"):
        shrink(folder / "configs" / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "configs/quickstart.yaml"]) == 0
    return folder


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def shrink(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    for section, values in _SMALL_RUN.items():
        merge(config.setdefault(section, {}), values)
    path.write_text(yaml.safe_dump(config))


def merge(config: dict[str, Any], values: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, dict):
            merge(config.setdefault(name, {}), value)
        else:
            config[name] = value


def snippet_params() -> list[Any]:
    marks = {False: (), True: (pytest.mark.slow,)}
    return [
        pytest.param(snippet, id=f"{snippet.page}:{snippet.line}", marks=marks[snippet.is_slow])
        for snippet in SNIPPETS
    ]


@pytest.mark.parametrize("snippet", snippet_params())
def test_a_snippet_runs(snippet: Snippet, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    if snippet.language == "python":
        exec(compile(snippet.code, f"{snippet.page}:{snippet.line}", "exec"), {})
        return
    for program, *arguments in snippet.commands:
        if program == "jaxdistill":
            run_once(tuple(arguments))
        else:
            run_in_clone(program, tuple(arguments))


@cache
def run_once(arguments: tuple[str, ...]) -> None:
    """Run a command in the workspace; several pages show the same ones."""
    assert main(list(arguments)) == 0, arguments


@cache
def run_in_clone(program: str, arguments: tuple[str, ...]) -> None:
    """Run a script of the repository in a clean clone, with an empty home."""
    assert (ROOT / program).is_file(), f"{program} is no script of the repository"
    if program in {"launch/test.sh", "tests/benchmarks/run.sh"}:
        subprocess.run(["bash", "-n", ROOT / program], check=True)  # they would run this test
        return
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        env = {"PATH": "/usr/bin:/bin", "HOME": folder, "PYTHON": sys.executable}
        subprocess.run([clone / program, *arguments], check=True, env=env, timeout=1200)


@pytest.mark.parametrize(
    ("snippet", "words"),
    COMMANDS,
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_parses_and_its_configs_exist(snippet: Snippet, words: list[str]) -> None:
    program, *arguments = words
    configs = [word for word in arguments if word.startswith("configs/")]
    assert all((ROOT / name).is_file() for name in configs)
    if program == "jaxdistill":
        build_parser().parse_args(arguments)


def test_every_command_is_shown() -> None:
    shown = {words[1] for _, words in COMMANDS if words[0] == "jaxdistill"}
    choices = build_parser()._subparsers._group_actions[0].choices  # pyright: ignore
    assert shown == set(choices)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_tree_has_every_file_with_its_first_line(module: Path) -> None:
    docstring = ast.get_docstring(ast.parse(module.read_text()))
    assert docstring, "a file begins with what it holds"
    is_package = module.name == "__init__.py"
    if is_package and module.parent.name == "jaxdistill":
        return
    name = f"{module.parent.name}/" if is_package else module.name
    line = docstring.splitlines()[0].rstrip(".")
    assert re.search(rf"^ +{re.escape(name)} +{re.escape(line)}$", TREE, flags=re.MULTILINE)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
