"""Teacher rollouts: completions are generated once, survive a kill, and are never stale."""

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
    """Completes each prompt with its last tokens, records its calls, and can be killed."""

    def __init__(self, dies_after: int = 1000):
        self.calls: list[tuple[list[list[int]], int, int]] = []
        self.dies_after = dies_after

    def __call__(self, prompts, seed, first):
        if len(self.calls) == self.dies_after:
            raise KeyboardInterrupt
        self.calls.append(([list(prompt) for prompt in prompts], seed, first))
        return [
            [*prompt[-3:], 10 + seed, 20 + first + n, TOKENIZER.eos_token_id]
            for n, prompt in enumerate(prompts)
        ]

    @property
    def prompts(self):
        return [prompt for batch, *_ in self.calls for prompt in batch]


def make_cache(directory, teacher, **fields):
    eos_ids = [TOKENIZER.eos_token_id]
    fields = {"identity": "a", "eos_ids": eos_ids, "directory": directory / "run"} | fields
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


def cache_file(tmp_path):
    (path,) = (tmp_path / "run").glob("rollout-*.jsonl")
    return path


def cache_lines(tmp_path):
    return [json.loads(line) for line in cache_file(tmp_path).read_text().splitlines()]


def test_exactly_the_generated_tokens_are_learned(tmp_path, config):
    teacher, progress = Teacher(), []
    cache = make_cache(tmp_path, teacher, on_batch=lambda *counts: progress.append(counts))
    prepared = prepare(config(), TOKENIZER, generation_cache=cache)
    assert len(prepared.train) + len(prepared.heldout) == 11
    assert prepared.counts.rows == 11
    for example in prepared.train:
        size = example.loss_mask.sum()
        assert size == 6  # nothing is added to what the teacher generated, and its end is learned
        assert example.loss_mask[-size:].all()
        text = TOKENIZER.decode(example.tokens)
        assert text.startswith("<|im_start|>user\nWhat is")
        assert "<|im_start|>assistant\n" in text
    split = read_split(config())
    assert {e.row_id for e in prepared.train} == {row.row_id for row in split.train}
    assert [len(teacher.prompts), progress[-1][:2]] == [10, (10, 10)]
    assert sum(new for _, _, new in progress) == 60
    assert [(seed, first) for _, seed, first in teacher.calls] == [(0, 0), (0, 3), (0, 6), (0, 9)]


def test_a_second_run_generates_nothing(tmp_path, config):
    first = prepare(config(), TOKENIZER, generation_cache=make_cache(tmp_path, Teacher()))
    unused = Teacher()
    second = prepare(config(), TOKENIZER, generation_cache=make_cache(tmp_path, unused))
    assert unused.calls == []
    assert tokens(first) == tokens(second)


@pytest.mark.parametrize("num_batches", [0, 1, 3])
@pytest.mark.parametrize("torn_bytes", [0, 1, 60])
def test_a_killed_rollout_ends_like_an_uninterrupted_one(tmp_path, config, num_batches, torn_bytes):
    whole = prepare(config(), TOKENIZER, generation_cache=make_cache(tmp_path / "whole", Teacher()))
    mortal = make_cache(tmp_path, Teacher(dies_after=num_batches))
    with pytest.raises(KeyboardInterrupt):
        prepare(config(), TOKENIZER, generation_cache=mortal)
    if num_batches:
        path = cache_file(tmp_path)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) - torn_bytes])
    resumed = Teacher()
    after = prepare(config(), TOKENIZER, generation_cache=make_cache(tmp_path, resumed))
    assert tokens(after) == tokens(whole)
    assert len(resumed.calls) == 4 - num_batches + (torn_bytes > 0 and num_batches > 0)
    lines = cache_lines(tmp_path)
    assert len({tuple(line["prompt_tokens"]) for line in lines}) == len(lines) == 10
    assert cache_file(tmp_path).read_bytes() == cache_file(tmp_path / "whole").read_bytes()


def test_other_options_or_another_teacher_generate_anew(tmp_path, config):
    prepare(config(), TOKENIZER, generation_cache=make_cache(tmp_path, Teacher()))
    for fields in ({"temperature": 0.5}, {"seed": 1}, {"top_p": 0.9}, {"max_new_tokens": 5}):
        teacher = Teacher()
        prepare(config(**fields), TOKENIZER, generation_cache=make_cache(tmp_path, teacher))
        assert len(teacher.calls) == 4, fields
    other = Teacher()
    prepare(config(), TOKENIZER, generation_cache=make_cache(tmp_path, other, identity="b"))
    assert len(other.calls) == 4
    same = Teacher()
    prepare(config(batch_size=7), TOKENIZER, generation_cache=make_cache(tmp_path, same))
    assert same.calls == []


def test_the_file_is_a_source_with_the_same_split_and_tokens(tmp_path, config):
    prepared = prepare(config(), TOKENIZER, generation_cache=make_cache(tmp_path, Teacher()))
    source = DataConfig(sources=(str(cache_file(tmp_path)),), heldout=0.3)
    again = prepare(source, TOKENIZER)
    for left, right in ((prepared.train, again.train), (prepared.heldout, again.heldout)):
        assert {tuple(e.tokens.tolist()) for e in left} == {tuple(e.tokens.tolist()) for e in right}
    line = cache_lines(tmp_path)[0]
    assert line["prompt"] == [{"role": "user", "content": "What is 0?"}]
    assert line["finished"] is True
    assert "<|im_end|>" not in line["completion"]


def test_another_tokenizer_reads_the_text_of_the_file(tmp_path, config):
    """All ids of one vocabulary may exist in another, with other meanings."""
    prepare(config(), TOKENIZER, generation_cache=make_cache(tmp_path, Teacher()))
    lines = cache_lines(tmp_path)
    text = tmp_path / "text.jsonl"
    text.write_text(
        "".join(json.dumps({k: line[k] for k in ("prompt", "completion")}) + "\n" for line in lines)
    )
    foreign = tmp_path / "foreign.jsonl"
    shifted = [
        {**line, "completion_tokens": [t + 1 for t in line["completion_tokens"]]} for line in lines
    ]
    foreign.write_text("".join(json.dumps(line) + "\n" for line in shifted))
    other = tiny.sentencepiece()
    for tokenizer, teacher_view, source in (
        (other, None, cache_file(tmp_path)),
        (TOKENIZER, None, foreign),
        (TOKENIZER, TeacherView(Renderer(other), AlignmentRule("spans")), cache_file(tmp_path)),
    ):
        actual, expected = (
            prepare(
                DataConfig(sources=(str(path),), heldout=0.3), tokenizer, teacher_view=teacher_view
            )
            for path in (source, text)
        )
        assert tokens(actual) == tokens(expected)
        assert actual.counts == expected.counts


def test_unfinished_and_empty_completions(tmp_path, config):
    unfinished = make_cache(tmp_path, lambda prompts, seed, first: [[65, 66] for _ in prompts])
    prepared = prepare(config(), TOKENIZER, generation_cache=unfinished)
    assert all(e.tokens[-2:].tolist() == [65, 66] for e in prepared.train)
    assert cache_lines(tmp_path)[0]["finished"] is False
    empty = make_cache(tmp_path / "empty", lambda prompts, seed, first: [[] for _ in prompts])
    with pytest.raises(UserError, match="nothing is left to learn"):
        prepare(config(), TOKENIZER, generation_cache=empty)


@pytest.mark.parametrize("student", [tiny.sentencepiece(), tiny.tokenizer(vocab_size=280)])
def test_a_teacher_of_another_tokenizer_reads_the_tokens_that_it_wrote(tmp_path, student):
    """Its template leaves reasoning out of a turn that is done, but it wrote the reasoning."""
    template = tiny.CHATML.replace("message['content']", "message['content'].split('</think>')[-1]")
    assert template != tiny.CHATML
    teacher = tiny.tokenizer(chat_template=template)
    answer = teacher.encode("<think>\nso 東京") + teacher.encode("</think>\nfour 東")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "2 and 2?"}\n')
    end = student.decode([Renderer(student).end_of_turn_id])
    for is_finished in (True, False):
        written = [*answer, teacher.eos_token_id] if is_finished else answer[:-1]
        cache = make_cache(tmp_path / str(is_finished), lambda *_, tokens=written: [tokens])
        prepared = prepare(
            DataConfig(
                sources=(str(rows),), heldout=0, rollout=TeacherRollout(), prompt_template="chat"
            ),
            student,
            generation_cache=cache,
            teacher_view=TeacherView(Renderer(teacher), AlignmentRule("spans"), "refuse"),
        )
        (example,) = prepared.train
        view = example.teacher_example
        assert view.tokens[view.loss_mask].tolist() == written
        learned = student.decode(example.tokens[example.loss_mask])
        assert learned.endswith(f"four 東{end}" if is_finished else "four")
        assert set(view.teacher_span_ids) - {-1} == set(view.student_span_ids) - {-1}


def test_a_prompt_that_leaves_no_room_is_not_completed(tmp_path, config):
    teacher = Teacher()
    short = DataConfig(**{**vars(config()), "length": 20})
    prepared = prepare(short, TOKENIZER, generation_cache=make_cache(tmp_path, teacher))
    assert 0 < len(teacher.prompts) < 10
    assert max(map(len, teacher.prompts)) <= 20
    assert prepared.counts.rows == 11
    assert prepared.counts.dropped_rows > 0


def test_rows_without_a_prompt_and_broken_files_are_named(tmp_path, config):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "no prompt"}\n{"prompt": "Why?"}\n')
    texts = DataConfig(sources=(str(path),), heldout=0.0, rollout=TeacherRollout())
    with pytest.raises(UserError, match=r"texts.jsonl:1: has no prompt for the teacher"):
        check_data(texts, TOKENIZER)
    assert check_data(config(), TOKENIZER).summary.startswith("9 rows to train on, 2 held out; ")
    prepare(config(), TOKENIZER, generation_cache=make_cache(tmp_path, Teacher()))
    rollout = cache_file(tmp_path)
    rollout.write_text('{"torn\n' + rollout.read_text())
    with pytest.raises(UserError, match=r"rollout-\w+.jsonl:1: not JSON"):
        prepare(config(), TOKENIZER, generation_cache=make_cache(tmp_path, Teacher()))


def test_a_full_disk_is_one_line(tmp_path, config, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"No space left on device.*is kept") as caught:
        prepare(config(), TOKENIZER, generation_cache=make_cache(tmp_path, Teacher()))
    assert len(caught.value.lines) == 1


def test_plain_prompts_have_no_end_token(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "The cat"}\n')
    plain = DataConfig(sources=(str(path),), heldout=0.0, rollout=TeacherRollout())
    tokenizer, teacher = tiny.tokenizer(bos=True), Teacher()
    prepare(plain, tokenizer, generation_cache=make_cache(tmp_path, teacher))
    assert teacher.prompts == [tokenizer("The cat")["input_ids"]]
    assert np.equal(teacher.prompts[0], tokenizer.bos_token_id).sum() == 1
