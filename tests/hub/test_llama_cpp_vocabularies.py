"""Vocabularies of GGUF files in llama.cpp: tokens of mixed text and ends of text equal ours."""

import json
from pathlib import Path
from typing import Any

import pytest
from gguf_files import byte_level_metadata, sentencepiece_metadata, write_vocabulary
from llama_cpp import INSTALL, install_llama_cpp, read_vocabularies
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from jaxdistill.hub.gguf_pre_tokenizers import PROBE, pre_tokenizer_names
from jaxdistill.hub.gguf_special_tokens import special_token_ids
from jaxdistill.hub.gguf_tokenizer import build_gguf_tokenizer

pytestmark = pytest.mark.slow

TEXTS = (
    PROBE,
    "The cat is\n\n12  3   x,  and\ttabs\r\n 'RE you sure? 3333",
    "  lead  and trail   ",
    "def f(x):\n\treturn x**2 != 3 # ok\n\n\n",
    "مرحبا بالعالم ١٢٣ ४५६",
    "東京は2024年です。한국어 텍스트",
    "naïve café ÜBERmensch ½ ² Ⅷ",
    "a\u00a0b\u2003c\u3000d\u200be",
    "👩‍👩‍👧 👍🏽 🏳️‍🌈 !!?",
    '$5+3=8<9>1^2~x|y `code` "q" «z» “c” — …',
    "I'm you're they'll IT'S DON'T 'tis ’s",
    "1 22 333 4444 55555 1,234,567.89 0x1F",
    "\x01\x7f <s> the<s>the <s>  cat <|im_end|>\n<|im_start|>user",
    "\r\n\r\n \n \r \t\n x\n  y\n\n\n  z",
    *("\n", "  ", "   a", " \n a", "", "x" + " " * 40 + "y", "\t" * 9),
)

# llama.cpp's patterns for these lack the combining marks that the models' own have.
WITHOUT_MARKS = {"tekken", "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"}
MARKED_TEXTS = {PROBE}


def trained(pieces: Any, special: list[str], size: int) -> tuple[list[str], list[str]]:
    """Train merges that cross all borders between words, so that each split shows in the tokens."""
    draft = Tokenizer(BPE())
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if pieces else [],
        max_token_length=6,
        min_frequency=0,
        show_progress=False,
    )
    if pieces:
        draft.pre_tokenizer = pieces
    else:
        draft.normalizer = normalizers.Replace(" ", "▁")
    draft.train_from_iterator([part for text in TEXTS for part in (text, text[::-1])], trainer)
    model = json.loads(draft.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return tokens, [" ".join(merge) for merge in model["merges"]]


def byte_level(pre: str, **changes: Any) -> dict[str, Any]:
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>"]
    tokens, merges = trained(whole, special, 1500)
    types = [3] * len(special) + [1] * (len(tokens) - len(special))
    return byte_level_metadata(pre=pre) | {
        f"tokenizer.ggml.{key}": value
        for key, value in {
            "tokens": [*tokens, "[PAD]"],
            "token_type": [*types, 5],
            "merges": merges,
            "bos_token_id": 3,
            **changes,
        }.items()
    }


def sentencepiece(**changes: Any) -> dict[str, Any]:
    metadata = sentencepiece_metadata(**changes)
    learned, merges = trained(None, [], 800)
    known = set(metadata["tokenizer.ggml.tokens"])
    ranks = {merge.replace(" ", ""): -float(rank) for rank, merge in enumerate(merges)}
    new = [token for token in learned if token not in known]
    metadata["tokenizer.ggml.tokens"] += new
    metadata["tokenizer.ggml.scores"] += [ranks.get(token, -1e4) - 10 for token in new]
    metadata["tokenizer.ggml.token_type"] += [1] * len(new)
    return metadata


SENTENCEPIECE = {
    "prefix": {},
    "no prefix": {"add_space_prefix": False, "add_bos_token": True},
    "spaces": {
        "add_space_prefix": False,
        "add_bos_token": False,
        "spaces": ("  ", "   ", "\n\n", "\t\t"),
    },
}


@pytest.fixture(scope="module")
def llama_cpp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama_cpp")
    if not install_llama_cpp(folder):
        pytest.skip(f"llama.cpp cannot be installed: {INSTALL}")
    return folder


def compare(folder: Path, files: dict[str, dict[str, Any]], path: Path) -> None:
    models = {
        name: write_vocabulary(path / f"{number}.gguf", metadata)
        for number, (name, metadata) in enumerate(files.items())
    }
    # The first ids are those of the special tokens.
    results = read_vocabularies(folder, list(models.values()), texts=TEXTS, ids=range(4))
    for (name, metadata), result in zip(files.items(), results, strict=True):
        tokenizer = build_gguf_tokenizer(models[name], metadata)
        for text, expected in zip(TEXTS, result.tokens, strict=True):
            if not (name in WITHOUT_MARKS and text in MARKED_TEXTS):
                ids = tokenizer(text, add_special_tokens=False).input_ids
                assert ids == expected, f"{name}: {text!r}"
        has_bos = tokenizer("a").input_ids[0] == tokenizer.bos_token_id
        assert has_bos == result.adds_bos, name
        ends = special_token_ids(metadata)["eos_token_id"]
        assert sorted(ends if isinstance(ends, list) else [ends]) == result.end_ids, name


def test_every_pre_tokenizer_splits_as_llama_cpp(llama_cpp: Path, tmp_path: Path) -> None:
    names = pre_tokenizer_names()
    compare(llama_cpp, {name: byte_level(name) for name in names}, tmp_path)


@pytest.mark.parametrize("kind", SENTENCEPIECE)
def test_sentencepiece_vocabularies_tokenise_as_in_llama_cpp(
    kind: str, llama_cpp: Path, tmp_path: Path
) -> None:
    compare(llama_cpp, {kind: sentencepiece(**SENTENCEPIECE[kind])}, tmp_path)
