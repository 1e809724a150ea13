"""Pre-tokenizers of llama.cpp by name: how each splits text, and what else its name implies."""

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer

from jaxdistill.errors import UserError, did_you_mean

PROBE = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶‍🌫️ (several) ✅ 🦙🦙 3 33 "
    "333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេស Zürich 東京 нещо на Български "
    "''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not "
    "SURE I'll make it, 'D you like some tea? We'Ve a'lL camelCase HTTPServer x_1=2;\r\n\r\n/*c*/  "
)
"""Text on which llama.cpp's ways to split a text all differ."""

_DEFAULT_NAME = "default"
"""llama.cpp's pre-tokenizer for a file that names none."""

# Names that share a way to split; the first is the one to write.
_GPT2_NAMES = ("gpt-2", "phi-2", "olmo", "mpt", "gigachat", "mellum", "a.x-4.0", "exaone4", "jais")
_SMOLLM_NAMES = (
    *("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
)
_LLAMA3_NAMES = (
    *("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    "jina-v5-nano",
)
_QWEN2_NAMES = ("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan")
_GPT4O_NAMES = ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2")


class PreTokenizerRule(NamedTuple):
    """Splitter and flags that llama.cpp derives from the name of a pre-tokenizer.

    Attributes:
        splitter: Splits text into the pieces that merges do not cross.
        ignores_merges: A piece that is a token by itself is not split by merges.
        adds_bos: BOS is added unless the file says otherwise.
    """

    splitter: PreTokenizer
    ignores_merges: bool = False
    adds_bos: bool = False


def pre_tokenizer_rule(name: str | None) -> PreTokenizerRule:
    """Return llama.cpp's rule for a `tokenizer.ggml.pre`; None stands for a file without one.

    Raises:
        UserError: The name is not known here.
    """
    rules = _rules()
    if name is None:
        return rules[_DEFAULT_NAME]
    if name not in rules:
        raise UserError(
            f"tokenizer.ggml.pre: `{name}` is not one of the pre-tokenizers known here, so the "
            f"text would be split wrongly.{did_you_mean(str(name), pre_tokenizer_names())} Use the "
            "Hugging Face folder of this model, whose tokenizer.json is read as it is."
        )
    return rules[name]


def pre_tokenizer_names() -> tuple[str, ...]:
    """Return all known names."""
    return tuple(_rules())


def pre_tokenizer_name(backend: Tokenizer, *, ignores_merges: bool) -> str:
    """Return llama.cpp's name of a tokenizer's way to split a text.

    llama.cpp's converter compares token ids of a probe text, and so knows published vocabularies
    only. Comparing how the text is split works for any vocabulary.

    Raises:
        UserError: llama.cpp has no such pre-tokenizer.
    """
    if backend.pre_tokenizer is not None:
        pieces = backend.pre_tokenizer.pre_tokenize_str(PROBE)
        for name, rule in _rules().items():
            is_whole = rule.ignores_merges == ignores_merges
            if is_whole and rule.splitter.pre_tokenize_str(PROBE) == pieces:
                return name
    raise UserError(
        "format=gguf: the tokenizer splits text in a way without a known name in llama.cpp; known "
        f"are {', '.join(pre_tokenizer_names())}. Use `--format safetensors`."
    )


@cache
def _rules() -> Mapping[str, PreTokenizerRule]:
    # Imported here, since this name is private: without it, folders can still be read.
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    llama3 = _splitter(GGUF_PRE_TOKENIZER_SPLITS["llama-bpe"])
    tekken = _splitter(GGUF_PRE_TOKENIZER_SPLITS["tekken"])
    return {
        **dict.fromkeys(_GPT2_NAMES, PreTokenizerRule(gpt2)),
        **dict.fromkeys(_SMOLLM_NAMES, PreTokenizerRule(pre_tokenizers.Sequence([digits, gpt2]))),
        **dict.fromkeys(
            _LLAMA3_NAMES, PreTokenizerRule(llama3, ignores_merges=True, adds_bos=True)
        ),
        **dict.fromkeys(("smaug-bpe", "dbrx"), PreTokenizerRule(llama3)),
        **dict.fromkeys(
            _QWEN2_NAMES, PreTokenizerRule(_splitter(GGUF_PRE_TOKENIZER_SPLITS["qwen2"]))
        ),
        "tekken": PreTokenizerRule(tekken, ignores_merges=True, adds_bos=True),
        **dict.fromkeys(
            _GPT4O_NAMES, PreTokenizerRule(_splitter(GGUF_PRE_TOKENIZER_SPLITS["gpt-4o"]))
        ),
        "deepseek-coder": PreTokenizerRule(
            _splitter(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}")
        ),
        _DEFAULT_NAME: PreTokenizerRule(
            _splitter(
                r"[\p{P}\$\+<=>\^~\|]+",
                r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
                r"\p{N}+",
                "[0-9][0-9][0-9]",
            )
        ),
    }


def _splitter(*patterns: str) -> PreTokenizer:
    """Return a pre-tokenizer that applies each pattern to the pieces of the one before."""
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*splits, byte_level])
