"""Two sides: rows to learn from, and rows to evaluate on, told apart by what they ask."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxdistill.data.config import DataConfig
from jaxdistill.data.fields import filled
from jaxdistill.data.rows import Chat, Row, for_teacher
from jaxdistill.data.shapes import parse
from jaxdistill.data.sources import records
from jaxdistill.errors import Findings, UserError


@dataclass(frozen=True)
class Rows:
    """The two sides of the split.

    Attributes:
        train: Rows to learn from.
        heldout: Rows to evaluate on; none asks what one of `train` asks.
        shared: How many rows of `sources` are left out because `heldout_sources` ask the same.
    """

    train: list[Row]
    heldout: list[Row]
    shared: int = 0

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
    def have_teacher_prompts(self) -> bool:
        """Whether a teacher reads some of them after a prompt of its own."""
        return any(row.teacher_prompt is not None for row in (*self.train, *self.heldout))

    @property
    def ends(self) -> tuple[tuple[bool, bool], ...]:
        """Whether rows are chats, as the student and as the teacher reads them.

        The kinds that occur, the most frequent first: answers end in other marks in each.
        """
        rows = (*self.train, *self.heldout)
        kinds = Counter(
            tuple(isinstance(one.content, Chat) for one in (row, for_teacher(row))) for row in rows
        )
        return tuple((mine, theirs) for (mine, theirs), _ in kinds.most_common())

    def __str__(self) -> str:
        left_out = f" ({self.shared:,} more ask what is held out)" if self.shared else ""
        return f"{len(self.train):,} rows to train on{left_out}, {len(self.heldout):,} held out"


def read(config: DataConfig) -> Rows:
    """Read the sources and split them.

    Raises:
        UserError: naming the sources that cannot be read and the rows that are none.
    """
    findings = Findings()
    rows = _read(config.sources, config, 0, findings)
    heldout = _read(config.heldout_sources, config, len(rows), findings)
    findings.raise_any()
    if config.heldout_sources:
        return _apart(rows, heldout)
    sides: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        held = is_heldout(row.key, fraction=config.heldout, seed=config.heldout_seed)
        sides[held].append(row)
    if not sides[0]:
        raise UserError(
            f"data.heldout={config.heldout} holds out all {len(rows)} rows. Add rows, hold out "
            "fewer, or choose others with `data.heldout_seed`."
        )
    return Rows(*sides)


def is_heldout(key: str, *, fraction: float, seed: int) -> bool:
    """Whether rows of this key are kept from training.

    It depends on nothing but the arguments, so a row keeps its side when others come and go, when
    the file is sorted, and when a teacher answers anew. A larger fraction only adds rows.

    Args:
        key: A row's `key`.
        fraction: Of all keys, how many are held out.
        seed: Another number, another choice.
    """
    digest = hashlib.sha256(f"{seed}\n{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def _apart(rows: list[Row], heldout: list[Row]) -> Rows:
    held = {row.key for row in heldout}
    train = [row for row in rows if row.key not in held]
    if not train:
        raise UserError(
            f"data.heldout_sources: its rows ask what all {len(rows)} rows of `data.sources` ask, "
            "so none is left to train on. Name other rows in one of the two."
        )
    return Rows(train, heldout, shared=len(rows) - len(train))


def _read(
    sources: Sequence[str], config: DataConfig, first_id: int, findings: Findings
) -> list[Row]:
    rows: list[Row] = []
    as_chat = config.prompt_template == "chat"
    for source in sources:
        before = len(rows), len(findings)
        with findings.collect():
            for place, fields in records(source, findings):
                with findings.collect():
                    row_id, fields = first_id + len(rows), _named(fields, config, place)
                    rows.append(parse(fields, place=place, row_id=row_id, as_chat=as_chat))
            if (len(rows), len(findings)) == before:
                raise UserError(f"{source}: an empty data set; expected at least one row.")
    return rows


def _named(fields: Mapping[str, Any], config: DataConfig, place: str) -> Mapping[str, Any]:
    """The parts of a row, out of the fields that its source has."""
    if not config.fields:
        return fields
    own = {name: fields[name] for name in ("teacher_prompt",) if name in fields}
    try:
        return own | {
            name: filled(template, fields, speaker="`data.fields`")
            for name, template in config.fields.items()
        }
    except UserError as error:
        raise UserError(*(f"{place}: {line}" for line in error.lines)) from None
