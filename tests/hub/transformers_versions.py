"""Other versions of `transformers` as references: installed in a folder, run in a process."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# PyTorch is that of the tests: it is no dependency of `transformers`.
INSTALL = f"{sys.executable} -m pip install --quiet --disable-pip-version-check --target"

_SCRIPT = """
import json, sys
import torch
import transformers

def read(request):
    folder = request["folder"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    chat = tokenizer.apply_chat_template(
        request["messages"], tokenize=False, add_generation_prompt=True
    )
    with torch.no_grad():
        logits = model(torch.tensor([request["tokens"]])).logits[0]
    return {
        "ids": [tokenizer(text).input_ids for text in request["texts"]],
        "inputs": sorted(tokenizer("a")),
        "special": sorted(tokenizer.all_special_tokens),
        "chat": chat,
        "dtype": str(model.dtype),
        "logits": logits.float().tolist(),
    }

requests = json.load(sys.stdin)
results = {name: read(request) for name, request in requests.items()}
json.dump({"version": transformers.__version__, "results": results}, sys.stdout)
"""


@dataclass(frozen=True)
class Reading:
    """What a version of `transformers` makes of an exported folder.

    Attributes:
        ids: Token ids of each text.
        inputs: Names of what the tokenizer gives the model.
        special: All special tokens.
        chat: The messages in the chat template.
        dtype: Dtype of the model.
        logits: Logits after each token.
    """

    ids: list[list[int]]
    inputs: list[str]
    special: list[str]
    chat: str
    dtype: str
    logits: np.ndarray


def install_transformers(version: str, folder: Path) -> bool:
    """Install a version into a folder; False where it cannot be downloaded."""
    command = [*INSTALL.split(), str(folder), f"transformers=={version}"]
    return subprocess.run(command, capture_output=True).returncode == 0


def read_folders(
    packages: Path | None,
    folders: Mapping[str, Path],
    *,
    texts: Sequence[str],
    messages: Sequence[Mapping[str, str]],
    tokens: Sequence[int],
) -> tuple[str, dict[str, Reading], str]:
    """Read exported folders with the version in `packages`; None for that of the tests.

    Returns:
        The version, what it reads from each folder, and its warnings.
    """
    requests = {
        name: {"folder": str(folder), "texts": texts, "messages": messages, "tokens": tokens}
        for name, folder in folders.items()
    }
    process = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        input=json.dumps(requests),
        env={**os.environ, "PYTHONPATH": "" if packages is None else str(packages)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    output = json.loads(process.stdout)
    readings = {
        name: Reading(**{**result, "logits": np.array(result["logits"])})
        for name, result in output["results"].items()
    }
    return output["version"], readings, process.stderr
