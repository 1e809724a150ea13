"""`jaxdistill plan`: memory, exchanges and time of a run on devices that need not be there."""

import json

import jax
import pytest
import tiny

from jaxdistill.plan import topology
from jaxdistill.run import build, load_config
from jaxdistill.run.check import inspect
from jaxdistill.train import init_state

KEYS = {
    "fits",
    "hbm_bytes",
    "hbm_limit_bytes",
    "temporaries_bytes",
    "loss_temporaries_bytes",
    "estimated_mfu",
    "tokens_per_second_per_chip",
    "collectives",
}


@pytest.fixture
def plan(workspace, command):
    """Return a function that plans the workspace's run; the object that it prints."""

    def run(*options):
        code, stdout, stderr = command("plan", "config.yaml", *options, "--json")
        assert code == 0, stderr
        return json.loads(stdout)

    return run


def test_a_plan_has_the_memory_of_the_step_that_is_trained(workspace, plan):
    options = ("mesh.data=2", "mesh.fsdp=2")
    meshes = ("--mesh", "data=4", "--mesh", "data=2,fsdp=2")
    result = plan(*options, "--topology", "cpu:4", *meshes)
    assert set(result) >= KEYS
    sizes = [one["hbm_bytes"]["total"] for one in result["plans"]]
    assert sizes == sorted(sizes)  # best first
    result = next(one for one in result["plans"] if one["mesh"]["fsdp"] == 2)
    config = load_config("config.yaml", options)
    inspection = inspect(config)
    student = build.make_student(config, inspection)
    state = init_state(
        build.initial_student(config, inspection, None).params,
        student.optimizer,
        student.shardings,
    )
    for name, tree in {
        "parameters": (state.trainable, state.step),
        "optimizer": state.opt_state,
    }.items():
        held = [leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree)]
        assert result["hbm_bytes"][name] == sum(held)
    assert result["temporaries_bytes"] > result["loss_temporaries_bytes"] > 0
    assert result["hbm_limit_bytes"] is None
    assert result["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}


@pytest.mark.parametrize(
    "objectives", ["joint", pytest.param("two tokenizers", marks=pytest.mark.slow)]
)
def test_a_step_with_two_models_is_compiled_for_tpus(workspace, plan, objectives):
    pytest.importorskip("libtpu")
    options = ["train.batch_size=8", "teacher.dtype=bfloat16", "student.compute_dtype=bfloat16"]
    if objectives == "joint":
        bridge = "{type: hidden, layers: searched, bridge: pca}"
        options.append(f"objectives=[{{type: forward_kl}}, {bridge}, {{type: attention}}]")
    else:
        tokenizer = tiny.sentencepiece()
        tiny.model_folder(workspace / "other", reads=tokenizer, vocab_size=len(tokenizer))
        options += ["teacher.model=other", "objectives=[{type: uld}]"]
    result = plan(*options, "--topology", "v5e:2x4", "--mesh", "data=2,fsdp=2,tensor=2")
    assert result["fits"]
    assert result["hbm_limit_bytes"] > 15e9
    assert 0 < result["estimated_mfu"] < 1
    names = {name for one in result["collectives"] for name in one["axes"].split("+")}
    assert names == {"data", "fsdp", "tensor"}


MISTAKES = {
    ("--topology", "v9:2x2"): "--topology: v9:2x2 is not known. Write `v5e:4x4`",
    ("--topology", "gpu:a100x8"): "GPUs are `gpu:h100xN`",
    ("--topology", "cpu:900"): "expected a number of devices up to 256",
    ("--topology", "cpu:4", "--mesh", "fsdp=3"): "does not fit 4 device(s)",
    ("--topology", "cpu:²"): "expected a number of devices up to 256",
    ("--topology", "h100:2x2"): "--topology: h100:2x2 is not known",
    ("--topology", "cpu:4", "--mesh", "fsdp=-5"): "--mesh: 'fsdp=-5' is not a mesh",
    ("--topology", "cpu:4", "--mesh", "fsdp=2,fsdp=2"): "is not a mesh",
    ("--topology", "cpu:4", "--mesh", "pipe=3"): "--mesh: 'pipe=3' is not a mesh",
    ("train.batch_size=6", "--topology", "cpu:4"): "train.batch_size = 6 cannot be split evenly",
    ("--topology", "cpu:4", "--search"): "--search: the memory of a device of cpu:4 is not known",
}


@pytest.mark.parametrize("options", MISTAKES)
def test_a_mistake_is_one_line(workspace, command, options):
    code, _, stderr = command("plan", "config.yaml", *options)
    assert code == 2
    assert len(stderr.strip().splitlines()) == 1, stderr
    assert MISTAKES[options] in stderr


def test_a_missing_compiler_is_named(workspace, command, monkeypatch):
    def fail(**_):
        raise RuntimeError("JAX TPU support not installed; cannot generate TPU topology.")

    monkeypatch.setattr(topology.topologies, "get_topology_desc", fail)
    code, _, stderr = command("plan", "config.yaml", "--topology", "v5e:4x4")
    assert code == 2
    assert "pip install 'jaxdistill[tpu]'" in stderr


def test_a_program_that_is_too_large_does_not_fit(workspace, command, monkeypatch):
    message = "RESOURCE_EXHAUSTED: Used 35.60G of 15.75G hbm. Exceeded hbm capacity by 19.85G."

    def fail(_):
        raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    code, stdout, stderr = command("plan", "config.yaml", "--topology", "gpu:h100x4", "--json")
    assert code == 0, stderr
    result = json.loads(stdout)
    assert result["fits"] is False
    assert result["hbm_bytes"]["total"] == int(35.60 * 2**30)
