"""Tokenizers from the metadata of a GGUF file, by llama.cpp's rules.

A token keeps its id and its spelling, whatever letters it has. Tokens of type UNUSED fill the
vocabulary up to the rows of the embedding and are left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from jaxdistill.errors import UserError
from jaxdistill.hub.gguf_pre_tokenizers import pre_tokenizer_rule
from jaxdistill.hub.gguf_special_tokens import END_TOKENS, is_token_id

KEY_PREFIX = "tokenizer.ggml."
SPECIAL_TOKEN_KEYS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
"""Names of special tokens in `transformers`, and the keys of their ids after the prefix."""

SPACE = "\u2581"
"""SentencePiece's spelling of a space."""

# llama.cpp's ids of a SentencePiece vocabulary that does not name them.
_SENTENCEPIECE_IDS = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
_SPECIAL_TYPES = (TokenType.CONTROL, TokenType.UNKNOWN)


def build_gguf_tokenizer(path: Path, metadata: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Build the tokenizer of a GGUF file, with its special tokens and chat template.

    Raises:
        UserError: The file has none, its kind is not known here, or its parts contradict each
            other.
    """
    values = {
        key.removeprefix(KEY_PREFIX): value
        for key, value in metadata.items()
        if key.startswith(KEY_PREFIX)
    }
    try:
        tokenizer = _build(values, metadata.get("tokenizer.chat_template"))
    except UserError as error:
        raise UserError(*(f"{path}: {line}" for line in error.lines)) from None
    # Set afterwards: given a name, `transformers` looks up large vocabularies on the hub, to see if
    # they are Mistral's, and fails without a network.
    tokenizer.name_or_path = str(path)
    return tokenizer


def _build(values: Mapping[str, Any], chat_template: str | None) -> PreTrainedTokenizerBase:
    kind, tokens = values.get("model", "none"), values.get("tokens")
    if kind == "none" or not tokens:
        raise UserError("the file has no tokenizer. Use a file with one, or the model's folder.")
    if kind not in ("gpt2", "llama"):
        raise UserError(
            f"{KEY_PREFIX}model: `{kind}` is not one of gpt2, llama. Use the Hugging Face folder "
            "of this model."
        )
    types = values.get("token_type") or [TokenType.NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise UserError(
            f"{KEY_PREFIX}token_type: has {len(types):,} entries for {len(tokens):,} tokens."
        )
    if kind == "llama" and len(values.get("scores") or ()) != len(tokens):
        raise UserError(
            f"{KEY_PREFIX}scores: has {len(values.get('scores') or ()):,} entries for "
            f"{len(tokens):,} tokens."
        )
    types = [
        TokenType.CONTROL if token in END_TOKENS else kind
        for token, kind in zip(tokens, types, strict=True)
    ]
    # llama.cpp's values of keys that a file may leave out.
    if kind == "llama":
        values = {"add_space_prefix": True, "add_bos_token": True, **_SENTENCEPIECE_IDS, **values}
    else:
        adds_bos = pre_tokenizer_rule(values.get("pre")).adds_bos and "bos_token_id" in values
        values = {"add_bos_token": adds_bos, **values}
    special = {
        name: _token_at(tokens, values[key], key)
        for name, key in SPECIAL_TOKEN_KEYS.items()
        if values.get(key) is not None
        # Some converters write -1 where there is no padding token.
        and (name != "pad_token" or is_token_id(values[key], len(tokens)))
    }
    if kind == "llama" and not values["add_space_prefix"]:
        tokens = _mark_spaces(tokens)
    build = _build_sentencepiece if kind == "llama" else _build_byte_level
    try:
        backend = build(tokens, types, values)
    # `tokenizers` raises bare exceptions.
    except Exception as error:  # noqa: BLE001
        reason = " ".join(str(error).split())
        raise UserError(f"{KEY_PREFIX}merges: do not fit the tokens: {reason}") from None
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=chat_template,
        add_bos_token=values["add_bos_token"] and "bos_token" in special,
        add_eos_token=bool(values.get("add_eos_token")) and "eos_token" in special,
        **special,
    )
    _check_ids(tokenizer, tokens, types)
    return tokenizer


def _build_byte_level(
    tokens: Sequence[str], types: Sequence[int], values: Mapping[str, Any]
) -> Tokenizer:
    rule = pre_tokenizer_rule(values.get("pre"))
    vocabulary = {token: token_id for token_id, token in _used(tokens, types)}
    merges = [
        (left, right) for left, _, right in (m.partition(" ") for m in values.get("merges", ()))
    ]
    backend = Tokenizer(BPE(vocabulary, merges, ignore_merges=rule.ignores_merges))
    backend.pre_tokenizer = rule.splitter
    backend.decoder = decoders.ByteLevel()
    _add_whole_tokens(backend, tokens, types)
    return backend


def _build_sentencepiece(
    tokens: Sequence[str], types: Sequence[int], values: Mapping[str, Any]
) -> Tokenizer:
    """Build BPE with the merges that follow from the scores of tokens."""
    has_prefix = values["add_space_prefix"]
    vocabulary = {token: token_id for token_id, token in _used(tokens, types)}
    scores = values["scores"]
    merged = sorted(vocabulary, key=lambda token: -scores[vocabulary[token]])
    merges = [
        (token[:end], token[end:])
        for token in merged
        if types[vocabulary[token]] == TokenType.NORMAL
        for end in range(1, len(token))
        if token[:end] in vocabulary and token[end:] in vocabulary
    ]
    unknown = tokens[values["unknown_token_id"]]
    backend = Tokenizer(
        BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    prefix = [normalizers.Prepend(SPACE)] if has_prefix else []
    backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if has_prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    _add_whole_tokens(backend, tokens, types)
    return backend


def _mark_spaces(tokens: Sequence[str]) -> list[str]:
    """Return the tokens as a Hugging Face folder of the same model spells them.

    llama.cpp's converter writes spaces in a SentencePiece model's added tokens. With a space prefix
    they stay, since the prefix would come before the added token, too.
    """
    known = set(tokens)
    marked = [token.replace(" ", SPACE) for token in tokens]
    return [
        token if spelling in known else spelling
        for token, spelling in zip(tokens, marked, strict=True)
    ]


def _used(tokens: Sequence[str], types: Sequence[int]) -> Iterator[tuple[int, str]]:
    for token_id, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind != TokenType.UNUSED:
            yield token_id, token


def _add_whole_tokens(backend: Tokenizer, tokens: Sequence[str], types: Sequence[int]) -> None:
    """Add the tokens that are matched whole in the text, before it is split."""
    special, plain = [], []
    for token_id, token in _used(tokens, types):
        if types[token_id] in _SPECIAL_TYPES:
            special.append(AddedToken(token, special=True, normalized=False))
        elif types[token_id] == TokenType.USER_DEFINED:
            # Normalised text has the spaces that such a token spells.
            plain.append(AddedToken(token, special=False, normalized=SPACE in token))
    backend.add_special_tokens(special)
    backend.add_tokens(plain)


def _token_at(tokens: Sequence[str], token_id: object, key: str) -> str:
    if not is_token_id(token_id, len(tokens)):
        raise UserError(
            f"{KEY_PREFIX}{key}: {token_id!r} is no token; the file has {len(tokens):,}."
        )
    return tokens[token_id]


def _check_ids(
    tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str], types: Sequence[int]
) -> None:
    """Check that every token of the file has its id, and that there are no others."""
    ids = tokenizer.get_vocab()
    expected = dict(_used(tokens, types))
    wrong = [
        f"{KEY_PREFIX}tokens: token {token_id} {token!r} is also token {ids.get(token)}."
        for token_id, token in expected.items()
        if ids.get(token) != token_id
    ]
    added = [
        f"{KEY_PREFIX}tokens: {token!r} is a special token, but of type UNUSED."
        for token, token_id in ids.items()
        if token_id not in expected
    ]
    if wrong or added:
        raise UserError(*wrong, *added)
