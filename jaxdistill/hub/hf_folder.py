"""Reader of Hugging Face folders."""

from pathlib import Path
from typing import Any

from jaxdistill.errors import ErrorCollector, UserError
from jaxdistill.hub.hf_tokenizer import load_tokenizer
from jaxdistill.hub.source import Source
from jaxdistill.hub.tensors import (
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    LazyTensor,
    open_safetensors,
    read_json,
)


def read_folder(folder: Path) -> Source:
    """Open a folder with `config.json` and safetensors; weights are read later.

    Raises:
        UserError: Names everything that is missing, damaged or not supported.
    """
    findings = ErrorCollector()
    hf_config, generation_config, tensors = None, {}, {}
    with findings.collect():
        hf_config = _read_config(folder)
    with findings.collect():
        if (folder / "generation_config.json").is_file():
            generation_config = read_json(folder / "generation_config.json")
    with findings.collect():
        tensors = _open_weights(folder)
    source = Source(
        path=folder,
        hf_config=hf_config or {},
        generation_config=generation_config,
        tensors=tensors,
        load_tokenizer=lambda: load_tokenizer(folder),
    )
    if hf_config is not None:
        with findings.collect():
            _ = source.config
    findings.raise_if_any()
    return source


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: has no config.json and no .gguf file, so it is not a model.")
    hf_config = read_json(path)
    if "auto_map" in hf_config:
        raise UserError(
            f"{path}: `auto_map` names code in the model's folder, which is never run. If "
            f"the model is a plain {hf_config.get('model_type')}, remove `auto_map`."
        )
    return hf_config


def _open_weights(folder: Path) -> dict[str, LazyTensor]:
    if (folder / WEIGHTS_INDEX_NAME).exists() or (folder / WEIGHTS_NAME).exists():
        return open_safetensors(folder)
    pickles = sorted(folder.glob("pytorch_model*.bin"))
    if pickles:
        raise UserError(
            f"{folder}: has its weights only as {pickles[0].name}, a pickle, which is never read "
            "since it can run code. If you trust it, convert it: "
            "`AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)` with "
            "transformers writes safetensors."
        )
    files = sorted(folder.glob("*.safetensors"))
    if files:
        raise UserError(
            f"{folder}: has {files[0].name}, but neither {WEIGHTS_NAME} nor {WEIGHTS_INDEX_NAME}, "
            "the index of its tensors. Download the index, too."
        )
    raise UserError(f"{folder}: has no weights: expected {WEIGHTS_NAME} or {WEIGHTS_INDEX_NAME}.")
