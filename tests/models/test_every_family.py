"""Laws that hold for every family, over tiny random models of several shapes."""

import jax
import numpy as np
import pytest
import torch
import transformers
from tiny_models import TIME, VARIANTS, Case, make_case, params_of, run, tensors_of

from jaxdistill.models import (
    FAMILIES,
    abstract_params,
    forward,
    init_cache,
    init_params,
    lm_head,
    parameter_axes,
    select_layers,
)

ATOL = 1e-4
"""What float32 logits may differ from those of `transformers`."""

SAME = 2e-5
"""What two ways to the same hidden states may differ."""


def reference(model: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


def test_every_family_is_tested() -> None:
    assert {hf["model_type"] for hf in VARIANTS.values()} == set(FAMILIES)


def test_logits_equal_transformers(case: Case, tokens: np.ndarray) -> None:
    np.testing.assert_allclose(
        case.logits(tokens), reference(case.original, tokens), atol=ATOL, rtol=0
    )


def test_config_reads_the_same_as_transformers_writes_it(case: Case) -> None:
    assert case.family.decoder_config(case.original.config.to_dict()) == case.config


def test_config_survives_the_round_trip(case: Case) -> None:
    written = case.family.hf_config(case.config, case.hf)
    assert case.family.decoder_config(written) == case.config
    assert written["architectures"] == [type(case.original).__name__]


def test_tensors_survive_the_round_trip_bit_for_bit(case: Case) -> None:
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


def test_rules_fill_the_tree(case: Case) -> None:
    shapes = jax.tree.map(np.shape, abstract_params(case.config))
    assert jax.tree.map(np.shape, case.params) == shapes
    axes = parameter_axes(case.config)
    ranks = jax.tree.map(len, axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    assert ranks == jax.tree.map(lambda leaf: leaf.ndim, abstract_params(case.config))


def test_a_changed_future_token_changes_nothing_earlier(case: Case, tokens: np.ndarray) -> None:
    changed = tokens.copy()
    changed[:, 15] = (tokens[:, 15] + 1) % 61
    before, after = (run(case.config, case.params, t) for t in (tokens, changed))
    np.testing.assert_array_equal(before[:, :15], after[:, :15])
    assert not np.allclose(before[:, 15], after[:, 15])


def test_packed_equals_unpacked(case: Case, tokens: np.ndarray) -> None:
    """Two texts in one row, and padding, against each alone (what follows changes nothing)."""
    alone = run(case.config, case.params, tokens)
    lengths = ((11, 9), (3, 21))
    places = np.arange(TIME)
    packed, positions, segments = np.empty((3, 2, TIME), int)
    for row, (first, second) in enumerate(lengths):
        ends = (first, first + second)
        segments[row] = np.where(places < ends[0], 1, np.where(places < ends[1], 2, 0))
        positions[row] = np.where(places < ends[0], places, (places - first) % TIME)
        packed[row] = np.concatenate([tokens[0, :first], tokens[1, : TIME - first]])
    together = run(case.config, case.params, packed, positions=positions, segment_ids=segments)
    assert np.isfinite(together).all()
    for row, (first, second) in enumerate(lengths):
        parts = together[row, :first], together[row, first : first + second]
        for part, expected in zip(parts, (alone[0, :first], alone[1, :second]), strict=True):
            np.testing.assert_allclose(part, expected, atol=SAME, rtol=0)


def test_cached_equals_uncached(case: Case, tokens: np.ndarray) -> None:
    """Prompts of unlike lengths in one cache, then three more tokens of each at once."""
    prompts, longest, more = np.array([4, 9]), 9, 3
    whole = run(case.config, case.params, tokens)
    places = np.broadcast_to(np.arange(longest), (2, longest))
    following = prompts[:, None] + np.arange(more)
    prompt = forward(
        case.config,
        case.params,
        tokens[:, :longest],
        positions=places,
        segment_ids=(places < prompts[:, None]).astype(int),
        cache=init_cache(case.config, 2, longest + more),
    )
    answer = forward(
        case.config,
        case.params,
        np.take_along_axis(tokens, following, axis=1),
        positions=following,
        segment_ids=np.ones_like(following),
        cache=prompt.cache,
    )
    assert int(answer.cache.length) == longest + more
    for row, length in enumerate(prompts):
        hidden = np.concatenate([prompt.hidden[row, :length], answer.hidden[row]])
        np.testing.assert_allclose(hidden, whole[row, : length + more], atol=SAME, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "gemma3"])
def test_fresh_parameters_fill_the_tree(name: str) -> None:
    config = make_case(name).config
    fresh = init_params(config, jax.random.key(0), "bfloat16")
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), fresh) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), abstract_params(config, "bfloat16")
    )
    other = init_params(config, jax.random.key(1), "bfloat16")
    assert not np.array_equal(fresh["embedding"], other["embedding"])


@pytest.mark.parametrize("name", ["gemma3"])
def test_remat_changes_no_gradient(name: str, tokens: np.ndarray) -> None:
    case = make_case(name)

    def loss(params, remat):
        return (run(case.config, params, tokens[:, :8], remat=remat) ** 2).mean()

    stored, recomputed = (jax.grad(loss)(case.params, remat) for remat in (False, True))
    for one, other in zip(jax.tree.leaves(stored), jax.tree.leaves(recomputed), strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, atol=SAME, rtol=1e-4)


def test_selected_layers_compute_what_they_did(case: Case, tokens: np.ndarray) -> None:
    """A decoder whose other layers add nothing is the decoder of the selected layers."""
    chosen = [0, 3]
    config, params = select_layers(case.config, case.params, chosen)
    assert config.num_layers == 2
    silent = np.isin(np.arange(4), chosen).astype(np.float32)
    layers = {part: dict(leaves) for part, leaves in case.params["layers"].items()}
    for part, name in (("attention", "output"), ("mlp", "down")):
        for leaf in (name, f"{name}_bias"):
            if leaf in layers[part]:
                array = layers[part][leaf]
                layers[part][leaf] = array * silent.reshape((-1,) + (1,) * (array.ndim - 1))
    expected = run(case.config, {**case.params, "layers": layers}, tokens)
    np.testing.assert_allclose(run(config, params, tokens), expected, atol=SAME, rtol=0)


def test_selected_layers_leave_for_transformers(case: Case, tokens: np.ndarray) -> None:
    config, params = select_layers(case.config, case.params, [1, 2])
    written = case.family.hf_config(config, case.original.config.to_dict())
    student = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**written), attn_implementation="eager"
    ).eval()
    tensors = tensors_of(case.family, config, params)
    state = {name: torch.tensor(tensor) for name, tensor in tensors.items()}
    missing, unexpected = student.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= ({"lm_head.weight"} if config.has_tied_embeddings else set())
    again = params_of(case.family, config, student)
    jax.tree.map(np.testing.assert_array_equal, again, jax.tree.map(np.asarray, params))
    ours = Case(written, case.family, config, student, params).logits(tokens)
    np.testing.assert_allclose(ours, reference(student, tokens), atol=ATOL, rtol=0)


def test_head_knows_the_real_vocabulary() -> None:
    case = make_case("gemma3-nested")
    assert lm_head(case.config, case.params).vocab_size == 61
    padded = lm_head(case.config, case.params, vocab_size=50)
    assert (padded.vocab_size, padded.matrix.shape, padded.soft_cap) == (50, (61, 24), 3.0)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_half_precision_stays_half_and_close(name: str, tokens: np.ndarray) -> None:
    case = make_case(name)
    half = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), case.params)
    hidden = run(case.config, half, tokens)
    assert hidden.dtype == "bfloat16"
    exact = run(case.config, case.params, tokens)
    error = np.abs(hidden.astype("float32") - exact).mean() / np.abs(exact).mean()
    assert error < 0.1
