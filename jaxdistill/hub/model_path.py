"""Paths of models: a folder, a file, or a name on the hub."""

import re
from pathlib import Path

from jaxdistill.errors import UserError, did_you_mean
from jaxdistill.files import check_path_names
from jaxdistill.hub.download import download_model
from jaxdistill.hub.gguf_file import read_gguf
from jaxdistill.hub.hf_folder import read_folder
from jaxdistill.hub.pinned_models import PINNED_MODELS
from jaxdistill.hub.source import Source

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def read_source(path: str | Path, *, revision: str | None = None) -> Source:
    """Open a model without reading its weights.

    Args:
        path: A Hugging Face folder, a `.gguf` file, a folder with exactly one such file, or a
            name on the Hugging Face hub (`organisation/model`), which is then downloaded.
        revision: Branch, tag or commit of a hub name.

    Raises:
        UserError: There is no model, it is incomplete, or it is not supported.
    """
    local = Path(path).expanduser()
    check_path_names(local)
    if local.is_dir():
        return _read_local_folder(local)
    if local.is_file():
        if local.suffix != ".gguf":
            raise UserError(
                f"{local}: expected a folder or a .gguf file. Give the folder that holds the file."
            )
        return read_gguf(local)
    # `models/smollm` looks like a hub name, but is a typo where a folder `models` exists.
    is_pinned = local.name in PINNED_MODELS and len(local.parts) > 1
    if _HUB_NAME.fullmatch(str(path)) and not local.parent.is_dir() and not is_pinned:
        return read_folder(download_model(str(path), revision))
    if is_pinned:
        raise UserError(
            f"{local}: there is no such model folder. Get it with `jaxdistill fetch {local.name} "
            f"--out {local.parent}`."
        )
    siblings = [child.name for child in local.parent.iterdir()] if local.parent.is_dir() else []
    raise UserError(f"{local}: there is no such model folder.{did_you_mean(local.name, siblings)}")


def _read_local_folder(folder: Path) -> Source:
    gguf_files = sorted(folder.glob("*.gguf"))
    if (folder / "config.json").is_file() or not gguf_files:
        return read_folder(folder)
    if len(gguf_files) > 1:
        names = ", ".join(file.name for file in gguf_files)
        raise UserError(f"{folder}: holds several models ({names}). Name one of the files.")
    return read_gguf(gguf_files[0])
