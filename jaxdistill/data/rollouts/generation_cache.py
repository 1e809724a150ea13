"""Cache of a teacher's completions: a JSONL file that an interrupted rollout continues.

A file holds the completions of one teacher with one set of options. Its name is their hash, and
every line has the exact tokens of its prompt, so that no stale completion is used. The file can
also be read as a source of rows; their prompts are those of the teacher.
"""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

from jaxdistill.data.renderer import Renderer
from jaxdistill.data.rollouts.stop_strings import StopStrings
from jaxdistill.data.row_formats import parse_row
from jaxdistill.data.rows import Chat, Row, Text, Tokens
from jaxdistill.data.sources import read_rows
from jaxdistill.errors import ErrorCollector, UserError

GenerateFunction = Callable[[Sequence[Sequence[int]], int, int], Sequence[Sequence[int]]]
"""Takes prompts, a seed and the index of the first prompt; returns the new tokens of each prompt,
with the token that ended it, if any. A completion depends on its prompt, the seed and its index."""

ProgressCallback = Callable[[int, int, int], None]
"""Called with the number of prompts done, of all prompts, and of tokens in the last batch."""


@dataclass(frozen=True)
class GenerationCache:
    """Completions of a teacher, generated once and kept in files of a directory.

    `identity` names the teacher's weights: another name gives another file. Without `generate`
    there are only the completions that are in the file already.
    """

    generate: GenerateFunction | None
    identity: str
    eos_ids: Collection[int]
    directory: Path
    on_batch: ProgressCallback | None = None

    def path(self, settings: Mapping[str, Any]) -> Path:
        """Return the file of this teacher's completions with these options."""
        key = json.dumps([self.identity, sorted(self.eos_ids), dict(sorted(settings.items()))])
        return self.directory / f"rollout-{hashlib.sha256(key.encode()).hexdigest()[:12]}.jsonl"

    def get_completions(
        self,
        rows: Mapping[tuple[int, ...], Row],
        *,
        path: Path,
        batch_size: int,
        seed: int,
        stop: StopStrings,
    ) -> dict[tuple[int, ...], tuple[int, ...]]:
        """Return completions by prompt: read those in the file, generate and append the others.

        A sample depends on the seed and on the prompt's index among all prompts. An interrupted
        rollout therefore ends with the completions of an uninterrupted one. Equal prompts are
        completed once. `rows`, by their prompts, serve the readable fields of the file.

        Raises:
            UserError: if the file cannot be read or written.
        """
        if self.generate is None:  # another process may be writing the file: leave it as it is
            return {} if _has_torn_line(path) else _read_completions(path)
        _drop_torn_line(path)
        completions = _read_completions(path)
        # Prompts of similar length together need the least padding in a batch.
        by_length = sorted(rows.items(), key=lambda item: len(item[0]))
        for first in range(0, len(by_length), batch_size):
            batch = by_length[first : first + batch_size]
            missing = [prompt not in completions for prompt, _ in batch]
            if not any(missing):
                continue
            # Generate the whole batch, even if a part is in the file: few shapes, few programs.
            generated = self.generate([prompt for prompt, _ in batch], seed, first)
            lines = []
            for (prompt, row), tokens in compress(zip(batch, generated, strict=True), missing):
                completions[prompt] = tuple(stop.truncate(row, tokens))
                lines.append(self._encode_line(row, prompt, completions[prompt], stop.renderer))
            _append(path, b"".join(lines))
            if self.on_batch:
                self.on_batch(first + len(batch), len(by_length), sum(map(len, generated)))
        return completions

    def _encode_line(
        self, row: Row, prompt: tuple[int, ...], completion: Sequence[int], renderer: Renderer
    ) -> bytes:
        readable: dict[str, Any] = {}
        if isinstance(row.content, Text):
            readable = {"prompt": row.content.prompt}
        elif isinstance(row.content, Chat):
            readable = {"prompt": row.content.messages[: row.content.num_prompt]}
            if row.content.tools:
                readable["tools"] = row.content.tools
        fields = {
            **readable,
            "completion": renderer.tokenizer.decode(list(completion), skip_special_tokens=True),
            "finished": bool(completion) and completion[-1] in self.eos_ids,
            "prompt_tokens": list(prompt),
            "completion_tokens": [int(token) for token in completion],
        }
        return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def _append(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"{path}: cannot write the teacher's completions: {error.strerror}. What was written "
            "before is kept; the same command goes on from there."
        ) from None


def _read_completions(path: Path) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Read the completions in the file, whose lines must be whole."""
    if not path.exists():
        return {}
    completions = {}
    findings = ErrorCollector()
    for source, fields in read_rows(str(path), findings):
        with findings.collect():
            content = parse_row(fields, source=source, row_id=0, as_chat=False).content
            if not isinstance(content, Tokens):
                raise UserError(f"{source}: not a teacher's completion.")
            completions[content.prompt] = content.completion
    if len(findings):
        with findings.collect(str(path)):
            raise UserError(
                "the teacher's completions are damaged. Remove these lines, or the file: what is "
                "missing is generated again."
            )
    findings.raise_if_any()
    return completions


def _has_torn_line(path: Path) -> bool:
    return path.exists() and not path.read_bytes().endswith(b"\n")


def _drop_torn_line(path: Path) -> None:
    """Remove a last line that a killed process left half."""
    try:
        content = path.read_bytes() if path.exists() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
    except OSError as error:
        raise UserError(f"{path}: the teacher's completions: {error.strerror}.") from None
