"""Paths of models: a folder, a file, or a name on the hub."""

import re
from pathlib import Path

from jaxdistill.errors import UserError, did_you_mean
from jaxdistill.files import check_path_names
from jaxdistill.hub.gguf_file import read_gguf
from jaxdistill.hub.gguf_split import gguf_parts
from jaxdistill.hub.hf_folder import read_folder
from jaxdistill.hub.pinned_models import PINNED_MODELS
from jaxdistill.hub.source import Source

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

# Weights and text files; never code or pickles, nor second copies in other layouts.
_ALLOWED_PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
_IGNORED_PATTERNS = ("*/*", "consolidated*", "*.bin", "*.py")


def read_source(path: str | Path, *, revision: str | None = None) -> Source:
    """Open a model without reading its weights.

    Args:
        path: A Hugging Face folder, a `.gguf` file or one of its parts, a folder with exactly
            one such model, or a name on the Hugging Face hub (`organisation/model`), which is then
            downloaded.
        revision: Branch, tag or commit of a hub name.

    Raises:
        UserError: There is no model, it is incomplete, or it is not supported.
    """
    if not str(path).strip():
        raise UserError(
            "the name of the model is empty. Give a folder, a .gguf file or a name on the hub."
        )
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
        return read_folder(_download_model(str(path), revision))
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
    if len(gguf_files) > 1 and gguf_parts(gguf_files[0]) != gguf_files:
        names = ", ".join(file.name for file in gguf_files)
        raise UserError(f"{folder}: holds several models ({names}). Name one of the files.")
    return read_gguf(gguf_files[0])


def _download_model(name: str, revision: str | None) -> Path:
    """Return the local copy of a hub model; files missing in the cache are downloaded.

    Raises:
        UserError: The model does not exist, is gated, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    prefix = f"{name}: there is no such folder here, and the hub"
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(_ALLOWED_PATTERNS),
            ignore_patterns=list(_IGNORED_PATTERNS),
        )
    # Order matters: the first errors are subclasses of the last.
    except GatedRepoError:
        reason = (
            "requires that you accept the model's terms. Accept them there, then `hf auth login`."
        )
    except RepositoryNotFoundError:
        reason = "has no such model (or it is private: `hf auth login`). Check the name."
    except RevisionNotFoundError:
        reason = f"has no revision `{revision}` of it."
    except (OfflineModeIsEnabled, LocalEntryNotFoundError):
        reason = "cannot be reached, and the cache has no copy. Go online, or give a local folder."
    except (HfHubHTTPError, HFValidationError) as error:
        reason = f"answered: {str(error).splitlines()[0]}"
    else:
        return Path(folder)
    raise UserError(f"{prefix} {reason}")
