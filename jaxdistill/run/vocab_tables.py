"""Vocabulary tables of a run: which tokens of student and teacher correspond, cached on disk."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdistill import align, data
from jaxdistill.errors import UserError
from jaxdistill.files import atomic_file, cache_folder
from jaxdistill.types import VocabTables

Arrays = Mapping[str, np.ndarray]

_CACHE_VERSION = "3"
"""Raise this when the cached arrays change, so that no old file is read."""


class VocabTablePair(NamedTuple):
    """Vocabulary tables of student and teacher; None where no objective needs them."""

    student: VocabTables | None = None
    teacher: VocabTables | None = None


def make_vocab_tables(
    student: data.Renderer,
    teacher: data.Renderer | None,
    vocab_sizes: tuple[int, int],
    vocab_needs: frozenset[str],
    chat_kinds: Sequence[tuple[bool, bool]],
) -> VocabTablePair:
    """Build the vocabulary tables that the objectives of a run need.

    Args:
        student: Renderer of the student.
        teacher: Renderer of the teacher; None where both models read the same tokens.
        vocab_sizes: Number of tokens of student and teacher.
        vocab_needs: Tables that objectives need (`Objective.vocab_needs`).
        chat_kinds: Whether examples are chats for student and teacher, each combination that
            occurs: a chat's completions end in another special token than plain text.
    """
    if not vocab_needs:
        return VocabTablePair()
    student_bytes = student.text_token_bytes[: vocab_sizes[0]]
    if teacher is None:
        tables = _identity_tables(student, vocab_sizes[0])
        return VocabTablePair(tables, tables)
    teacher_bytes = teacher.text_token_bytes[: vocab_sizes[1]]
    special_pairs = _special_pairs(student, teacher, chat_kinds)
    cache = _cache_folder(student, teacher, vocab_sizes, special_pairs)
    matches = align.exact_matches(student_bytes, teacher_bytes, special_pairs)
    student_tables = _byte_tables(student, vocab_sizes[0], matches.student)
    teacher_tables = _byte_tables(teacher, vocab_sizes[1], matches.teacher)
    if "buckets" in vocab_needs:
        shared = _load_shared_buckets(cache, student, teacher, vocab_sizes, special_pairs)
        student_tables = replace(
            student_tables,
            subtokens=shared.subtokens,
            buckets=shared.student_buckets,
            bucket_token=shared.bucket_token,
        )
        teacher_tables = replace(
            teacher_tables,
            subtokens=np.arange(len(teacher_bytes), dtype=np.int32)[:, None],
            buckets=shared.teacher_buckets[:, None],
            bucket_token=shared.bucket_token,
        )
    if "nearest_token" in vocab_needs:

        def compute() -> Arrays:
            nearest = align.nearest_tokens(teacher_bytes, student_bytes, matches.teacher)
            return {"nearest_token": nearest}

        lengths = {"nearest_token": len(teacher_bytes)}
        arrays = load_or_compute(cache / "nearest.npz", compute, lengths)
        teacher_tables = replace(teacher_tables, **arrays)
    return VocabTablePair(student_tables, teacher_tables)


def _byte_tables(renderer: data.Renderer, vocab_size: int, exact_match: np.ndarray) -> VocabTables:
    padded = align.padded_token_bytes(renderer.text_token_bytes[:vocab_size])
    # Not of `text_token_bytes`: `<0x41>` beside `A` is never in text, but no word ends before it.
    boundaries = align.word_boundaries(renderer.token_bytes[:vocab_size])
    return VocabTables(exact_match, *padded, boundaries)


def _identity_tables(renderer: data.Renderer, vocab_size: int) -> VocabTables:
    """Build the tables of one shared vocabulary, where every token has a bucket of its own."""
    token_ids = np.arange(vocab_size, dtype=np.int32)
    return replace(
        _byte_tables(renderer, vocab_size, token_ids),
        subtokens=token_ids[:, None],
        buckets=token_ids[:, None] + 1,
        bucket_token=np.append(-1, token_ids),
        nearest_token=token_ids,
    )


def _special_pairs(
    student: data.Renderer, teacher: data.Renderer, chat_kinds: Sequence[tuple[bool, bool]]
) -> list[tuple[int, int]]:
    """Pair the special tokens that end completions; a token's first partner counts."""
    pairs: dict[int, int] = {}
    for is_chat in chat_kinds:
        student_id, teacher_id = (
            renderer.end_of_turn_id if chat else renderer.eos_id
            for renderer, chat in zip((student, teacher), is_chat, strict=True)
        )
        if student_id is None or teacher_id is None:
            continue
        if student_id not in pairs and teacher_id not in pairs.values():
            pairs[student_id] = teacher_id
    return list(pairs.items())


def _cache_folder(
    student: data.Renderer,
    teacher: data.Renderer,
    vocab_sizes: tuple[int, int],
    special_pairs: align.SpecialPairs,
) -> Path:
    """Return the folder of the arrays computed for this pair of vocabularies."""
    sides = zip((student, teacher), vocab_sizes, strict=True)
    key = [f"{renderer.identity}-{size}" for renderer, size in sides]
    key += [f"{student_id}.{teacher_id}" for student_id, teacher_id in special_pairs]
    return cache_folder() / "vocabularies" / _CACHE_VERSION / "-".join(key)


def _load_shared_buckets(
    cache: Path,
    student: data.Renderer,
    teacher: data.Renderer,
    vocab_sizes: tuple[int, int],
    special_pairs: align.SpecialPairs,
) -> align.SharedBuckets:
    student_bytes = student.text_token_bytes[: vocab_sizes[0]]
    teacher_bytes = teacher.text_token_bytes[: vocab_sizes[1]]

    def compute() -> Arrays:
        swapped = [(teacher_id, student_id) for student_id, teacher_id in special_pairs]
        return align.build_shared_buckets(
            align.retokenize(student_bytes, teacher_bytes, teacher.encode_batch, special_pairs),
            align.retokenize(teacher_bytes, student_bytes, student.encode_batch, swapped),
        )._asdict()

    lengths = dict.fromkeys(("student_buckets", "subtokens"), len(student_bytes))
    lengths |= {"teacher_buckets": len(teacher_bytes), "bucket_token": None}
    return align.SharedBuckets(**load_or_compute(cache / "shared.npz", compute, lengths))


def load_or_compute(
    path: Path, compute: Callable[[], Arrays], lengths: Mapping[str, int | None]
) -> Arrays:
    """Return the arrays of an `.npz` file; compute and save them if it is missing or damaged.

    `lengths` has the length of each array by its name; None for any length.
    """
    arrays = _read_npz(path)
    if arrays.keys() == lengths.keys() and all(
        length in (None, len(arrays[name])) for name, length in lengths.items()
    ):
        return arrays
    arrays = compute()
    # A failed write only means that the arrays are computed again next time.
    with suppress(UserError), atomic_file(path) as target, target.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return arrays


def _read_npz(path: Path) -> Arrays:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception:  # noqa: BLE001 (zip, zlib and NumPy raise a dozen kinds for damaged files)
        return {}
