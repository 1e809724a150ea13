"""Laws that hold for every family, over tiny random models of several shapes."""

from dataclasses import replace
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from tiny_models import (
    COMPUTED,
    DISTINCT,
    TIME,
    VARIANTS,
    Case,
    make_case,
    params_of,
    run,
    tensors_of,
)

from jaxdistill.models import FAMILIES
from jaxdistill.models.decoder import (
    abstract_params,
    init_params,
    lm_head,
    parameter_axes,
    select_layers,
    with_layers,
)
from jaxdistill.models.execution import Execution, Remat

ATOL = 1e-4
"""Tolerance of float32 logits compared with those of `transformers`."""

HIDDEN_ATOL = 2e-5
"""Tolerance of hidden states that are computed in two ways."""

SELECTED = [0, 2, 3]
"""Selected layers: not contiguous, and their kinds are not those of the family's default."""


def reference(model: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


def test_every_family_is_tested() -> None:
    assert {hf["model_type"] for hf in VARIANTS.values()} == set(FAMILIES)


@pytest.mark.parametrize("name", COMPUTED)
def test_logits_equal_transformers(name: str, tokens: np.ndarray) -> None:
    case = make_case(name)
    np.testing.assert_allclose(
        case.logits(tokens), reference(case.original, tokens), atol=ATOL, rtol=0
    )


def test_a_config_that_transformers_wrote_reads_the_same(case: Case) -> None:
    assert case.family.decoder_config(case.original.config.to_dict()) == case.config


def test_config_round_trip_is_exact(case: Case) -> None:
    written = case.family.hf_config(case.config, case.hf)
    assert case.family.decoder_config(written) == case.config
    assert written["architectures"] == [type(case.original).__name__]


def test_tensor_round_trip_is_bit_exact(case: Case) -> None:
    written = tensors_of(case.family, case.config, case.params)
    state = {name: value.numpy() for name, value in case.original.state_dict().items()}
    tied = {"lm_head.weight"} if case.config.has_tied_embeddings else set()
    assert set(written) == set(state) - tied
    for name, tensor in written.items():
        assert tensor.shape == state[name].shape
        np.testing.assert_array_equal(tensor, state[name])
    shapes = {
        name: rule.shape
        for rule in case.family.tensor_rules(case.config)
        for _, name in rule.tensor_names(case.config.num_layers)
    }
    assert shapes == {name: tensor.shape for name, tensor in written.items()}


def test_rules_cover_every_parameter(case: Case) -> None:
    shapes = jax.tree.map(np.shape, abstract_params(case.config))
    assert jax.tree.map(np.shape, case.params) == shapes
    axes = parameter_axes(case.config)
    ranks = jax.tree.map(len, axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    assert ranks == jax.tree.map(lambda leaf: leaf.ndim, abstract_params(case.config))


@pytest.mark.parametrize("name", COMPUTED)
def test_a_future_token_does_not_change_earlier_hidden_states(
    name: str, tokens: np.ndarray
) -> None:
    case = make_case(name)
    changed = tokens.copy()
    changed[:, 15] = (tokens[:, 15] + 1) % 61
    before, after = (np.asarray(run(case.config, case.params, t)) for t in (tokens, changed))
    np.testing.assert_array_equal(before[:, :15], after[:, :15])
    assert not np.allclose(before[:, 15], after[:, 15])


@pytest.mark.parametrize("name", COMPUTED)
def test_packed_equals_unpacked(name: str, tokens: np.ndarray) -> None:
    """Two texts in one sequence, and padding, against each text alone."""
    case = make_case(name)
    alone = np.asarray(run(case.config, case.params, tokens))
    lengths = ((11, 9), (3, 21))
    indices = np.arange(TIME)
    packed, positions, segments = np.empty((3, 2, TIME), int)
    for row, (first, second) in enumerate(lengths):
        ends = (first, first + second)
        segments[row] = np.where(indices < ends[0], 1, np.where(indices < ends[1], 2, 0))
        positions[row] = np.where(indices < ends[0], indices, (indices - first) % TIME)
        packed[row] = np.concatenate([tokens[0, :first], tokens[1, : TIME - first]])
    together = np.asarray(
        run(case.config, case.params, packed, positions=positions, segment_ids=segments)
    )
    assert np.isfinite(together).all()
    for row, (first, second) in enumerate(lengths):
        parts = together[row, :first], together[row, first : first + second]
        for part, expected in zip(parts, (alone[0, :first], alone[1, :second]), strict=True):
            np.testing.assert_allclose(part, expected, atol=HIDDEN_ATOL, rtol=0)


def test_initial_parameters_have_the_abstract_shapes() -> None:
    """Every kind of parameter, among them biases, norms of queries and learned positions."""
    config = replace(
        make_case("gemma3-nested").config, has_learned_positions=True, initializer_range=0.3
    )
    params = init_params(config, jax.random.key(0), "bfloat16")
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), abstract_params(config, "bfloat16")
    )
    other = init_params(config, jax.random.key(1), "bfloat16")
    assert not np.array_equal(params["embedding"], other["embedding"])
    weights = np.asarray(params["layers"]["mlp"]["up"], np.float32)
    assert np.std(weights) == pytest.approx(config.initializer_range, rel=0.05)


@pytest.mark.parametrize("name", ["gemma3"])
def test_remat_does_not_change_gradients(name: str, tokens: np.ndarray) -> None:
    case = make_case(name)

    def loss(params, execution):
        return (run(case.config, params, tokens[:, :8], execution=execution) ** 2).mean()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    stored, *others = (gradient(case.params, Execution(remat=remat)) for remat in get_args(Remat))
    for recomputed in others:
        leaves = zip(jax.tree.leaves(stored), jax.tree.leaves(recomputed), strict=True)
        for expected, gradient in leaves:
            assert np.isfinite(expected).all()
            np.testing.assert_allclose(gradient, expected, atol=HIDDEN_ATOL, rtol=1e-4)


@pytest.mark.parametrize("name", DISTINCT)
def test_selected_layers_compute_the_same_as_before(name: str, tokens: np.ndarray) -> None:
    """A decoder whose other layers add nothing is the decoder of the selected layers."""
    case = make_case(name)
    config = with_layers(case.config, SELECTED)
    params = select_layers(case.config, numpy_params(case), SELECTED)
    assert config.num_layers == len(SELECTED)
    is_selected = np.isin(np.arange(4), SELECTED).astype(np.float32)
    layers = {part: dict(leaves) for part, leaves in numpy_params(case)["layers"].items()}
    for part, name in (("attention", "output"), ("mlp", "down")):
        for leaf in (name, f"{name}_bias"):
            if leaf in layers[part]:
                array = layers[part][leaf]
                layers[part][leaf] = array * is_selected.reshape((-1,) + (1,) * (array.ndim - 1))
    expected = run(case.config, {**case.params, "layers": layers}, tokens)
    np.testing.assert_allclose(run(config, params, tokens), expected, atol=HIDDEN_ATOL, rtol=0)


@pytest.mark.parametrize("name", DISTINCT)
def test_selected_layers_load_in_transformers(name: str, tokens: np.ndarray) -> None:
    case = make_case(name)
    config = with_layers(case.config, SELECTED)
    params = select_layers(case.config, numpy_params(case), SELECTED)
    written = case.family.hf_config(config, case.original.config.to_dict())
    student = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**written), attn_implementation="eager"
    ).eval()
    tensors = tensors_of(case.family, config, params)
    state = {name: torch.tensor(tensor) for name, tensor in tensors.items()}
    missing, unexpected = student.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= ({"lm_head.weight"} if config.has_tied_embeddings else set())
    reimported = params_of(case.family, config, student)
    jax.tree.map(np.testing.assert_array_equal, reimported, params)
    logits = Case(written, case.family, config, student, reimported).logits(tokens)
    np.testing.assert_allclose(logits, reference(student, tokens), atol=ATOL, rtol=0)


def numpy_params(case: Case) -> Any:
    return jax.tree.map(np.asarray, case.params)


def test_the_lm_head_has_the_given_vocabulary_size() -> None:
    case = make_case("gemma3-nested")
    assert lm_head(case.config, case.params).vocab_size == 61
    padded = lm_head(case.config, case.params, vocab_size=50)
    assert (padded.vocab_size, padded.matrix.shape, padded.soft_cap) == (50, (61, 24), 3.0)


@pytest.mark.parametrize("name", ["gpt2", "gemma3"])  # each norm and each kind of position
def test_half_precision_stays_half_and_close(name: str, tokens: np.ndarray) -> None:
    case = make_case(name)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), numpy_params(case))
    hidden = run(case.config, half, tokens)
    assert hidden.dtype == "bfloat16"
    exact = np.asarray(run(case.config, case.params, tokens))
    error = np.abs(np.asarray(hidden, np.float32) - exact).mean() / np.abs(exact).mean()
    assert error < 0.1
