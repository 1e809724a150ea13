"""Split GGUF files: the parts of one model, as `llama-gguf-split` names them."""

import re
from pathlib import Path

from jaxdistill.errors import UserError

_PART_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def gguf_parts(path: Path) -> list[Path]:
    """Return all files of the model that a GGUF file is a part of, the first part first.

    The first part holds the metadata, and each part some of the tensors.

    Raises:
        UserError: Names the parts that are missing.
    """
    match = _PART_NAME.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    names = [f"{match['stem']}-{n:05}-of-{count:05}.gguf" for n in range(1, count + 1)]
    parts = [path.with_name(name) for name in names]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise UserError(
            f"{path}: one of {count} parts of a model, and {len(missing)} of them are not beside "
            f"it: {', '.join(missing[:5])}{' and more' if len(missing) > 5 else ''}. Download the "
            "missing parts into the same folder."
        )
    return parts or [path]
