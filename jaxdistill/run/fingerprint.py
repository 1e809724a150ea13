"""Fingerprint of a run: what a checkpoint must have in common with the run that continues it.

Paths are not compared, but the content of models and rows is. So a run may move, and a changed
model is refused by name. Fields at their defaults are left out, so that a new one breaks no run.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from jaxdistill import hub
from jaxdistill.config import flatten
from jaxdistill.run.config import RunConfig
from jaxdistill.run.folder import RunFolder
from jaxdistill.train import Fingerprint, saved_fingerprint

# Fields that may change when a run continues: paths, records, and the division of the work.
# Every other field changes the result.
_CHANGEABLE_FIELDS = (
    "output",
    "student.model",
    "teacher.model",
    "data.sources",
    "data.heldout_sources",
    "evaluation",
    "mesh",
    "track",
    "student.export_dtype",
    "student.gguf_dtype",
    "data.rollout.directory",
    "train.accumulate",
    "train.chunk_rows",
    "train.log_every_steps",
    "train.save_every_steps",
    "train.keep_checkpoints",
)
_OF_OLDER_VERSIONS = ("the teacher's weights",)
_LATER_CONTENT = ("the rows' content", "the kept layers", "the calibration")


Models = Mapping[str, tuple[hub.Source, PreTrainedTokenizerBase]]
"""Models of a run, each with its tokenizer, by a name for messages."""


def run_fingerprint(config: RunConfig, models: Models, content: Mapping[str, Any]) -> Fingerprint:
    """Return the fingerprint of a run; `content` describes its rows and the kept layers."""
    settings, defaults = flatten(config), dict(_changed_fields(config))
    values = {name: value for name, value in settings.items() if _is_in(name, defaults)}
    identities = {name: _describe_model(*model) for name, model in models.items()}
    compared = {n: value for n, value in values.items() if not _is_in(n, _CHANGEABLE_FIELDS)}
    return Fingerprint(
        values={**compared, **identities, **content},
        defaults=defaults | {name: v for name, v in settings.items() if name not in values},
        ignored=(*_CHANGEABLE_FIELDS, *_OF_OLDER_VERSIONS),
    )


def check_continues(
    config: RunConfig, folder: RunFolder, models: Models, content: Mapping[str, Any]
) -> None:
    """Compare a run with the newest checkpoint in its folder, before anything is loaded.

    What is not in `content` yet, because a teacher has to write it, is not compared.

    Raises:
        UserError: Names what has changed since the checkpoint was written.
    """
    if (saved := saved_fingerprint(folder.checkpoints)) is None:
        return
    path, values = saved
    unknown = {name for name in _LATER_CONTENT if name not in content}
    fingerprint = run_fingerprint(config, models, content)
    fingerprint.check(path, {name: v for name, v in values.items() if name not in unknown})


def _describe_model(source: hub.Source, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what decides a model's logits, its tokens and its prompts, by name."""
    return {
        **source.identity,
        "tokenizer": _hash(repr(sorted(tokenizer.get_vocab().items()))),
        "chat template": _hash(repr(tokenizer.chat_template)),
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]


def _changed_fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield name and default of all fields of a config that differ from their defaults.

    A field without a default has None. The `type` of a choice is yielded with its section.
    """
    for field, info in type(config).__pydantic_fields__.items():
        value, name = getattr(config, field), f"{prefix}{field}"
        default = info.get_default(call_default_factory=True)
        if field != "type" and value == default:
            continue
        items = value if isinstance(value, tuple) else (value,)
        if not items or not all(map(is_dataclass, items)):
            is_plain = isinstance(default, str | int | float) and field != "type"
            yield name, default if is_plain else None
        elif isinstance(value, tuple):
            for number, item in enumerate(items):
                yield from _changed_fields(item, f"{name}.{number}.")
        else:
            yield from _changed_fields(value, f"{name}.")


def _is_in(name: str, sections: Iterable[str]) -> bool:
    """Return True if a dotted name is one of the sections, or lies in one."""
    return any(name == section or name.startswith(f"{section}.") for section in sections)
