"""Split of rows into a training and a held-out side, by a hash of their prompts."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxdistill.data.config import DataConfig
from jaxdistill.data.field_template import fill_template, take_field
from jaxdistill.data.prompt_key import conversation_keys
from jaxdistill.data.reasoning import drop_reasoning
from jaxdistill.data.row_formats import parse_row
from jaxdistill.data.rows import Chat, Row, apply_teacher_prompt
from jaxdistill.data.sources import read_rows
from jaxdistill.errors import ErrorCollector, UserError

_KEPT_FIELDS = ("teacher_prompt", "tools", "system")
_LIST_FIELDS = ("messages", "tools")


class ChatKind(NamedTuple):
    """Form of a row for both models: rendered by a chat template, or plain."""

    student_is_chat: bool
    teacher_is_chat: bool


@dataclass(frozen=True)
class DataSplit:
    """Rows to train on and to evaluate on; no prompt is on both sides.

    Attributes:
        num_overlapping: Rows of `sources` left out because `heldout_sources` have their prompt.
        bad_rows: Reasons why rows were left out, one line for each, with `data.bad_rows=drop`.
    """

    train: list[Row]
    heldout: list[Row]
    num_overlapping: int = 0
    bad_rows: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Hash of the contents of the rows, without their sources."""
        digest = hashlib.sha256()
        for row in (*self.train, *self.heldout):
            digest.update(repr((row.row_id, row.content)).encode())
            if isinstance(row.content, Chat) and row.content.tools:
                digest.update(repr(row.content.tools).encode())
            if row.teacher_prompt is not None:
                digest.update(repr(row.teacher_prompt).encode())
        return digest.hexdigest()[:12]

    @property
    def has_teacher_prompts(self) -> bool:
        """True if a row has its own prompt for the teacher."""
        return any(row.teacher_prompt is not None for row in (*self.train, *self.heldout))

    @property
    def chat_kinds(self) -> tuple[ChatKind, ...]:
        """Kinds of the rows, the most frequent first; they differ in the token that ends a turn."""
        pairs = ((row, apply_teacher_prompt(row)) for row in (*self.train, *self.heldout))
        kinds = Counter(ChatKind(*(isinstance(r.content, Chat) for r in pair)) for pair in pairs)
        return tuple(kind for kind, _ in kinds.most_common())

    def __str__(self) -> str:
        num = self.num_overlapping
        left_out = f" ({num:,} more have held-out prompts)" if num else ""
        held_out = f"{len(self.heldout):,} held out" if self.heldout else "none to evaluate on"
        return f"{len(self.train):,} rows to train on{left_out}, {held_out}"


def read_split(config: DataConfig) -> DataSplit:
    """Read the sources and split their rows.

    Raises:
        UserError: with all sources that cannot be read and all rows that cannot be parsed.
    """
    findings = ErrorCollector()
    bad_rows = findings if config.bad_rows == "refuse" else ErrorCollector()
    rows = _read_sources(config.sources, config, 0, findings, bad_rows)
    heldout = _read_sources(config.heldout_sources, config, len(rows), findings, bad_rows)
    findings.raise_if_any()
    if not rows:
        bad_rows.raise_if_any()
    if config.heldout_sources:
        return _drop_overlapping_rows(rows, heldout, bad_rows.lines)
    split = DataSplit([], [], bad_rows=bad_rows.lines)
    for row, key in zip(rows, conversation_keys(rows), strict=True):
        held = is_heldout(key, fraction=config.heldout, seed=config.heldout_seed)
        (split.heldout if held else split.train).append(row)
    if not split.train:
        raise UserError(
            f"data.heldout={config.heldout} holds out all {len(rows)} rows. Add rows, hold out "
            "fewer, or choose others with `data.heldout_seed`."
        )
    return split


def is_heldout(prompt_key: str, *, fraction: float, seed: int) -> bool:
    """Return True if rows with this prompt are held out.

    The result depends on the arguments alone. A row therefore keeps its side when rows of other
    conversations are added or removed, when the file is sorted, and when a teacher completes it
    anew. A larger fraction holds out all rows of a smaller one.
    """
    digest = hashlib.sha256(f"{seed}\n{prompt_key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def _drop_overlapping_rows(
    rows: list[Row], heldout: list[Row], bad_rows: tuple[str, ...]
) -> DataSplit:
    keys = conversation_keys([*rows, *heldout])
    heldout_keys = set(keys[len(rows) :])
    train = [row for row, key in zip(rows, keys, strict=False) if key not in heldout_keys]
    if not train:
        raise UserError(
            f"data.heldout_sources: its rows have the prompts of all {len(rows)} rows of "
            "`data.sources`, so none is left to train on. Name other rows in one of the two."
        )
    return DataSplit(train, heldout, len(rows) - len(train), bad_rows)


def _read_sources(
    sources: Sequence[str],
    config: DataConfig,
    first_id: int,
    findings: ErrorCollector,
    bad_rows: ErrorCollector,
) -> list[Row]:
    """Read and parse rows; errors of single rows go to `bad_rows`, all others to `findings`."""
    rows: list[Row] = []
    as_chat = config.prompt_template == "chat"
    for name in sources:
        before = len(rows), len(findings), len(bad_rows)
        with findings.collect():
            for source, fields in read_rows(name, bad_rows):
                with bad_rows.collect():
                    fields = _apply_field_templates(fields, config, source)
                    row_id = first_id + len(rows)
                    row = parse_row(fields, source=source, row_id=row_id, as_chat=as_chat)
                    rows.append(drop_reasoning(row) if config.reasoning == "drop" else row)
            if (len(rows), len(findings), len(bad_rows)) == before:
                raise UserError(f"{name}: an empty data set; expected at least one row.")
    return rows


def _apply_field_templates(
    fields: Mapping[str, Any], config: DataConfig, source: str
) -> Mapping[str, Any]:
    """Make the fields of a row from those of its source, by the templates of `data.fields`."""
    if not config.fields:
        return fields
    kept = {name: fields[name] for name in _KEPT_FIELDS if name in fields}
    try:
        return kept | {
            name: (take_field if name in _LIST_FIELDS else fill_template)(
                template, fields, template_name="`data.fields`"
            )
            for name, template in config.fields.items()
        }
    except UserError as error:
        raise UserError(*(f"{source}: {line}" for line in error.lines)) from None
