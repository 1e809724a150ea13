"""Checksums of the files of a checkpoint, written beside them and compared when it is read.

CRC-32 finds every flipped bit and is faster than most disks. It is no protection against an attack.
"""

import json
import zlib
from pathlib import Path

from jaxdistill.files import atomic_file

CHECKSUMS_NAME = "checksums.json"
_BLOCK_BYTES = 1 << 24


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files in a folder to a file in it."""
    content = json.dumps(_checksums(folder), indent=1)
    with atomic_file(folder / CHECKSUMS_NAME) as path:
        path.write_text(content + "\n", encoding="utf-8")


def check_checksums(folder: Path) -> None:
    """Raise ValueError with the name of a file that is missing or changed.

    A folder without checksums passes: older versions wrote none, and a kill may come before them.
    """
    path = folder / CHECKSUMS_NAME
    if not path.exists():
        return
    try:
        expected = dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        raise ValueError(f"{CHECKSUMS_NAME} is damaged") from None
    actual = _checksums(folder)
    for name in sorted(expected):  # a file that something else added does no harm
        if expected.get(name) != actual.get(name):
            problem = "is missing" if name not in actual else "is not as it was written"
            raise ValueError(f"{name} {problem}")


def _checksums(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): _checksum(path)
        for path in paths
        if path.name != CHECKSUMS_NAME
    }


def _checksum(path: Path) -> str:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"
