"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values. https://arxiv.org/abs/2407.10671.

Some layers may have a sliding window: those that `layer_types` names, or all from
`max_window_layers` on.
"""

from typing import Any, ClassVar

from jaxdistill.models.config import DecoderConfig, LayerKind
from jaxdistill.models.families.hf_config import (
    FULL,
    SLIDING,
    HFConfig,
    HFConfigReader,
    layer_type_names,
)
from jaxdistill.models.families.llama import Llama
from jaxdistill.models.families.rope_config import read_rope, rope_keys


class Qwen2(Llama):
    """`model_type` qwen2."""

    model_types: ClassVar = {"qwen2": "Qwen2ForCausalLM"}
    defaults: ClassVar = {
        **Llama.defaults,
        "vocab_size": 151_936,
        "intermediate_size": 22_016,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32_768,
        "sliding_window": 4096,
        "max_window_layers": 28,
    }

    def decoder_config(self, hf_config: HFConfig) -> DecoderConfig:
        """Read the keys of Qwen2Config."""
        reader = HFConfigReader(hf_config, self.defaults)
        fields = self._shared_fields(reader)
        config = DecoderConfig(
            **fields,
            layers=_layer_kinds(reader),
            has_query_key_value_bias=True,
            query_scale=fields["head_dim"] ** -0.5,
        )
        reader.raise_mistakes()
        return config

    def _hf_config_keys(self, config: DecoderConfig, original: HFConfig) -> dict[str, Any]:
        types, rope = layer_type_names(config), config.layers[0].rope
        assert rope is not None
        keys = rope_keys(rope)
        keys |= {"layer_types": types, "use_sliding_window": SLIDING in types}
        if SLIDING in types:
            # `layer_types` decides; the older key agrees with it for readers that know no other.
            first = types.index(SLIDING)
            keys |= {"sliding_window": config.layers[first].window, "max_window_layers": first}
        return keys


def _layer_kinds(reader: HFConfigReader) -> tuple[LayerKind, ...]:
    """Read the kind of each layer; none has a window unless `use_sliding_window` is true."""
    num_layers = reader.num_layers("num_hidden_layers")
    window = reader.optional_positive_int("sliding_window")
    window = window if reader.flag("use_sliding_window") else None
    first = reader.values["max_window_layers"]
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        reader.add_mistake("max_window_layers", first, "a whole number of at least 0")
        first = num_layers
    default = [SLIDING if window and i >= first else FULL for i in range(num_layers)]
    rope = read_rope(reader)
    return reader.layer_kinds(default, window, rope, rope)


FAMILY = Qwen2()
