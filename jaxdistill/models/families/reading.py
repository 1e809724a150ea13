"""Reading `config.json`: typed keys, defaults as in `transformers`, all mistakes at once."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from jaxdistill.errors import UserError, nearest
from jaxdistill.models.config import Activation, DecoderConfig

Choice = TypeVar("Choice")

ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "relu": Activation.RELU,
}

LARGEST = 2**31
"""Numbers are below this: it is what an index can be, and no model has more of anything."""

_MOST_LAYERS = 10_000

FULL, SLIDING = "full_attention", "sliding_attention"
"""The words of `layer_types`."""

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size")


class Reader:
    """One `config.json`. Mistakes are kept until `finish`, so that all are told together.

    Args:
        hf: What the file says.
        defaults: What its missing keys stand for, as in `transformers`.
        aliases: Other names of the keys that are read.
    """

    def __init__(
        self,
        hf: Mapping[str, Any],
        defaults: Mapping[str, Any] | None = None,
        aliases: Mapping[str, str] | None = None,
    ):
        self._defaults = defaults or {}
        self.hf: Mapping[str, Any] = {**self._defaults, **rename(hf, aliases or {})}
        self.mistakes: list[str] = []
        for key, name in (aliases or {}).items():
            self.expect_same(hf, key, name)
        for key in EXPERTS:
            self.expect(key, (None, 0, 1), "mixtures of experts are not supported")
        self.expect("quantization_config", (None,), "use the unquantised folder, or a .gguf file")
        self.expect("partial_rotary_factor", (None, 1), "all channels of a head are rotated")

    def integer(self, key: str) -> int:
        """A whole number above 0."""
        return int(self._number(key, whole=True))

    def num_layers(self, key: str) -> int:
        """A whole number above 0 of which a list can be made."""
        number = self.integer(key)
        if number > _MOST_LAYERS:
            self.mistake(key, number, f"at most {_MOST_LAYERS:,} layers")
        return min(number, _MOST_LAYERS)

    def number(self, key: str) -> float:
        """A number above 0."""
        return float(self._number(key, whole=False))

    def optional_integer(self, key: str) -> int | None:
        """A whole number above 0, or null."""
        return None if self.hf.get(key) is None else self.integer(key)

    def optional_number(self, key: str) -> float | None:
        """A number above 0, or null."""
        return None if self.hf.get(key) is None else self.number(key)

    def flag(self, key: str) -> bool:
        """True or false; null stands for the default."""
        value = self.hf.get(key)
        value = self._defaults.get(key, False) if value is None else value
        if not isinstance(value, bool):
            self.mistake(key, value, "true or false")
        return bool(value)

    def choice(self, key: str, choices: Mapping[str, Choice]) -> Choice:
        """What a word stands for."""
        word = self.hf.get(key)
        if not isinstance(word, str) or word not in choices:
            advice = nearest(str(word), list(choices))
            self.mistake(key, word, f"one of {', '.join(choices)}", advice)
            word = next(iter(choices))
        return choices[word]

    def expect(self, key: str, allowed: Collection[Any], reason: str) -> None:
        """Refuse a key that is there with a value that cannot be honoured."""
        value = self.hf.get(key)
        if value not in allowed:
            self.mistakes.append(f"config.json: `{key}` is {value!r}; {reason}.")

    def layer_types(self, default: list[str], window: int | None) -> list[str]:
        """The kind of each layer, by name; `default` where the key is missing."""
        types = self.hf.get("layer_types") or default
        known = isinstance(types, list) and all(word in (FULL, SLIDING) for word in types)
        if not known or len(types) != len(default):
            self.mistake("layer_types", types, f"{len(default)} words out of {FULL}, {SLIDING}")
            return default
        if window is None and SLIDING in types:
            self.mistake("sliding_window", window, f"a number: layer_types has {SLIDING}")
        return types

    def head_dim(self, heads: int, heads_key: str, embed_key: str) -> int:
        """Channels of a head, where heads share the width between them."""
        embed_dim = self.hf[embed_key]
        if not _is_positive(embed_dim, whole=True):
            return 2  # told already
        if embed_dim % heads:
            self.mistake(heads_key, heads, f"a divisor of {embed_key}, {embed_dim}")
        return embed_dim // heads

    def heads(self) -> tuple[int, int, int]:
        """Query heads, key/value heads (null: as many) and channels of a head (null: shared)."""
        heads = self.integer("num_attention_heads")
        kv_heads = self.optional_integer("num_key_value_heads") or heads
        head_dim = self.optional_integer("head_dim")
        if head_dim is None:
            head_dim = self.head_dim(heads, "num_attention_heads", "hidden_size")
        if heads % kv_heads:
            self.mistake("num_key_value_heads", kv_heads, f"a divisor of the {heads} query heads")
        if head_dim % 2:
            self.mistake("head_dim", head_dim, "an even number: channels turn in pairs")
        return heads, kv_heads, head_dim

    def expect_same(self, hf: Mapping[str, Any], key: str, name: str) -> None:
        """Refuse two names of one thing that disagree."""
        if key in hf and name in hf and hf[key] != hf[name]:
            self.mistake(key, hf[key], f"the same as `{name}`, {hf[name]!r}")

    def mistake(self, key: str, value: Any, expected: str, advice: str = "") -> None:
        """Keep a finding for `finish`."""
        self.mistakes.append(f"config.json: `{key}` is {value!r}, expected {expected}.{advice}")

    def finish(self) -> None:
        """Raise UserError if there was any mistake."""
        if self.mistakes:
            raise UserError(*self.mistakes)

    def _number(self, key: str, *, whole: bool) -> float | int:
        if key not in self.hf:
            self.mistakes.append(f"config.json: `{key}` is missing.")
            return 1
        value = self.hf[key]
        if not _is_positive(value, whole=whole):
            self.mistake(key, value, "a whole number above 0" if whole else "a number above 0")
            return 1
        return value


def _is_positive(value: Any, *, whole: bool) -> bool:
    good = int if whole else (int, float)
    return isinstance(value, good) and not isinstance(value, bool) and 0 < value < LARGEST


def rename(hf: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    """The same keys, each under the name that the family reads."""
    return {aliases.get(key, key): value for key, value in hf.items()}


def layer_types(config: DecoderConfig) -> list[str]:
    """What `layer_types` says of a decoder."""
    return [FULL if kind.window is None else SLIDING for kind in config.layers]


def activation_name(activation: Activation, original: Any) -> str:
    """The word for an activation: the original's own, where it means the same."""
    if isinstance(original, str) and ACTIVATIONS.get(original) is activation:
        return original
    return next(word for word, value in ACTIVATIONS.items() if value is activation)
