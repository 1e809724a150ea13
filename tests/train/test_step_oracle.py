"""Compare a run's step with a dense transcription: its recorded numbers and its gradient.

The step is that of a real run: config, check, build, data and compiled program. The transcription
(`dense_*.py`) reads the same rows and folders with `transformers` alone.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
import safetensors.torch
import tiny
import torch
import transformers
import yaml
from dense_cross_tokenizer import alm, gold, hybrid_kl, mined, projected_kl, uld
from dense_divergences import DIVERGENCES, cross_entropy, divergence
from dense_dual_space import dual_space
from dense_rows import Model, Rows, Values, read_row
from dense_taps import attention, hidden
from dense_transport import multi_level_ot, sinkhorn

from jaxdistill import data, hub
from jaxdistill.objectives import OBJECTIVES
from jaxdistill.run import build
from jaxdistill.run.check import inspect, inspect_rows
from jaxdistill.run.config import load_config
from jaxdistill.sharding import MeshConfig, batch_sharding, make_mesh
from jaxdistill.train import Frozen, init_state

VALUE_RTOL = 1e-4
GRADIENT_TOLERANCE = 1e-3
"""Largest error of a gradient, as a share of the largest element of its tensor."""

LENGTH = 48
TEXTS = [
    ("What is the capital of France?\n", "The capital of France is Paris."),
    ("Who saw it?\n", "the dog saw the cat"),
    ("Sum?\n", "It is 7."),
    ("Zürich?\n", "naïve café."),
]
"""Rows that fill two sequences in each tokenizer: several rows in one, padding in both."""

PEAK, WARMUP_STEPS, NUM_STEPS = 0.01, 2, 6

FORMULAS: dict[str, Callable[[Any, Rows], Values]] = {
    **dict.fromkeys(DIVERGENCES, divergence),
    "cross_entropy": cross_entropy,
    "uld": uld,
    "gold": gold,
    "hybrid_kl": hybrid_kl,
    "projected_kl": projected_kl,
    "mined": mined,
    "alm": alm,
    "sinkhorn": sinkhorn,
    "multi_level_ot": multi_level_ot,
    "dskd": dual_space,
    "dskd_cma": dual_space,
    "hidden": hidden,
    "attention": attention,
}

ONE_TOKENIZER = {
    "divergences": [
        {"type": "forward_kl", "weight": 0.9},
        {"type": "reverse_kl", "temperature": 2.0, "scale_by_temperature_squared": True},
        {"type": "jensen_shannon", "beta": 0.3, "weight": 9.0},
        {"type": "skew_kl", "weight": 5.0},
        {"type": "skew_reverse_kl", "weight": 3.0},
        {"type": "total_variation", "weight": 7.0},
        {"type": "cross_entropy", "weight": [[0, 0.5], [4, 0.1]]},
    ],
    "two vocabularies, transport, two spaces": [
        {"type": "uld"},
        {"type": "gold", "weight": 8.0},
        {"type": "hybrid_kl", "weight": 8.0},
        {"type": "projected_kl", "temperature": 1.5, "weight": 0.6},
        {"type": "mined", "weight": 1.7},
        {"type": "alm", "weight": 60.0},
        {"type": "sinkhorn", "k": 8, "weight": 5.0},
        {"type": "multi_level_ot", "gamma": 1.0, "weight": 3.0},
        {"type": "dskd", "weight": 0.25},
        {"type": "dskd_cma", "weight": 1.6},
    ],
    "inner layers": [
        {"type": "cross_entropy"},
        {"type": "hidden"},
        {"type": "attention"},
        {"type": "attention", "heads": "map", "distance": "mse", "positions": "all"},
        {"type": "attention", "heads": "relations", "relation_heads": 2, "layers": [[1, 1]]},
    ],
}
"""Weights give gradients of similar norms, so that an error in any of them is seen in the sum."""

# A run has one rule of alignment, so these cannot be fewer.
TWO_TOKENIZERS = {
    "rows": [{"type": "uld", "align": "spans", "k": 20}, {"type": "gold", "weight": 2.0}],
    "spans": [
        {"type": "gold", "average": "groups", "shared": "vocabulary", "beta": 0.3},
        {"type": "alm", "weight": 20.0},
        {"type": "alm", "weight": 20.0, "debias": 0.1},
    ],
    "positions": [
        {"type": "uld", "average": "groups"},
        {"type": "multi_level_ot", "gamma": 1.0},
        {"type": "cross_entropy", "weight": [[0, 0.5], [4, 0.1]]},
    ],
    "first tokens": [
        {"type": "projected_kl", "temperature": 1.5},
        {"type": "hybrid_kl", "average": "groups"},
        {"type": "sinkhorn", "k": 8, "weight": 5.0},
    ],
    "single tokens": [{"type": "mined"}, {"type": "dskd_cma"}],
    "inner layers": [
        {"type": "cross_entropy"},
        {"type": "hidden", "distance": "normalized_mse", "layers": [[2, 1]]},
        {"type": "attention", "layers": [[2, 1]]},
    ],
}
CASES = [
    pytest.param(number, objectives, id=f"{name}-{number}")
    for number, cases in ((1, ONE_TOKENIZER), (2, TWO_TOKENIZERS))
    for name, objectives in cases.items()
]


def test_every_objective_has_a_dense_formula_and_a_case():
    for number, cases in ((1, ONE_TOKENIZER), (2, TWO_TOKENIZERS)):
        covered = {objective["type"] for case in cases.values() for objective in case}
        for name in OBJECTIVES:
            assert name in FORMULAS, f"{name}: write its dense formula here"
            objective = OBJECTIVES[name]()
            if number == 1 or objective.is_cross_tokenizer or not objective.needs_teacher:
                assert name in covered, f"{name}: write a case with {number} tokenizer(s)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, a student, and a teacher of its tokenizer (1) and of another one (2)."""
    folder = tmp_path_factory.mktemp("oracle")
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in TEXTS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    byte_level, sentencepiece = tiny.tokenizer(), tiny.sentencepiece()
    save_model(folder / "student", byte_level, seed=0, tie_word_embeddings=True)
    wide = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3}
    save_model(folder / "teacher1", byte_level, seed=1, **wide)
    save_model(folder / "teacher2", sentencepiece, seed=2, **wide)
    return folder


def save_model(folder: Path, tokenizer: Any, *, seed: int, **options: Any) -> None:
    """Save a random Llama, 16 rows wider than its tokenizer, that is sure of some tokens."""
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer) + 16,
        **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, **options},
        intermediate_size=24,
        num_key_value_heads=1,
        max_position_embeddings=64,
        eos_token_id=2,
    )
    network = transformers.LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if "norm" in name else 0.4 * noise)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class Step:
    """Metrics of a run's first step, its gradient, and its update of the parameters."""

    config: Any
    metrics: dict[str, float]
    modules: dict[str, Any]
    """Modules of objectives before the step."""
    gradient: dict[str, np.ndarray]
    """Gradients by the name of the tensor in a Hugging Face folder, or of the module."""
    update: dict[str, np.ndarray]
    learning_rates: list[float]
    losses: list[float]
    """Both recorded in each step of the run; all steps have the same rows."""


def write_config(folder: Path, number: int, objectives: Sequence[dict[str, Any]]) -> Path:
    config = {
        "output": str(folder / "run"),
        "student": {"model": str(folder / "student")},
        "teacher": {"type": "online", "model": str(folder / f"teacher{number}")},
        "data": {"sources": str(folder / "rows.jsonl"), "heldout": 0, "length": LENGTH},
        "objectives": list(objectives),
        "train": {
            "steps": NUM_STEPS,
            "batch_size": 2,
            "accumulate": 2,
            "chunk_rows": 16,
            "log_every_steps": 1,
            "optimizer": {
                "learning_rate": PEAK,
                "warmup_steps": WARMUP_STEPS,
                "clip_norm": None,
                "weight_decay": 0,
            },
        },
        "evaluation": {"samples": 0, "speed": False},
        "mesh": {"data": 1, "tensor": 4},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def take_step(folder: Path, number: int, objectives: Sequence[dict[str, Any]]) -> Step:
    """Take the first step of a run, as `run/train.py` does, on one of the four fake devices."""
    config = load_config(write_config(folder, number, objectives))
    rows = data.read_split(config.data)
    inspection = inspect_rows(config, inspect(config), rows)
    inspection = replace(inspection, mesh=make_mesh(MeshConfig(), jax.devices()[:1]))
    student = build.make_student(config, inspection)
    teacher = build.load_teacher(config, inspection)
    prepared = data.prepare(
        config.data, inspection.tokenizer, split=rows, teacher_view=inspection.teacher_view
    )
    batches = data.shuffled_batches(
        prepared.train, length=LENGTH, batch_size=2, pack=config.data.pack, seed=config.seed
    )
    params = build.initial_student(config, inspection, teacher).params
    modules = predict_end_of_text(build.initial_modules(config, inspection), folder)
    before = init_state(params, student.optimizer, student.shardings, modules)
    initial = jax.device_get((before.params, before.modules))
    batch = jax.device_put(next(batches), batch_sharding(inspection.mesh))
    step = build.make_run_step(config, inspection, student)
    after, metrics = step(before, Frozen(teacher.params), batch)
    records = [metrics]
    moment = optax.tree.get(after.opt_state, "mu")
    gradient = jax.tree.map(lambda mean: np.asarray(mean) / (1 - 0.9), moment)

    def hf_tensors(name: str, params: Any, modules: Any) -> dict[str, np.ndarray]:
        path = folder / name
        hub.save(build.student_model(inspection, params).pretrained, path)
        tensors = safetensors.torch.load_file(path / "model.safetensors")
        return {key: t.numpy() for key, t in tensors.items()} | flatten(modules)

    gradients = [{name: gradient[name] for name in part} for part in initial]
    new, old = (
        hf_tensors("changed", *state)
        for state in (jax.device_get((after.params, after.modules)), initial)
    )
    while len(records) < NUM_STEPS:
        batch = jax.device_put(next(batches), batch_sharding(inspection.mesh))
        after, later_metrics = step(after, Frozen(teacher.params), batch)
        records.append(later_metrics)
    return Step(
        config,
        {name: float(value) for name, value in metrics.items()},
        initial[1],
        hf_tensors("gradient", *gradients),
        {name: new[name] - old[name] for name in new},
        [float(record["train/learning_rate"]) for record in records],
        [float(record["train/loss"]) for record in records],
    )


def predict_end_of_text(modules: Any, folder: Path) -> Any:
    """Let the projections to the student's space predict the end-of-text token.

    `dskd_cma` learns only where a projection predicts the label, which random ones never do.
    """
    tensors = safetensors.torch.load_file(folder / "student/model.safetensors")
    bias = 8 * tensors["model.embed_tokens.weight"][2].numpy()
    return {
        name: {**module, "to_student": {**module["to_student"], "bias": bias}}
        if "to_student" in module
        else module
        for name, module in modules.items()
    }


def flatten(modules: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(modules)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


@dataclass(frozen=True)
class Dense:
    """Expected values of a step."""

    metrics: dict[str, float]
    gradient: dict[str, np.ndarray]
    params: dict[str, np.ndarray]


def dense_step(folder: Path, number: int, step: Step) -> Dense:
    """Compute the metrics and the gradient of a step from its rows, in PyTorch."""
    student, teacher = Model(folder / "student"), Model(folder / f"teacher{number}")
    pairs = []
    for text in TEXTS:
        with torch.no_grad():
            read_by_teacher = read_row(teacher, *text)
        pairs.append((read_row(student, *text), read_by_teacher))
    teacher.network.requires_grad_(False)
    modules = jax.tree.map(
        lambda x: torch.tensor(x, dtype=torch.float64, requires_grad=True), step.modules
    )
    rows = Rows(student, teacher, pairs, modules)
    metrics, norms, loss = {}, {}, torch.zeros((), dtype=torch.float64)
    for name, objective in named(step.config.objectives):
        assert objective.type in FORMULAS, f"{objective.type}: write its dense formula here"
        weight = objective.weight
        if isinstance(weight, tuple):
            weight = metrics[f"{name}_weight"] = weight[0][1]  # the schedule's point at step 0
        values = FORMULAS[objective.type](objective, rows)
        for term, value in values.items():
            metrics[f"{name}_{term}" if term else name] = value.item()
        loss = loss + weight * values[""]
        norms[name] = gradient_norm(weight * values[""], student)
    loss.backward()
    trainable = dict(student.network.named_parameters()) | flatten(modules)
    gradient = {
        name: np.zeros(p.shape) if p.grad is None else p.grad.numpy()
        for name, p in trainable.items()
    }
    metrics |= {
        "loss": loss.item(),
        "grad_norm": np.sqrt(sum((g**2).sum() for g in gradient.values())),
        "learning_rate": PEAK / (WARMUP_STEPS + 1),
        "scored_tokens": rows.num_scored,
        "tokens": sum(len(side.tokens) for side, _ in pairs),
    }
    share = min(norms.values()) / metrics["grad_norm"]
    assert share > 0.05, f"an objective is lost beside the others: raise its weight ({norms})"
    params = {name: p.detach().numpy() for name, p in student.network.named_parameters()}
    return Dense(metrics, gradient, params)


def gradient_norm(loss: torch.Tensor, student: Model) -> float:
    parameters = list(student.network.parameters())
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return float(torch.stack([g.norm() for g in gradients if g is not None]).norm())


def named(objectives: Sequence[Any]) -> list[tuple[str, Any]]:
    """Name objectives by their type, and the second of a type `type_2`."""
    types = [objective.type for objective in objectives]
    counts = [types[: index + 1].count(name) for index, name in enumerate(types)]
    names = [name if n == 1 else f"{name}_{n}" for name, n in zip(types, counts, strict=True)]
    return list(zip(names, objectives, strict=True))


@pytest.mark.parametrize(("number", "objectives"), CASES)
def test_a_step_equals_its_dense_transcription(folder, number, objectives):
    step = take_step(folder, number, objectives)
    dense = dense_step(folder, number, step)
    param_norm = step.metrics.pop("train/param_norm")
    expected = {f"train/{name}": value for name, value in dense.metrics.items()}
    assert step.metrics.keys() == expected.keys()
    assert all(expected.values()), "a value is 0, so nothing is compared"
    differences = {
        name: (value, expected[name])
        for name, value in step.metrics.items()
        if not np.isclose(value, expected[name], rtol=VALUE_RTOL, atol=1e-7)
    }
    assert not differences
    assert_same_gradient(step, dense)
    assert_first_update(step, dense)
    # Warm-up from peak / 3 to the peak in two steps, then half a cosine over four.
    factors = [1 / 3, 2 / 3, *(np.cos(np.pi * np.arange(4) / 4) / 2 + 0.5)]
    np.testing.assert_allclose(step.learning_rates, PEAK * np.array(factors), rtol=VALUE_RTOL)
    assert step.losses[-1] < step.losses[0]
    new_params = [dense.params[name] + step.update[name] for name in dense.params]
    norm = np.sqrt(sum((p**2).sum() for p in new_params))
    np.testing.assert_allclose(param_norm, norm, rtol=VALUE_RTOL)


def assert_same_gradient(step: Step, dense: Dense) -> None:
    assert step.gradient.keys() == dense.gradient.keys()
    errors = {}
    for name, expected in dense.gradient.items():
        largest = np.abs(expected).max()
        assert largest > 0, f"{name}: its gradient is 0, so nothing is compared"
        errors[name] = np.abs(step.gradient[name] - expected).max() / largest
    assert max(errors.values()) < GRADIENT_TOLERANCE, errors


def assert_first_update(step: Step, dense: Dense) -> None:
    """AdamW's first update is the learning rate times the sign of each gradient above rounding."""
    scales = {o.type: getattr(o, "learning_rate_scale", 1) for o in step.config.objectives}
    for name, gradient in dense.gradient.items():
        is_clear = np.abs(gradient) > 0.01 * np.abs(gradient).max()
        scale = next((s for kind, s in scales.items() if name.startswith(f"['{kind}']")), 1)
        expected = -scale * dense.metrics["learning_rate"] * np.sign(gradient)
        update = step.update[name]
        np.testing.assert_allclose(update[is_clear], expected[is_clear], rtol=1e-3, err_msg=name)
