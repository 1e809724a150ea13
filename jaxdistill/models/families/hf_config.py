"""A reader of `config.json`: typed keys, the defaults of `transformers`, all mistakes at once."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from jaxdistill.errors import UserError, did_you_mean
from jaxdistill.models.config import Activation, DecoderConfig, LayerKind, Rope

HFConfig = Mapping[str, Any]
"""The content of a `config.json`."""

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
"""Exclusive limit of every number: an index of 32 bits, and more than any model needs."""

_MAX_LAYERS = 10_000

FULL, SLIDING = "full_attention", "sliding_attention"
"""The values of `layer_types`."""

MOE_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size")


class HFConfigReader:
    """A `config.json` whose mistakes are collected until `raise_mistakes`, to report all at once.

    Args:
        hf_config: Content of the file.
        defaults: Values of missing keys, as in `transformers`.
        aliases: Other keys, and the keys that they stand for.
    """

    def __init__(
        self,
        hf_config: HFConfig,
        defaults: Mapping[str, Any] | None = None,
        aliases: Mapping[str, str] | None = None,
    ):
        self._defaults = defaults or {}
        self.given = hf_config
        self.values: Mapping[str, Any] = {
            **self._defaults,
            **resolve_aliases(hf_config, aliases or {}),
        }
        self.mistakes: list[str] = []
        for alias, key in (aliases or {}).items():
            value, other = hf_config.get(alias), hf_config.get(key)
            if alias in hf_config and key in hf_config and value != other:
                self.add_mistake(alias, value, f"the same as `{key}`, {other!r}")
        for key in MOE_KEYS:
            self.require_allowed(key, (None, 0, 1), "mixtures of experts are not supported")
        self.require_allowed(
            "quantization_config", (None,), "use the unquantised folder, or a .gguf file"
        )
        self.require_allowed(
            "partial_rotary_factor", (None, 1), "all channels of a head are rotated"
        )

    def positive_int(self, key: str) -> int:
        """Read a whole number above 0."""
        return int(self._positive_number(key, is_integer=True))

    def num_layers(self, key: str) -> int:
        """Read a number of layers, above 0 and small enough to list the layers."""
        number = self.positive_int(key)
        if number > _MAX_LAYERS:
            self.add_mistake(key, number, f"at most {_MAX_LAYERS:,} layers")
        return min(number, _MAX_LAYERS)

    def positive_float(self, key: str) -> float:
        """Read a number above 0."""
        return float(self._positive_number(key, is_integer=False))

    def optional_positive_int(self, key: str) -> int | None:
        """Read a whole number above 0, or null (None)."""
        return None if self.values.get(key) is None else self.positive_int(key)

    def optional_positive_float(self, key: str) -> float | None:
        """Read a number above 0, or null (None)."""
        return None if self.values.get(key) is None else self.positive_float(key)

    def flag(self, key: str) -> bool:
        """Read true or false; null is the default."""
        value = self.values.get(key)
        value = self._defaults.get(key, False) if value is None else value
        if not isinstance(value, bool):
            self.add_mistake(key, value, "true or false")
        return bool(value)

    def choice(self, key: str, choices: Mapping[str, Choice]) -> Choice:
        """Read a name and return its value in `choices`."""
        name = self.values.get(key)
        if not isinstance(name, str) or name not in choices:
            advice = did_you_mean(str(name), list(choices))
            self.add_mistake(key, name, f"one of {', '.join(choices)}", advice)
            name = next(iter(choices))
        return choices[name]

    def activation(self, key: str) -> Activation:
        """Read the name of an activation function."""
        return self.choice(key, ACTIVATION_NAMES)

    def fields(self, keys: Mapping[str, str], *, skip: Collection[str] = ()) -> dict[str, Any]:
        """Read fields of `DecoderConfig` by their types; `keys` maps keys to their names."""
        readers = {
            int: self.positive_int,
            float: self.positive_float,
            bool: self.flag,
            Activation: self.activation,
        }
        types = DecoderConfig.__annotations__
        names = {name: key for key, name in keys.items() if name in types and name not in skip}
        return {name: readers[types[name]](key) for name, key in names.items()}

    def require_allowed(self, key: str, allowed: Collection[Any], reason: str) -> None:
        """Note a mistake if a key (None if missing) has none of the allowed values."""
        value = self.values.get(key)
        if value not in allowed:
            self.mistakes.append(f"config.json: `{key}` is {value!r}; {reason}.")

    def layer_kinds(
        self, default: list[str], window: int | None, full: Rope, sliding: Rope
    ) -> tuple[LayerKind, ...]:
        """Read `layer_types`, by default `default`; both types have their own rotation."""
        types = self.values.get("layer_types") or default
        is_known = isinstance(types, list) and all(name in (FULL, SLIDING) for name in types)
        if not is_known or len(types) != len(default):
            expected = f"a list of {len(default)} names, each {FULL} or {SLIDING}"
            self.add_mistake("layer_types", types, expected)
            types = default
        elif window is None and SLIDING in types:
            self.add_mistake("sliding_window", window, f"a number: layer_types contains {SLIDING}")
        kinds = {FULL: LayerKind(rope=full), SLIDING: LayerKind(window=window, rope=sliding)}
        return tuple(kinds[name] for name in types)

    def derived_head_dim(self, num_heads: int, heads_key: str, embed_key: str) -> int:
        """Return the channels of a head if the heads divide the embedding between them."""
        embed_dim = self.values[embed_key]
        if not _is_positive(embed_dim, is_integer=True):
            return 2  # a mistake that is noted where the key itself is read
        if embed_dim % num_heads:
            self.add_mistake(heads_key, num_heads, f"a divisor of {embed_key}, {embed_dim}")
        return embed_dim // num_heads

    def attention_fields(self) -> dict[str, int]:
        """Read the numbers of heads and the channels of a head, as fields of `DecoderConfig`.

        Without `num_key_value_heads` each query head has its own key/value head, and without
        `head_dim` the heads divide the embedding between them.
        """
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
            self.add_mistake("head_dim", head_dim, "an even number: channels are rotated in pairs")
        return {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": head_dim}

    def add_mistake(self, key: str, value: Any, expected: str, advice: str = "") -> None:
        """Note a mistake, for `raise_mistakes`."""
        self.mistakes.append(f"config.json: `{key}` is {value!r}, expected {expected}.{advice}")

    def raise_mistakes(self) -> None:
        """Raise a UserError that names every mistake, if there is any."""
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
    types = int if is_integer else (int, float)
    return isinstance(value, types) and not isinstance(value, bool) and 0 < value < MAX_NUMBER


def resolve_aliases(hf_config: HFConfig, aliases: Mapping[str, str]) -> dict[str, Any]:
    """Return the config with every alias replaced by the key that it stands for."""
    return {aliases.get(key, key): value for key, value in hf_config.items()}


def layer_type_names(config: DecoderConfig) -> list[str]:
    """Return the `layer_types` of a decoder."""
    return [FULL if kind.window is None else SLIDING for kind in config.layers]


def hf_activation_name(activation: Activation, original_name: Any) -> str:
    """Return the name of an activation: `original_name` if that is one of its names."""
    if isinstance(original_name, str) and ACTIVATION_NAMES.get(original_name) is activation:
        return original_name
    return next(name for name, value in ACTIVATION_NAMES.items() if value is activation)
