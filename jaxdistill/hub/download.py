"""Models by their name on the Hugging Face hub."""

from pathlib import Path

from jaxdistill.errors import UserError

# Weights and texts, never code or pickles; and no second copies in other layouts.
_ALLOWED_PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
_IGNORED_PATTERNS = ("*/*", "consolidated*", "*.bin", "*.py")


def download_model(name: str, revision: str | None = None) -> Path:
    """The local copy of a hub model; only what is not in the cache yet is downloaded.

    Raises:
        UserError: It is not there, not ours to read, or out of reach.
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

    where = f"{name}: there is no such folder here, and the hub"
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(_ALLOWED_PATTERNS),
            ignore_patterns=list(_IGNORED_PATTERNS),
        )
    # The order matters: the first kinds of error are special cases of the last ones.
    except GatedRepoError:
        reason = "gives it only to those who accepted its terms. Accept them, then `hf auth login`."
    except RepositoryNotFoundError:
        reason = "has no such model (or it is private: `hf auth login`). Check the name."
    except RevisionNotFoundError:
        reason = f"has no revision `{revision}` of it."
    except (OfflineModeIsEnabled, LocalEntryNotFoundError):
        reason = "cannot be reached, nor is it in the cache. Go online, or give a local folder."
    except (HfHubHTTPError, HFValidationError) as error:
        reason = f"answered: {str(error).splitlines()[0]}"
    else:
        return Path(folder)
    raise UserError(f"{where} {reason}")
