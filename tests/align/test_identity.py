"""Two tokenizers are one when they encode alike, and only then."""

import tiny
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from jaxdistill.align import tokenizer_difference


def made_of(merges):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: n for n, word in enumerate([*letters, "xq", "qz", "xqz"])}
    inner = Tokenizer(BPE(words, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def test_the_same_tokenizer_made_twice():
    assert tokenizer_difference(tiny.tokenizer(), tiny.tokenizer()) is None


def test_equal_sizes_do_not_suffice():
    student, teacher = tiny.tokenizer(), tiny.tokenizer()
    words = {number: word for word, number in teacher.get_vocab().items()}
    swapped = {words[300]: 301, words[301]: 300}

    class Swapped:
        def get_vocab(self):
            return {**teacher.get_vocab(), **swapped}

        def encode(self, text, *, add_special_tokens):
            return teacher.encode(text, add_special_tokens=add_special_tokens)

    found = tokenizer_difference(student, Swapped())
    assert found is not None
    assert "300" in found


def test_equal_vocabularies_do_not_suffice():
    class Bytewise:
        def get_vocab(self):
            return tiny.tokenizer().get_vocab()

        def encode(self, text, *, add_special_tokens):
            del add_special_tokens
            return list(text.encode())

    found = tokenizer_difference(tiny.tokenizer(), Bytewise())
    assert found is not None
    assert "split differently" in found


def test_equal_vocabularies_of_other_merges_are_told_by_their_words():
    found = tokenizer_difference(
        made_of([("x", "q"), ("q", "z"), ("xq", "z")]), made_of([("x", "q"), ("q", "z")])
    )
    assert found == "'xqz' is split differently"


def test_a_word_more_is_named():
    teacher = tiny.tokenizer()
    teacher.add_tokens(["<think>"])
    found = tokenizer_difference(tiny.tokenizer(), teacher)
    assert found is not None
    assert "'<think>' to the teacher" in found
