"""Reader of Hugging Face folders."""

from copy import deepcopy
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING

from jaxdistill.errors import ErrorCollector, UserError
from jaxdistill.hub.hf_tokenizer import load_tokenizer
from jaxdistill.hub.source import Source
from jaxdistill.hub.tensors import (
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    LazyTensor,
    open_safetensors,
    read_json,
    safetensors_files,
)


def read_folder(folder: Path) -> Source:
    """Open a folder with `config.json` and safetensors; weights are read later.

    Raises:
        UserError: Names everything that is missing, damaged or not supported.
    """
    _refuse_adapter(folder)
    _refuse_quantized(folder)
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
            _ = source.language_model
            _check_config(folder / "config.json", hf_config)
    findings.raise_if_any()
    return source


def _refuse_adapter(folder: Path) -> None:
    names = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
    adapters = [name for name in names if (folder / name).is_file()]
    if adapters:
        has_base = (folder / WEIGHTS_NAME).exists() or (folder / WEIGHTS_INDEX_NAME).exists()
        keep = f" To read the base weights alone, move {' and '.join(adapters)} away."
        raise UserError(
            f"{folder}: has an adapter (LoRA) in {adapters[0]}, and adapters are not read. Merge "
            "it first: `PeftModel.from_pretrained(base, folder).merge_and_unload()"
            f".save_pretrained(new_folder)` with peft.{keep if has_base else ''}"
        )


def _refuse_quantized(folder: Path) -> None:
    names = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
    for name in names:
        if (folder / name).is_file():
            raise UserError(
                f"{folder}: {name} says that the weights are quantised, and such folders are not "
                "read. Use the unquantised folder, or a .gguf file."
            )


def _check_config(path: Path, hf_config: dict[str, Any]) -> None:
    """Check that `transformers` can read a config, which exports carry on; name the wrong key."""
    # `Pretrained.eos_ids` checks this key.
    values = {key: value for key, value in hf_config.items() if key != "eos_token_id"}
    reason = _config_error(values)
    if reason is None:
        return
    wrong = next(
        (
            f"`{key}` is {values[key]!r}, which"
            for key in values
            if _config_error({name: values[name] for name in values if name != key}) is None
        ),
        "its values together are what",
    )
    raise UserError(f"{path}: {wrong} transformers cannot read ({reason}).")


def _config_error(values: dict[str, Any]) -> str | None:
    try:
        CONFIG_MAPPING[values["model_type"]].from_dict(deepcopy(values))
    # Whatever a wrong value leads to.
    except Exception as error:  # noqa: BLE001
        return " ".join(str(error).split()) or type(error).__name__
    return None


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
        files = safetensors_files(folder)
        if (folder / WEIGHTS_NAME).exists() and WEIGHTS_NAME not in files:
            raise UserError(
                f"{folder}: has two sets of weights, {WEIGHTS_NAME} and the {len(files)} file(s) "
                f"of {WEIGHTS_INDEX_NAME}. Delete those that you do not mean; transformers reads "
                f"{WEIGHTS_NAME}."
            )
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
