"""Reading `config.json`: typed keys, defaults as in `transformers`, all mistakes at once."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from jaxdistill.errors import UserError, did_you_mean
from jaxdistill.models.config import Activation, DecoderConfig

Choice = TypeVar("Choice")

ACTIVATION_NAMES = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "relu": Activation.RELU,
}

MAX_NUMBER = 2**31
"""Numbers are below this: it is what an index can be, and no model has more of anything."""

_MAX_LAYERS = 10_000

FULL, SLIDING = "full_attention", "sliding_attention"
"""The words of `layer_types`."""

MOE_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size")


class HFConfigReader:
    """One `config.json`. Mistakes are kept until `finish`, so that all are told together.

    Args:
        hf: What the file says.
        defaults: What its missing keys stand for, as in `transformers`.
        aliases: Other names of the keys that are read.
    """

    def __init__(
        self,
        hf_config: Mapping[str, Any],
        defaults: Mapping[str, Any] | None = None,
        aliases: Mapping[str, str] | None = None,
    ):
        self._defaults = defaults or {}
        self.values: Mapping[str, Any] = {
            **self._defaults,
            **resolve_aliases(hf_config, aliases or {}),
        }
        self.mistakes: list[str] = []
        for key, name in (aliases or {}).items():
            self.require_equal_alias(hf_config, key, name)
        for key in MOE_KEYS:
            self.require_allowed(key, (None, 0, 1), "mixtures of experts are not supported")
        self.require_allowed(
            "quantization_config", (None,), "use the unquantised folder, or a .gguf file"
        )
        self.require_allowed(
            "partial_rotary_factor", (None, 1), "all channels of a head are rotated"
        )

    def positive_int(self, key: str) -> int:
        """A whole number above 0."""
        return int(self._positive_number(key, is_integer=True))

    def num_layers(self, key: str) -> int:
        """A whole number above 0 of which a list can be made."""
        number = self.positive_int(key)
        if number > _MAX_LAYERS:
            self.add_mistake(key, number, f"at most {_MAX_LAYERS:,} layers")
        return min(number, _MAX_LAYERS)

    def positive_float(self, key: str) -> float:
        """A number above 0."""
        return float(self._positive_number(key, is_integer=False))

    def optional_positive_int(self, key: str) -> int | None:
        """A whole number above 0, or null."""
        return None if self.values.get(key) is None else self.positive_int(key)

    def optional_positive_float(self, key: str) -> float | None:
        """A number above 0, or null."""
        return None if self.values.get(key) is None else self.positive_float(key)

    def flag(self, key: str) -> bool:
        """True or false; null stands for the default."""
        value = self.values.get(key)
        value = self._defaults.get(key, False) if value is None else value
        if not isinstance(value, bool):
            self.add_mistake(key, value, "true or false")
        return bool(value)

    def choice(self, key: str, choices: Mapping[str, Choice]) -> Choice:
        """What a word stands for."""
        word = self.values.get(key)
        if not isinstance(word, str) or word not in choices:
            advice = did_you_mean(str(word), list(choices))
            self.add_mistake(key, word, f"one of {', '.join(choices)}", advice)
            word = next(iter(choices))
        return choices[word]

    def require_allowed(self, key: str, allowed: Collection[Any], reason: str) -> None:
        """Refuse a key that is there with a value that cannot be honoured."""
        value = self.values.get(key)
        if value not in allowed:
            self.mistakes.append(f"config.json: `{key}` is {value!r}; {reason}.")

    def parse_layer_types(self, default: list[str], window: int | None) -> list[str]:
        """The kind of each layer, by name; `default` where the key is missing."""
        types = self.values.get("layer_types") or default
        known = isinstance(types, list) and all(word in (FULL, SLIDING) for word in types)
        if not known or len(types) != len(default):
            self.add_mistake("layer_types", types, f"{len(default)} words out of {FULL}, {SLIDING}")
            return default
        if window is None and SLIDING in types:
            self.add_mistake("sliding_window", window, f"a number: layer_types has {SLIDING}")
        return types

    def derived_head_dim(self, num_heads: int, heads_key: str, embed_key: str) -> int:
        """Channels of a head, where heads share the width between them."""
        embed_dim = self.values[embed_key]
        if not _is_positive(embed_dim, is_integer=True):
            return 2  # told already
        if embed_dim % num_heads:
            self.add_mistake(heads_key, num_heads, f"a divisor of {embed_key}, {embed_dim}")
        return embed_dim // num_heads

    def attention_head_sizes(self) -> tuple[int, int, int]:
        """Query heads, key/value heads (null: as many) and channels of a head (null: shared)."""
        heads = self.positive_int("num_attention_heads")
        kv_heads = self.optional_positive_int("num_key_value_heads") or heads
        head_dim = self.optional_positive_int("head_dim")
        if head_dim is None:
            head_dim = self.derived_head_dim(heads, "num_attention_heads", "hidden_size")
        if heads % kv_heads:
            self.add_mistake(
                "num_key_value_heads", kv_heads, f"a divisor of the {heads} query heads"
            )
        if head_dim % 2:
            self.add_mistake("head_dim", head_dim, "an even number: channels turn in pairs")
        return heads, kv_heads, head_dim

    def require_equal_alias(self, hf_config: Mapping[str, Any], alias: str, key: str) -> None:
        """Refuse two names of one thing that disagree."""
        if alias in hf_config and key in hf_config and hf_config[alias] != hf_config[key]:
            self.add_mistake(alias, hf_config[alias], f"the same as `{key}`, {hf_config[key]!r}")

    def add_mistake(self, key: str, value: Any, expected: str, advice: str = "") -> None:
        """Keep a finding for `finish`."""
        self.mistakes.append(f"config.json: `{key}` is {value!r}, expected {expected}.{advice}")

    def raise_mistakes(self) -> None:
        """Raise UserError if there was any mistake."""
        if self.mistakes:
            raise UserError(*self.mistakes)

    def _positive_number(self, key: str, *, is_integer: bool) -> float | int:
        if key not in self.values:
            self.mistakes.append(f"config.json: `{key}` is missing.")
            return 1
        value = self.values[key]
        if not _is_positive(value, is_integer=is_integer):
            self.add_mistake(
                key, value, "a whole number above 0" if is_integer else "a number above 0"
            )
            return 1
        return value


def _is_positive(value: Any, *, is_integer: bool) -> bool:
    good = int if is_integer else (int, float)
    return isinstance(value, good) and not isinstance(value, bool) and 0 < value < MAX_NUMBER


def resolve_aliases(hf_config: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    """The same keys, each under the name that the family reads."""
    return {aliases.get(key, key): value for key, value in hf_config.items()}


def layer_type_names(config: DecoderConfig) -> list[str]:
    """What `layer_types` says of a decoder."""
    return [FULL if kind.window is None else SLIDING for kind in config.layers]


def hf_activation_name(activation: Activation, original_name: Any) -> str:
    """The word for an activation: the original's own, where it means the same."""
    if isinstance(original_name, str) and ACTIVATION_NAMES.get(original_name) is activation:
        return original_name
    return next(word for word, value in ACTIVATION_NAMES.items() if value is activation)
