"""Download of models from the Hugging Face hub."""

from pathlib import Path

from jaxdistill.errors import UserError

# Weights and text files; never code or pickles, nor second copies in other layouts.
_ALLOWED_PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
_IGNORED_PATTERNS = ("*/*", "consolidated*", "*.bin", "*.py")


def download_model(name: str, revision: str | None = None) -> Path:
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
