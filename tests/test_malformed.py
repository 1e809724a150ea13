"""Malformed configs, model files, rows and options, drawn by seed: never a traceback or a hang.

Each input is given to the command line, which has to accept it or end in a few printable lines
and exit code 2.
"""

import contextlib
import copy
import io
import json
import random
import shutil
import signal
import struct
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from jaxdistill import hub
from jaxdistill.cli import main
from jaxdistill.config import flatten
from jaxdistill.errors import MAX_LINE_LENGTH, MAX_SHOWN_LINES
from jaxdistill.run import load_config

pytestmark = pytest.mark.slow

NUM_INPUTS = 60
MAX_SECONDS = 30

NESTED: Any = []
for _ in range(200):
    NESTED = [NESTED]
JUNK: list[Any] = [None, True, False, -1, 0, 1, 3, 2**31, 2**63, 10**30, 0.5, -1e300, 1e300]
JUNK += [
    float("inf"),
    float("nan"),
    "",
    "x",
    "0",
    "../../x",
    "/dev/null",
    "\x1b[31m\n",
    "y" * 10**5,
]
JUNK += ["\ud800", "{x}", "{{ x }}", "${x}", [], [[]], [None], [[0]], {}, {"": {}}, {"type": []}]
JUNK += [NESTED, ["a", 1, None], {"type": "x"}, [-1] * 3, "None", "nan", "\0"]

CONFIG = """
output: run
student: {model: model, layers: 1}
teacher: {model: model, type: online}
data: {sources: rows.jsonl, heldout: 0.2, length: 48}
objectives: [{type: forward_kl, weight: 0.9}, {type: cross_entropy, weight: 0.1}]
train: {steps: 6, batch_size: 4, optimizer: {learning_rate: 0.01}}
"""
CHECK = ("check", "config.yaml")
EXPORT = ("export", "--model", "model", "--out", "out")


class _Hang(BaseException):
    """A command that does not end."""


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("malformed")
    tiny.model_folder(folder / "model")
    pretrained = hub.load(folder / "model")
    hub.save(pretrained, folder / "model.gguf", format="gguf", dtype="f16")
    rows = [{"prompt": f"What is {n}? ", "completion": f"It is {n}."} for n in range(20)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(CONFIG)
    return folder


@pytest.fixture
def workspace(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _Hang

    handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def _problem(arguments: tuple[str, ...]) -> str | None:
    """Run a command; describe what is wrong with how it ended."""
    stderr = io.StringIO()
    with (
        warnings.catch_warnings(action="ignore"),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            with _time_limit():
                code = main(arguments)
        except SystemExit as error:  # the parser's
            code = error.code
        except _Hang:
            return f"did not end: {''.join(traceback.format_exc().splitlines(True)[-8:])}"
        except BaseException:  # noqa: BLE001
            return "".join(traceback.format_exc().splitlines(True)[-7:])
    errors = [line for line in stderr.getvalue().split("\n") if line.startswith("error: ")]
    if code not in (0, 2):
        return f"exit code {code}"
    if code == 2 and not stderr.getvalue().strip():
        return "no message"
    if len(errors) > MAX_SHOWN_LINES + 1:
        return f"{len(errors)} lines of errors"
    if bad := [e for e in errors if len(e) > MAX_LINE_LENGTH + 100 or not e.isprintable()]:
        return f"no readable line: {bad[0][:200]!r}"
    return None


def _check_all(run: Callable[[random.Random], tuple[tuple[str, ...], str]]) -> None:
    """Run many inputs, and report all problems with the seed and the input of each."""
    problems = []
    for seed in range(NUM_INPUTS):
        arguments, description = run(random.Random(seed))
        if (problem := _problem(arguments)) is not None:
            problems.append(f"seed {seed}: {description[:200]!r}\n{problem}")
    assert not problems, f"{len(problems)} of {NUM_INPUTS}:\n\n" + "\n\n".join(problems)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container of a JSON value, with a key or index in it."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items)[:40]:
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)


def _mutate(content: Any, draw: random.Random, *, new_keys: tuple[str, ...] = ()) -> str:
    """Replace, remove or add values of a JSON object in place; return what was done."""
    done = []
    for _ in range(draw.randint(1, 2)):
        container, key = draw.choice(list(_places(content)))
        if new_keys and draw.random() < 0.5:
            container, key = content, draw.choice(new_keys)
        if draw.random() < 0.15 and (isinstance(container, list) or key in container):
            del container[key]
            done.append(f"without {key}")
        else:
            container[key] = copy.deepcopy(draw.choice(JUNK))
            done.append(f"{key}={json.dumps(container[key])[:60]}")
        if not content:
            break
    return ", ".join(done)


def _mutate_bytes(content: bytes, draw: random.Random, *, within: int) -> tuple[bytes, str]:
    """Cut a file, or change bytes near its beginning."""
    if draw.random() < 0.2:
        size = draw.randrange(len(content))
        return content[:size], f"cut to {size}"
    changed, places = bytearray(content), []
    for _ in range(draw.choice([1, 1, 2, 8])):
        place = draw.randrange(min(within, len(content)))
        changed[place] = draw.choice([0, 255, 1, changed[place] ^ 1 << draw.randrange(8)])
        places.append(f"{place}={changed[place]}")
    return bytes(changed), " ".join(places)


def _file_inputs(
    path: Path, new_keys: tuple[str, ...], arguments: tuple[str, ...]
) -> Callable[[random.Random], tuple[tuple[str, ...], str]]:
    """Return a function that mutates the JSON of a file and returns the command to run."""
    original = path.read_text() if path.exists() else "{}"

    def run(draw: random.Random) -> tuple[tuple[str, ...], str]:
        content = json.loads(original) or {new_keys[0]: 1}
        done = _mutate(content, draw, new_keys=new_keys)
        path.write_text(json.dumps(content))
        return arguments, done

    return run


def test_config_values(workspace):
    names = list(flatten(load_config(workspace / "config.yaml")))
    names += ["objectives", "objectives.0", "data", "train.optimizer", "teacher", "data.rollout"]
    names += [
        "data.fields.prompt",
        "student.layers.count",
        "mesh.data",
        "base",
        "objectives.9.type",
    ]

    def run(draw: random.Random) -> tuple[tuple[str, ...], str]:
        count = draw.randint(1, 2)
        overrides = [f"{draw.choice(names)}={json.dumps(draw.choice(JUNK))}" for _ in range(count)]
        return (*CHECK, *overrides), " ".join(overrides)

    _check_all(run)


def test_config_files(workspace):
    text = (workspace / "config.yaml").read_text()

    def run(draw: random.Random) -> tuple[tuple[str, ...], str]:
        content, done = _mutate_bytes(text.encode(), draw, within=len(text))
        (workspace / "config.yaml").write_bytes(content)
        return CHECK, done

    _check_all(run)


MODEL_KEYS = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "rope_theta")
MODEL_KEYS += ("num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")
MODEL_KEYS += ("rope_scaling", "rope_parameters", "hidden_act", "rms_norm_eps", "layer_types")
MODEL_KEYS += ("tie_word_embeddings", "eos_token_id", "bos_token_id", "max_position_embeddings")
MODEL_KEYS += ("dtype", "torch_dtype", "architectures", "attention_bias", "quantization_config")


def test_model_config(workspace):
    _check_all(_file_inputs(workspace / "model" / "config.json", MODEL_KEYS, CHECK))


def test_generation_config(workspace):
    path = workspace / "model" / "generation_config.json"
    keys = ("eos_token_id", "bos_token_id", "temperature")
    _check_all(_file_inputs(path, keys, CHECK))


def test_tokenizer_json(workspace):
    path = workspace / "model" / "tokenizer.json"
    keys = ("model", "added_tokens", "pre_tokenizer", "decoder", "post_processor", "normalizer")
    _check_all(_file_inputs(path, keys, CHECK))


def test_tokenizer_config(workspace):
    path = workspace / "model" / "tokenizer_config.json"
    keys = ("tokenizer_class", "eos_token", "bos_token", "pad_token", "chat_template")
    keys += ("model_max_length",)
    keys += ("added_tokens_decoder", "add_bos_token", "extra_special_tokens")
    _check_all(_file_inputs(path, keys, (*CHECK, "data.prompt_template=chat")))


def test_safetensors_header(workspace):
    path = workspace / "model" / "model.safetensors"
    whole = path.read_bytes()
    (size,) = struct.unpack("<Q", whole[:8])
    header, data = json.loads(whole[8 : 8 + size]), whole[8 + size :]

    def run(draw: random.Random) -> tuple[tuple[str, ...], str]:
        if draw.random() < 0.4:
            content, done = _mutate_bytes(whole, draw, within=8 + size)
        else:
            changed = json.loads(json.dumps(header))
            done = _mutate(changed, draw)
            encoded = json.dumps(changed).encode()
            content = struct.pack("<Q", len(encoded)) + encoded + data
        path.write_bytes(content)
        shutil.rmtree(workspace / "out", ignore_errors=True)
        return draw.choice([CHECK, EXPORT]), done

    _check_all(run)


def test_weights_index(workspace):
    path = workspace / "model" / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": {"a": "model.safetensors"}}))
    _check_all(_file_inputs(path, ("weight_map", "metadata"), CHECK))


def test_gguf(workspace):
    path = workspace / "model.gguf"
    whole = path.read_bytes()
    models = ("student.model=model.gguf", "teacher.model=model.gguf")

    def run(draw: random.Random) -> tuple[tuple[str, ...], str]:
        content, done = _mutate_bytes(whole, draw, within=draw.choice([24, 1000, len(whole)]))
        path.write_bytes(content)
        return (*CHECK, *models), done

    _check_all(run)


MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
ROWS = [
    {"prompt": "a", "completion": "b"},
    {"text": "a"},
    {"messages": MESSAGES},
    {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]},
    {"prompt_tokens": [1, 2], "completion_tokens": [3]},
    {"prompt": "a", "completion": "b", "teacher_prompt": "c"},
]


def test_rows(workspace):
    path = workspace / "rows.jsonl"
    lines = path.read_bytes()
    keys = (*sorted({key for row in ROWS for key in row}), "finished", "tools", "weight")

    def run(draw: random.Random) -> tuple[tuple[str, ...], str]:
        row = json.loads(json.dumps(draw.choice(ROWS)))
        done = _mutate(row, draw, new_keys=keys)
        line = json.dumps(row).encode()
        if draw.random() < 0.2:
            line, done = _mutate_bytes(line, draw, within=len(line))
        path.write_bytes(lines + line + b"\n")
        rollout = draw.choice(["dataset", "teacher"])
        return (*CHECK, "--examples", "30", f"data.rollout.type={rollout}"), done

    _check_all(run)


COMMANDS = {
    "generate": ("--model", "--dtype", "--max-new-tokens", "--temperature", "--top-k", "--top-p"),
    "eval": ("--model", "--teacher", "--data", "--length", "--batch-size", "--task", "--dtype"),
    "cost": ("--model", "--runtime", "--prompt-tokens", "--new-tokens", "--batch-size"),
    "export": ("--model", "--out", "--format", "--dtype"),
    "compare": ("--data", "--out", "--prompts", "--price", "--tolerance", "--judgements"),
    "check": ("--examples",),
    "explain": (),
    "fetch": ("--out",),
    "study": (),
    "train": (),
}
VALUES = ["", "x", "-1", "0", "1e400", "nan", "model", "rows.jsonl", "config.yaml", "model.gguf"]
VALUES += ["y" * 9999, "\x1b[31m", "../..", "/dev/null", "model/config.json", "=", "a=b", "\udcff"]
VALUES += ["99999999999999999999", "1e-40", "run", ".", "~nobody/x", "a/b"]


def test_options(workspace):
    def run(draw: random.Random) -> tuple[tuple[str, ...], str]:
        name = draw.choice(list(COMMANDS))
        options = draw.sample(COMMANDS[name], min(len(COMMANDS[name]), draw.randint(0, 3)))
        arguments = [part for option in options for part in (option, draw.choice(VALUES))]
        positional = [draw.choice(VALUES) for _ in range(draw.randint(0, 2))]
        return (name, *positional, *arguments), " ".join((name, *positional, *arguments))

    _check_all(run)
