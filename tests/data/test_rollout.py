"""The teacher's answers: written once, kept through a kill, never stale."""

import json

import numpy as np
import pytest

from jaxdistill.align import AlignmentRule
from jaxdistill.data import (
    DataConfig,
    GenerationCache,
    Renderer,
    TeacherRollout,
    TeacherView,
    check_data,
    prepare,
    read_split,
)
from jaxdistill.errors import UserError
from tests import tiny

TOKENIZER = tiny.tokenizer()


class Teacher:
    """Answers each prompt with its last tokens; counts what it is asked; can be killed."""

    def __init__(self, dies_after: int = 1000):
        self.asked: list[tuple[list[list[int]], int]] = []
        self.dies_after = dies_after

    def __call__(self, prompts, seed, first):
        if len(self.asked) == self.dies_after:
            raise KeyboardInterrupt
        self.asked.append(([list(p) for p in prompts], seed, first))
        return [
            [*p[-3:], 10 + seed, 20 + first + n, TOKENIZER.eos_token_id]
            for n, p in enumerate(prompts)
        ]


def writer(directory, teacher, **fields):
    eos = [TOKENIZER.eos_token_id]
    fields = {"identity": "a", "eos_ids": eos, "directory": directory / "run"} | fields
    return GenerationCache(generate=teacher, **fields)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"What is {'the cat ' * (n % 4)}{n}?"} for n in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))

    def make(**fields):
        rollout = TeacherRollout(**{"batch_size": 3, **fields})
        return DataConfig(
            sources=(str(path),), heldout=0.3, rollout=rollout, prompt_template="chat"
        )

    return make


def tokens(prepared):
    return [(e.row_id, e.tokens.tolist()) for e in (*prepared.train, *prepared.heldout)]


def file(tmp_path):
    (path,) = (tmp_path / "run").glob("rollout-*.jsonl")
    return path


def test_answers_are_learned_to_the_token(tmp_path, config):
    teacher, told = Teacher(), []
    prepared = prepare(
        config(),
        TOKENIZER,
        generation_cache=writer(tmp_path, teacher, on_batch=lambda *a: told.append(a)),
    )
    assert len(prepared.train) + len(prepared.heldout) == 11
    assert prepared.counts.rows == 11
    for example in prepared.train:
        size = example.loss_mask.sum()
        assert size == 6  # nothing is added to what the teacher wrote, its end is learned
        assert example.loss_mask[-size:].all()
        text = TOKENIZER.decode(example.tokens)
        assert text.startswith("<|im_start|>user\nWhat is")
        assert "<|im_start|>assistant\n" in text
    sides = read_split(config())
    assert {e.row_id for e in prepared.train} == {row.row_id for row in sides.train}
    assert [sum(len(batch) for batch, *_ in teacher.asked), told[-1][:2]] == [10, (10, 10)]
    assert sum(new for _, _, new in told) == 60
    assert [(seed, first) for _, seed, first in teacher.asked] == [(0, 0), (0, 3), (0, 6), (0, 9)]


def test_a_second_run_asks_nothing(tmp_path, config):
    first = prepare(config(), TOKENIZER, generation_cache=writer(tmp_path, Teacher()))
    again = Teacher()
    second = prepare(config(), TOKENIZER, generation_cache=writer(tmp_path, again))
    assert again.asked == []
    assert tokens(first) == tokens(second)


@pytest.mark.parametrize("deaths", [0, 1, 3])
@pytest.mark.parametrize("torn_bytes", [0, 1, 60])
def test_a_killed_rollout_ends_like_an_undisturbed_one(tmp_path, config, deaths, torn_bytes):
    whole = prepare(config(), TOKENIZER, generation_cache=writer(tmp_path / "whole", Teacher()))
    with pytest.raises(KeyboardInterrupt):
        prepare(config(), TOKENIZER, generation_cache=writer(tmp_path, Teacher(dies_after=deaths)))
    if deaths:
        path = file(tmp_path)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) - torn_bytes])
    resumed = Teacher()
    after = prepare(config(), TOKENIZER, generation_cache=writer(tmp_path, resumed))
    assert tokens(after) == tokens(whole)
    assert len(resumed.asked) == 4 - deaths + (torn_bytes > 0 and deaths > 0)
    lines = [json.loads(line) for line in file(tmp_path).read_text().splitlines()]
    assert len({tuple(line["prompt_tokens"]) for line in lines}) == len(lines) == 10
    assert file(tmp_path).read_bytes() == file(tmp_path / "whole").read_bytes()


def test_another_setting_or_teacher_writes_anew(tmp_path, config):
    prepare(config(), TOKENIZER, generation_cache=writer(tmp_path, Teacher()))
    for fields in ({"temperature": 0.5}, {"seed": 1}, {"top_p": 0.9}, {"max_new_tokens": 5}):
        teacher = Teacher()
        prepare(config(**fields), TOKENIZER, generation_cache=writer(tmp_path, teacher))
        assert len(teacher.asked) == 4, fields
    other = Teacher()
    prepare(config(), TOKENIZER, generation_cache=writer(tmp_path, other, identity="b"))
    assert len(other.asked) == 4
    same = Teacher()
    prepare(config(batch_size=7), TOKENIZER, generation_cache=writer(tmp_path, same))
    assert same.asked == []


def test_the_file_is_a_source_with_the_same_split_and_tokens(tmp_path, config):
    prepared = prepare(config(), TOKENIZER, generation_cache=writer(tmp_path, Teacher()))
    source = DataConfig(sources=(str(file(tmp_path)),), heldout=0.3)
    again = prepare(source, TOKENIZER)
    for one, other in ((prepared.train, again.train), (prepared.heldout, again.heldout)):
        assert {tuple(e.tokens.tolist()) for e in one} == {tuple(e.tokens.tolist()) for e in other}
    line = json.loads(file(tmp_path).read_text().splitlines()[0])
    assert line["prompt"] == [{"role": "user", "content": "What is 0?"}]
    assert line["finished"] is True
    assert "<|im_end|>" not in line["completion"]


def test_another_tokenizer_reads_the_text_of_the_file(tmp_path, config):
    """Its own ids may all exist there, and say something else."""
    prepare(config(), TOKENIZER, generation_cache=writer(tmp_path, Teacher()))
    lines = [json.loads(line) for line in file(tmp_path).read_text().splitlines()]
    path = tmp_path / "text.jsonl"
    path.write_text(
        "".join(json.dumps({k: row[k] for k in ("prompt", "completion")}) + "\n" for row in lines)
    )
    foreign = tmp_path / "foreign.jsonl"
    shifted = [
        {**row, "completion_tokens": [t + 1 for t in row["completion_tokens"]]} for row in lines
    ]
    foreign.write_text("".join(json.dumps(row) + "\n" for row in shifted))
    other = tiny.sentencepiece()
    for tokenizer, beside, source in (
        (other, None, file(tmp_path)),
        (TOKENIZER, None, foreign),
        (TOKENIZER, TeacherView(Renderer(other), AlignmentRule("spans")), file(tmp_path)),
    ):
        found, expected = (
            prepare(DataConfig(sources=(str(one),), heldout=0.3), tokenizer, teacher_view=beside)
            for one in (source, path)
        )
        assert tokens(found) == tokens(expected)
        assert found.counts == expected.counts


def test_unfinished_and_empty_answers(tmp_path, config):
    unfinished = writer(tmp_path, lambda prompts, seed, first: [[65, 66] for _ in prompts])
    prepared = prepare(config(), TOKENIZER, generation_cache=unfinished)
    assert all(e.tokens[-2:].tolist() == [65, 66] for e in prepared.train)
    line = json.loads(file(tmp_path).read_text().splitlines()[0])
    assert line["finished"] is False
    silent = writer(tmp_path / "silent", lambda prompts, seed, first: [[] for _ in prompts])
    with pytest.raises(UserError, match="nothing is left to learn"):
        prepare(config(), TOKENIZER, generation_cache=silent)


def test_a_prompt_that_leaves_no_room_is_not_asked(tmp_path, config):
    teacher = Teacher()
    short = DataConfig(**{**vars(config()), "length": 20})
    prepared = prepare(short, TOKENIZER, generation_cache=writer(tmp_path, teacher))
    asked = [prompt for batch, *_ in teacher.asked for prompt in batch]
    assert 0 < len(asked) < 10
    assert max(map(len, asked)) <= 20
    assert prepared.counts.rows == 11
    assert prepared.counts.dropped_rows > 0


def test_rows_without_a_prompt_and_broken_files_are_named(tmp_path, config):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "no prompt"}\n{"prompt": "Why?"}\n')
    texts = DataConfig(sources=(str(path),), heldout=0.0, rollout=TeacherRollout())
    with pytest.raises(UserError, match=r"texts.jsonl:1: has no prompt for the teacher"):
        check_data(texts, TOKENIZER)
    assert check_data(config(), TOKENIZER).startswith("9 rows to train on, 2 held out; ")
    prepare(config(), TOKENIZER, generation_cache=writer(tmp_path, Teacher()))
    rollout = file(tmp_path)
    rollout.write_text('{"torn\n' + rollout.read_text())
    with pytest.raises(UserError, match=r"rollout-\w+.jsonl:1: not JSON"):
        prepare(config(), TOKENIZER, generation_cache=writer(tmp_path, Teacher()))


def test_a_full_disk_is_one_line(tmp_path, config, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"No space left on device.*is kept") as caught:
        prepare(config(), TOKENIZER, generation_cache=writer(tmp_path, Teacher()))
    assert len(caught.value.lines) == 1


def test_plain_prompts_keep_no_end(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "The cat"}\n')
    plain = DataConfig(sources=(str(path),), heldout=0.0, rollout=TeacherRollout())
    tokenizer, teacher = tiny.tokenizer(bos=True), Teacher()
    prepare(plain, tokenizer, generation_cache=writer(tmp_path, teacher))
    ((asked, *_),) = teacher.asked
    assert asked == [tokenizer("The cat")["input_ids"]]
    assert np.equal(asked[0], tokenizer.bos_token_id).sum() == 1
