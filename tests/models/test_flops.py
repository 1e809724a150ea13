"""Counted operations of a forward pass equal the compiler's, where no loop hides them."""

import jax
import pytest

from jaxdistill.models import FAMILIES, DecoderModel

WIDTHS = {"hidden_size": 256, "intermediate_size": 640, "num_attention_heads": 4}


@pytest.mark.parametrize("window", [None, 16])
def test_counted_operations_equal_the_compilers(window):
    hf = {
        "model_type": "qwen2",
        "vocab_size": 64,
        "num_hidden_layers": 1,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        **WIDTHS,
    }
    if window is not None:
        hf |= {"use_sliding_window": True, "sliding_window": window, "max_window_layers": 0}
    length, model = 64, DecoderModel(FAMILIES["qwen2"].decoder_config(hf))
    assert model.config.layers[0].window == window
    tokens = jax.ShapeDtypeStruct((1, length), "int32")
    compiled = (
        jax.jit(lambda p, t: model.forward(p, t, positions=t, segment_ids=t).hidden)
        .lower(model.abstract_params(), tokens)
        .compile()
    )
    keys = length if window is None else window
    hidden = length * length - (
        length * (length + 1) / 2 - (length - keys) * (length - keys + 1) / 2
    )
    # The dense kernel also computes the scores of keys that a query does not see.
    expected = model.forward_flops(length) + 4 * WIDTHS["hidden_size"] * hidden
    assert compiled.cost_analysis()["flops"] == pytest.approx(expected, rel=0.03)
