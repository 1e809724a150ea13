"""The rotary embedding of a `config.json`, in the keys of `transformers` 4 and of 5.

Version 4 knows `rope_theta` and `rope_scaling`, version 5 `rope_parameters`. Either is read, and
both are written: a version finds the defaults of the class where it misses its keys.
"""

import math
from collections.abc import Mapping
from typing import Any

from jaxdistill.models.config import Rope, RopeKind
from jaxdistill.models.families.hf_config import HFConfigReader

ROPE_KINDS = {kind.value: kind for kind in RopeKind}

_SCALING_KEYS = {
    RopeKind.DEFAULT: {},
    RopeKind.LINEAR: {"factor": "factor"},
    RopeKind.LLAMA3: {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        "original_max_position_embeddings": "original_max_positions",
    },
    RopeKind.YARN: {
        "factor": "factor",
        "beta_slow": "low_freq_factor",
        "beta_fast": "high_freq_factor",
        "attention_factor": "attention_factor",
        "original_max_position_embeddings": "original_max_positions",
        "truncate": "is_truncated",
    },
}
"""Keys of each kind of scaling, and the attributes of `Rope` that they hold."""


def read_rope(reader: HFConfigReader) -> Rope:
    """Read the rotary embedding that all layers share.

    Its keys are `rope_theta` and `rope_scaling`, or just `rope_parameters` (transformers 5). Both
    have to agree, since each version reads its own.
    """
    given, parameters = (reader.given.get(key) for key in ("rope_theta", "rope_parameters"))
    nested = parameters.get("rope_theta") if isinstance(parameters, Mapping) else None
    if None not in (given, nested) and given != nested:
        reader.add_mistake("rope_theta", given, f"the same as in `rope_parameters`, {nested!r}")
    key = "rope_scaling" if reader.values.get("rope_scaling") else "rope_parameters"
    return parse_rope(reader, key, reader.values.get(key) or {}, reader.values["rope_theta"])


def parse_rope(reader: HFConfigReader, key: str, parameters: Any, base: Any) -> Rope:
    """Parse an object of rope parameters; `base` is the default of its `rope_theta`."""
    if not isinstance(parameters, Mapping):
        reader.add_mistake(key, parameters, "an object with a `rope_type`")
        return Rope(base=1.0)
    max_positions = reader.values["max_position_embeddings"]
    original = reader.values.get("original_max_position_embeddings")
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
    # A reader of its own, since the keys may be nested; its mistakes join the others.
    inner = HFConfigReader(values)
    kind = inner.choice("rope_type", ROPE_KINDS)
    base = inner.positive_float("rope_theta")
    if base == 1 and not inner.mistakes:
        inner.add_mistake("rope_theta", base, "a number above 1")
    if kind is RopeKind.LLAMA3:
        rope = _llama3_rope(inner, base)
    elif kind is RopeKind.YARN:
        rope = _yarn_rope(inner, base)
    else:
        factor = inner.positive_float("factor") if kind is RopeKind.LINEAR else 1.0
        rope = Rope(base=base, kind=kind, factor=factor)
    prefix = "config.json: "
    reader.mistakes += [prefix + f"{key}: " + line[len(prefix) :] for line in inner.mistakes]
    return rope


def _llama3_rope(reader: HFConfigReader, base: float) -> Rope:
    low, high = reader.positive_float("low_freq_factor"), reader.positive_float("high_freq_factor")
    if low >= high and not reader.mistakes:
        reader.add_mistake("high_freq_factor", high, f"a number above low_freq_factor, {low:g}")
    return Rope(
        base=base,
        kind=RopeKind.LLAMA3,
        factor=reader.positive_float("factor"),
        original_max_positions=reader.positive_int("original_max_position_embeddings"),
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _yarn_rope(reader: HFConfigReader, base: float) -> Rope:
    original = reader.positive_int("original_max_position_embeddings")
    factor = reader.optional_positive_float("factor")
    if factor is None:
        factor = reader.positive_int("max_position_embeddings") / original
    attention_factor = reader.optional_positive_float("attention_factor")
    if attention_factor is None:
        mscale, mscale_all_dim = (
            reader.positive_float(key) if reader.values.get(key) else 0.0
            for key in ("mscale", "mscale_all_dim")
        )
        attention_factor = _yarn_attention_factor(factor, 1.0)
        if mscale and mscale_all_dim:
            attention_factor = _yarn_attention_factor(factor, mscale)
            attention_factor /= _yarn_attention_factor(factor, mscale_all_dim)
    return Rope(
        base=base,
        kind=RopeKind.YARN,
        factor=factor,
        original_max_positions=original,
        low_freq_factor=reader.optional_positive_float("beta_slow") or 1.0,
        high_freq_factor=reader.optional_positive_float("beta_fast") or 32.0,
        attention_factor=attention_factor,
        is_truncated=reader.flag("truncate"),
    )


def _yarn_attention_factor(factor: float, mscale: float | int) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def rope_keys(rope: Rope) -> dict[str, Any]:
    """Return `rope_theta`, `rope_scaling` and `rope_parameters` of layers that share a rotation."""
    return {
        "rope_theta": rope.base,
        "rope_scaling": rope_scaling(rope),
        "rope_parameters": rope_parameters(rope),
    }


def rope_parameters(rope: Rope) -> dict[str, Any]:
    """Return an object of rope parameters, as `parse_rope` reads it."""
    keys = _SCALING_KEYS[rope.kind]
    scaling = {key: getattr(rope, name) for key, name in keys.items()}
    return {"rope_type": rope.kind.value, "rope_theta": rope.base, **scaling}


def rope_scaling(rope: Rope) -> dict[str, Any] | None:
    """Return the parameters without their base; None if the frequencies are not scaled."""
    if rope.kind is RopeKind.DEFAULT:
        return None
    parameters = rope_parameters(rope)
    del parameters["rope_theta"]
    return parameters
