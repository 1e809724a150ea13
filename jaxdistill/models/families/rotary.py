"""Reading the rotary embedding of a `config.json`, in the old keys and in the new."""

import math
from collections.abc import Mapping
from typing import Any

from jaxdistill.models.config import Rope, RopeKind
from jaxdistill.models.families.reading import Reader

KINDS = {kind.value: kind for kind in RopeKind}


def read_rope(reader: Reader) -> Rope:
    """The rotary embedding of a model whose layers share one.

    It stands in `rope_theta` and `rope_scaling`, or all in `rope_parameters` (transformers 5).
    """
    for key in ("rope_scaling", "rope_parameters"):
        if reader.hf.get(key):
            parameters = reader.hf[key]
            break
    else:
        key, parameters = "rope_parameters", {}
    return parse_rope(reader, key, parameters, reader.hf["rope_theta"])


def parse_rope(reader: Reader, where: str, parameters: Any, base: float | int) -> Rope:
    """One dictionary of rope parameters; `base` counts where it names none."""
    if not isinstance(parameters, Mapping):
        reader.mistake(where, parameters, "an object with a `rope_type`")
        return Rope(base=1.0)
    max_positions = reader.hf["max_position_embeddings"]
    original = reader.hf.get("original_max_position_embeddings")
    values = {
        "rope_theta": base,
        "max_position_embeddings": max_positions,
        "original_max_position_embeddings": max_positions,
        "truncate": True,
        **parameters,
    }
    if original is not None:
        values["original_max_position_embeddings"] = original
    values["rope_type"] = parameters.get("rope_type", parameters.get("type", "default"))
    # A reader of its own, since the keys may be nested; the mistakes are told with the rest.
    inner = Reader(values)
    kind = inner.choice("rope_type", KINDS)
    base = inner.number("rope_theta")
    if base == 1:
        inner.mistake("rope_theta", base, "a number above 1")
    rope = _PARSERS[kind](inner, base)
    prefix = "config.json: "
    reader.mistakes += [prefix + f"{where}: " + line[len(prefix) :] for line in inner.mistakes]
    return rope


def _default(reader: Reader, base: float) -> Rope:
    return Rope(base=base)


def _linear(reader: Reader, base: float) -> Rope:
    return Rope(base=base, kind=RopeKind.LINEAR, factor=reader.number("factor"))


def _llama3(reader: Reader, base: float) -> Rope:
    slow, fast = reader.number("low_freq_factor"), reader.number("high_freq_factor")
    if slow >= fast and not reader.mistakes:
        reader.mistake("high_freq_factor", fast, f"a number above low_freq_factor, {slow:g}")
    return Rope(
        base=base,
        kind=RopeKind.LLAMA3,
        factor=reader.number("factor"),
        original_positions=reader.integer("original_max_position_embeddings"),
        slow=slow,
        fast=fast,
    )


def _yarn(reader: Reader, base: float) -> Rope:
    original = reader.integer("original_max_position_embeddings")
    factor = reader.optional_number("factor")
    if factor is None:
        factor = reader.integer("max_position_embeddings") / original
    amplitude = reader.optional_number("attention_factor")
    if amplitude is None:
        above, below = (
            reader.number(key) if reader.hf.get(key) else 0.0
            for key in ("mscale", "mscale_all_dim")
        )
        amplitude = _amplitude(factor, 1.0)
        if above and below:
            amplitude = _amplitude(factor, above) / _amplitude(factor, below)
    return Rope(
        base=base,
        kind=RopeKind.YARN,
        factor=factor,
        original_positions=original,
        slow=reader.optional_number("beta_slow") or 1.0,
        fast=reader.optional_number("beta_fast") or 32.0,
        amplitude=amplitude,
        is_truncated=reader.flag("truncate"),
    )


def _amplitude(factor: float, scale: float | int) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


_PARSERS = {
    RopeKind.DEFAULT: _default,
    RopeKind.LINEAR: _linear,
    RopeKind.LLAMA3: _llama3,
    RopeKind.YARN: _yarn,
}
