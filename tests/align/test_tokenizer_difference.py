"""Two tokenizers are equal when they encode alike, and only then."""

import tiny
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from jaxdistill.align import tokenizer_difference


def tokenizer_of(merges):
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: n for n, token in enumerate([*characters, "xq", "qz", "xqz"])}
    backend = Tokenizer(BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_a_tokenizer_built_twice_has_no_difference():
    assert tokenizer_difference(tiny.tokenizer(), tiny.tokenizer()) is None


def test_equal_sizes_do_not_suffice():
    student, teacher = tiny.tokenizer(), tiny.tokenizer()
    tokens = {token_id: token for token, token_id in teacher.get_vocab().items()}
    swapped = {tokens[300]: 301, tokens[301]: 300}

    class Swapped:
        def get_vocab(self):
            return {**teacher.get_vocab(), **swapped}

        def encode(self, text, *, add_special_tokens):
            return teacher.encode(text, add_special_tokens=add_special_tokens)

    difference = tokenizer_difference(student, Swapped())
    assert difference is not None
    assert "300" in difference


def test_equal_vocabularies_do_not_suffice():
    class Bytewise:
        def get_vocab(self):
            return tiny.tokenizer().get_vocab()

        def encode(self, text, *, add_special_tokens):
            del add_special_tokens
            return list(text.encode())

    difference = tokenizer_difference(tiny.tokenizer(), Bytewise())
    assert difference is not None
    assert "split differently" in difference


def test_other_merges_of_equal_vocabularies_show_in_a_tokens_text():
    difference = tokenizer_difference(
        tokenizer_of([("x", "q"), ("q", "z"), ("xq", "z")]), tokenizer_of([("x", "q"), ("q", "z")])
    )
    assert difference == "'xqz' is split differently"


def test_an_additional_token_is_named():
    teacher = tiny.tokenizer()
    teacher.add_tokens(["<think>"])
    difference = tokenizer_difference(tiny.tokenizer(), teacher)
    assert difference is not None
    assert "'<think>' to the teacher" in difference
