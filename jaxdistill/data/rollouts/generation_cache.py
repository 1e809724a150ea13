"""The file of answers that a teacher writes, and goes on writing where it was killed.

One file holds the answers of one teacher under one setting; which ones is in its name, and every
line carries the exact tokens of its prompt. So nothing stale is used again, and the file can be
read as a source like any other: of what the teacher was asked, where rows have a `teacher_prompt`.
"""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from jaxdistill.data.rollouts.stop_strings import StopStrings
from jaxdistill.data.row_formats import parse_row
from jaxdistill.data.rows import Chat, Row, Text, Tokens
from jaxdistill.data.sources import read_rows
from jaxdistill.errors import ErrorCollector, UserError

GenerateFunction = Callable[[Sequence[Sequence[int]], int, int], Sequence[Sequence[int]]]
"""Prompts, a seed and the number of the first prompt in, the new tokens of each out, with the
token that ended it, if any. The seed and its own number decide what a prompt's answer is."""

OnBatch = Callable[[int, int, int], None]
"""Called with the rows done, the rows in all, and the tokens just written."""


@dataclass(frozen=True)
class GenerationCache:
    """A teacher as a rollout sees it.

    Attributes:
        generate: Continues prompts.
        identity: Names the teacher's weights: another name, another file.
        eos_ids: The tokens that end an answer.
        directory: Where the files of answers are kept.
        on_batch: Is told of the progress.
    """

    generate: GenerateFunction
    identity: str
    eos_ids: Collection[int]
    directory: Path
    on_batch: OnBatch | None = None

    def path(self, settings: Mapping[str, Any]) -> Path:
        """The file of this teacher's answers under one setting."""
        named = json.dumps([self.identity, sorted(self.eos_ids), dict(sorted(settings.items()))])
        return self.directory / f"rollout-{hashlib.sha256(named.encode()).hexdigest()[:12]}.jsonl"

    def get_completions(
        self,
        rows: Sequence[Row],
        prompts: Sequence[tuple[int, ...]],
        *,
        path: Path,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        seed: int,
        stop: StopStrings,
    ) -> dict[tuple[int, ...], tuple[int, ...]]:
        """Answers to all prompts: those in the file already, and the others, which join it.

        What is sampled depends on the seed and on the prompt's number among all, so that an
        interrupted rollout ends with the answers of an undisturbed one.

        Args:
            rows: What each prompt says, for the readable part of the file.
            prompts: Their tokens; equal prompts are asked once.
            path: The file.
            tokenizer: Turns answers into text.
            batch_size: How many prompts are asked at once.
            seed: Another number, other answers.
            stop: Where they end.

        Raises:
            UserError: where the file cannot be read or written.
        """
        answers = _read_completions(path)
        # Prompts of one length beside each other leave the least padding in a batch.
        asked = sorted(zip(prompts, rows, strict=True), key=lambda one: len(one[0]))
        asked = list(dict(asked).items())
        for first in range(0, len(asked), batch_size):
            batch = asked[first : first + batch_size]
            missing = [prompt not in answers for prompt, _ in batch]
            if not any(missing):
                continue
            # The whole batch again, even where a part was kept: few shapes, few programs.
            new = self.generate([prompt for prompt, _ in batch], seed, first)
            entries = compress(zip(batch, new, strict=True), missing)
            lines = []
            for (prompt, row), answer in entries:
                answers[prompt] = tuple(stop.truncate(row, answer))
                lines.append(self._encode_line(row, prompt, answers[prompt], tokenizer))
            _append(path, b"".join(lines))
            if self.on_batch:
                self.on_batch(first + len(batch), len(asked), sum(map(len, new)))
        return answers

    def _encode_line(
        self,
        row: Row,
        prompt: tuple[int, ...],
        completion: Sequence[int],
        tokenizer: PreTrainedTokenizerBase,
    ) -> bytes:
        readable: dict[str, Any] = {}
        if isinstance(row.content, Text):
            readable = {"prompt": row.content.prompt}
        elif isinstance(row.content, Chat):
            readable = {"prompt": row.content.messages[: row.content.num_prompt]}
        fields = {
            **readable,
            "completion": tokenizer.decode(list(completion), skip_special_tokens=True),
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
            f"{path}: cannot write the teacher's answers: {error.strerror}. What was written "
            "before is kept; the same command goes on from there."
        ) from None


def _read_completions(path: Path) -> dict[tuple[int, ...], tuple[int, ...]]:
    """The answers in the file, after dropping a last line that was torn when its writer died."""
    _drop_torn_line(path)
    if not path.exists():
        return {}
    answers = {}
    findings = ErrorCollector()
    for place, fields in read_rows(str(path), findings):
        with findings.collect():
            content = parse_row(fields, source=place, row_id=0, as_chat=False).content
            if not isinstance(content, Tokens):
                raise UserError(f"{place}: not a teacher's answer.")
            answers[content.prompt] = content.completion
    try:
        findings.raise_if_any()
    except UserError as error:
        raise UserError(
            *error.lines,
            f"{path}: the teacher's answers are damaged. Remove these lines, or the file: what is "
            "missing is written again.",
        ) from None
    return answers


def _drop_torn_line(path: Path) -> None:
    try:
        content = path.read_bytes() if path.exists() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
    except OSError as error:
        raise UserError(f"{path}: the teacher's answers: {error.strerror}.") from None
