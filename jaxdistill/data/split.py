"""Two sides: rows to learn from, and rows to evaluate on, told apart by what they ask."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxdistill.data.config import DataConfig
from jaxdistill.data.field_template import fill_template
from jaxdistill.data.row_formats import parse_row
from jaxdistill.data.rows import Chat, Row, apply_teacher_prompt
from jaxdistill.data.sources import read_rows
from jaxdistill.errors import ErrorCollector, UserError


@dataclass(frozen=True)
class DataSplit:
    """The two sides of the split.

    Attributes:
        train: Rows to learn from.
        heldout: Rows to evaluate on; none asks what one of `train` asks.
        shared: How many rows of `sources` are left out because `heldout_sources` ask the same.
    """

    train: list[Row]
    heldout: list[Row]
    num_overlapping: int = 0

    @property
    def digest(self) -> str:
        """Names what the rows say, wherever they stand."""
        digest = hashlib.sha256()
        for side in (self.train, self.heldout):
            for row in side:
                digest.update(repr((row.row_id, row.content)).encode())
                if row.teacher_prompt is not None:
                    digest.update(repr(row.teacher_prompt).encode())
        return digest.hexdigest()[:12]

    @property
    def has_teacher_prompts(self) -> bool:
        """Whether a teacher reads some of them after a prompt of its own."""
        return any(row.teacher_prompt is not None for row in (*self.train, *self.heldout))

    @property
    def chat_kinds(self) -> tuple[tuple[bool, bool], ...]:
        """Whether rows are chats, as the student and as the teacher reads them.

        The kinds that occur, the most frequent first: answers end in other marks in each.
        """
        rows = (*self.train, *self.heldout)
        kinds = Counter(
            tuple(isinstance(one.content, Chat) for one in (row, apply_teacher_prompt(row)))
            for row in rows
        )
        return tuple((mine, theirs) for (mine, theirs), _ in kinds.most_common())

    def __str__(self) -> str:
        left_out = (
            f" ({self.num_overlapping:,} more ask what is held out)" if self.num_overlapping else ""
        )
        return f"{len(self.train):,} rows to train on{left_out}, {len(self.heldout):,} held out"


def read_split(config: DataConfig) -> DataSplit:
    """Read the sources and split them.

    Raises:
        UserError: naming the sources that cannot be read and the rows that are none.
    """
    findings = ErrorCollector()
    rows = _read_sources(config.sources, config, 0, findings)
    heldout = _read_sources(config.heldout_sources, config, len(rows), findings)
    findings.raise_if_any()
    if config.heldout_sources:
        return _drop_overlapping_rows(rows, heldout)
    sides: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        held = is_heldout(row.prompt_key, fraction=config.heldout, seed=config.heldout_seed)
        sides[held].append(row)
    if not sides[0]:
        raise UserError(
            f"data.heldout={config.heldout} holds out all {len(rows)} rows. Add rows, hold out "
            "fewer, or choose others with `data.heldout_seed`."
        )
    return DataSplit(*sides)


def is_heldout(prompt_key: str, *, fraction: float, seed: int) -> bool:
    """Whether rows of this key are kept from training.

    It depends on nothing but the arguments, so a row keeps its side when others come and go, when
    the file is sorted, and when a teacher answers anew. A larger fraction only adds rows.

    Args:
        key: A row's `key`.
        fraction: Of all keys, how many are held out.
        seed: Another number, another choice.
    """
    digest = hashlib.sha256(f"{seed}\n{prompt_key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def _drop_overlapping_rows(rows: list[Row], heldout: list[Row]) -> DataSplit:
    held = {row.prompt_key for row in heldout}
    train = [row for row in rows if row.prompt_key not in held]
    if not train:
        raise UserError(
            f"data.heldout_sources: its rows ask what all {len(rows)} rows of `data.sources` ask, "
            "so none is left to train on. Name other rows in one of the two."
        )
    return DataSplit(train, heldout, num_overlapping=len(rows) - len(train))


def _read_sources(
    sources: Sequence[str], config: DataConfig, first_id: int, findings: ErrorCollector
) -> list[Row]:
    rows: list[Row] = []
    as_chat = config.prompt_template == "chat"
    for source in sources:
        before = len(rows), len(findings)
        with findings.collect():
            for place, fields in read_rows(source, findings):
                with findings.collect():
                    row_id, fields = (
                        first_id + len(rows),
                        _apply_field_templates(fields, config, place),
                    )
                    rows.append(parse_row(fields, source=place, row_id=row_id, as_chat=as_chat))
            if (len(rows), len(findings)) == before:
                raise UserError(f"{source}: an empty data set; expected at least one row.")
    return rows


def _apply_field_templates(
    fields: Mapping[str, Any], config: DataConfig, source: str
) -> Mapping[str, Any]:
    """The parts of a row, out of the fields that its source has."""
    if not config.fields:
        return fields
    own = {name: fields[name] for name in ("teacher_prompt",) if name in fields}
    try:
        return own | {
            name: fill_template(template, fields, template_name="`data.fields`")
            for name, template in config.fields.items()
        }
    except UserError as error:
        raise UserError(*(f"{source}: {line}" for line in error.lines)) from None
