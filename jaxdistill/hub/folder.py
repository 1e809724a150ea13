"""Hugging Face folders in."""

from pathlib import Path
from typing import Any

from jaxdistill.errors import UserError
from jaxdistill.hub.source import Source
from jaxdistill.hub.tensors import INDEX_NAME, SINGLE_NAME, LazyTensor, open_safetensors, read_json
from jaxdistill.hub.tokenizer import load_tokenizer
from jaxdistill.models import FAMILIES


def read_folder(folder: Path) -> Source:
    """A folder with `config.json` and safetensors; weights are not read yet.

    Raises:
        UserError: Something is missing, damaged, or cannot be honoured.
    """
    hf_config = _read_config(folder)
    generation_path = folder / "generation_config.json"
    return Source(
        path=folder,
        hf_config=hf_config,
        generation_config=read_json(generation_path) if generation_path.is_file() else {},
        tensors=_open_weights(folder),
        load_tokenizer=lambda: load_tokenizer(folder),
    )


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: has no config.json (and no .gguf file), so it is not a model.")
    hf_config = read_json(folder / "config.json")
    where = folder / "config.json"
    problems = []
    if "auto_map" in hf_config:
        problems.append(
            f"{where}: `auto_map` asks for code from the model's folder, which we never run. If "
            f"the model is a plain {hf_config.get('model_type')}, remove `auto_map`."
        )
    if quantization := hf_config.get("quantization_config"):
        method = quantization.get("quant_method", "unknown method")
        problems.append(
            f"{where}: the weights are quantised ({method}), which we do not read. "
            "Use the unquantised model, or a GGUF file of it."
        )
    if "model_type" not in hf_config:
        problems.append(f"{where}: has no `model_type`; expected one of {', '.join(FAMILIES)}.")
    if problems:
        raise UserError(*problems)
    return hf_config


def _open_weights(folder: Path) -> dict[str, LazyTensor]:
    if (folder / INDEX_NAME).is_file() or (folder / SINGLE_NAME).is_file():
        return open_safetensors(folder)
    pickles = sorted(folder.glob("pytorch_model*.bin"))
    if pickles:
        raise UserError(
            f"{folder}: has its weights only as {pickles[0].name}, a pickle, which can run code "
            "when it is read; we never read one. Convert it where you trust it: "
            "`AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)` with "
            "transformers writes safetensors."
        )
    shards = sorted(folder.glob("*.safetensors"))
    if shards:
        raise UserError(
            f"{folder}: has {shards[0].name}, but neither {SINGLE_NAME} nor {INDEX_NAME}, which "
            "says what is where. Download the index, too."
        )
    raise UserError(f"{folder}: has no weights: expected {SINGLE_NAME} or {INDEX_NAME}.")
