import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.config import configclass, dump, load
from jaxdistill.errors import UserError
from jaxdistill.sharding import MeshConfig, make_mesh, replicated_sharding
from jaxdistill.train import AdamW, TrainConfig, state_shardings
from jaxdistill.train.optimizer import weight_decay_mask
from jaxdistill.train.schedules import Constant, Cosine, Linear, OneCycle, WarmupStableDecay

PEAK, STEPS, WARMUP = 2.0, 100, 10

AXES = {
    "embedding": ("vocab", "embed"),
    "final_norm": {"scale": ("embed",), "bias": ("embed",)},
    "layers": {
        "attention": {
            "query": ("layers", "embed", "heads", "channels"),
            "query_bias": ("layers", "heads", "channels"),
        },
        "norm": {"scale": ("layers", "embed")},
    },
}


def learning_rates(schedule, warmup_steps=WARMUP):
    config = AdamW(learning_rate=PEAK, schedule=schedule, warmup_steps=warmup_steps)
    learning_rate = config.learning_rate_schedule(STEPS)
    return np.array([learning_rate(step) for step in range(STEPS)])


@pytest.mark.parametrize(
    "schedule",
    [Constant(), Linear(final_fraction=0.1), Cosine(), WarmupStableDecay(decay_steps=20)],
    ids=lambda schedule: schedule.type,
)
def test_learning_rate_rises_to_the_peak_and_then_never_rises(schedule):
    values = learning_rates(schedule)
    np.testing.assert_allclose(values[: WARMUP + 1], PEAK * np.arange(1, 12) / 11, rtol=1e-6)
    assert np.all(np.diff(values[WARMUP:]) <= 1e-6)
    assert values.min() >= 0
    assert values[0] > 0


def test_schedules_have_the_shape_of_their_names():
    np.testing.assert_allclose(learning_rates(Constant(), 0), PEAK)
    linear = learning_rates(Linear(final_fraction=0.5), 0)
    np.testing.assert_allclose(np.diff(linear), -0.5 * PEAK / STEPS, rtol=1e-3)
    cosine = learning_rates(Cosine(final_fraction=0.1), 0)
    np.testing.assert_allclose(cosine[50], PEAK * 0.55, rtol=1e-6)
    values = learning_rates(WarmupStableDecay(decay_steps=20))
    np.testing.assert_allclose(values[WARMUP:81], PEAK, rtol=1e-6)
    np.testing.assert_allclose(values[90], PEAK / 2, rtol=1e-6)


@pytest.mark.parametrize("num_steps", [5, 12, 19, 20, 1000])
@pytest.mark.parametrize(("rise", "div", "final_div"), [(0.1, 2, 5), (0.3, 25, 1e4)])
def test_one_cycle_equals_pytorch(num_steps, rise, div, final_div):
    torch = pytest.importorskip("torch")
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        sgd,
        max_lr=PEAK,
        total_steps=num_steps,
        pct_start=rise,
        div_factor=div,
        final_div_factor=final_div,
        cycle_momentum=False,
    )
    expected = []
    for _ in range(num_steps - 1):
        expected.append(cycle.get_last_lr()[0])
        sgd.step()
        cycle.step()
    expected.append(cycle.get_last_lr()[0])
    schedule = OneCycle(
        rise_fraction=rise, start_fraction=1 / div, final_fraction=1 / div / final_div
    )
    rate = AdamW(learning_rate=PEAK, schedule=schedule).learning_rate_schedule(num_steps)
    actual = [rate(step) for step in range(num_steps)]
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def test_one_cycle_by_hand():
    """Ten steps: from half the peak up to the peak at the second, down to a tenth at the last."""
    schedule = OneCycle(rise_fraction=0.2, start_fraction=0.5, final_fraction=0.1)
    rate = AdamW(learning_rate=1.0, schedule=schedule).learning_rate_schedule(10)
    np.testing.assert_allclose([rate(0), rate(1), rate(5), rate(9)], [0.5, 1.0, 0.55, 0.1])
    assert OneCycle(rise_fraction=0.1).after_warmup(1.0, 10)(0) == 1


@pytest.mark.parametrize(
    "optimizer",
    [
        AdamW(warmup_steps=91, schedule=OneCycle()),
        AdamW(warmup_steps=STEPS),
        AdamW(warmup_steps=10, schedule=WarmupStableDecay(decay_steps=91)),
    ],
)
def test_schedule_longer_than_the_run_is_refused(optimizer):
    with pytest.raises(UserError, match=r"_steps = (100|91)\b"):
        optimizer.learning_rate_schedule(STEPS)


def test_only_matrices_decay():
    mask = jax.tree.leaves_with_path(weight_decay_mask(AXES))
    names = [
        jax.tree_util.keystr(path, simple=True, separator=".") for path, decays in mask if decays
    ]
    assert names == ["embedding", "layers.attention.query"]

    shapes = jax.tree.map(len, AXES, is_leaf=lambda node: isinstance(node, tuple))
    params = jax.tree.map(lambda ndim: jnp.ones((2,) * ndim), shapes)
    optimizer = AdamW(weight_decay=0.1).make_optimizer(STEPS, AXES)
    gradient = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    is_updated = jax.tree.map(lambda update: bool(jnp.any(update != 0)), updates)
    assert is_updated == weight_decay_mask(AXES)


def test_first_update_is_that_of_adam():
    params, gradient = {"w": jnp.array([1.0, -2.0])}, {"w": jnp.array([3.0, -4.0])}
    for clip_norm in (None, 1.0):
        config = AdamW(learning_rate=0.1, schedule=Constant(), clip_norm=clip_norm, eps=1e-3)
        optimizer = config.make_optimizer(STEPS, {"w": ("embed",)})
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        clipped = np.array([3.0, -4.0]) * (1 if clip_norm is None else clip_norm / 5)
        expected = -0.1 * clipped / (np.abs(clipped) + 1e-3)
        np.testing.assert_allclose(updates["w"], expected, rtol=1e-5)


def test_moments_have_the_sharding_of_their_parameters():
    mesh = make_mesh(MeshConfig(data=1, fsdp=4))
    optimizer = AdamW(weight_decay=0.1).make_optimizer(STEPS, {"w": ("embed", "mlp")})
    shapes = {"w": jax.ShapeDtypeStruct((8, 2), "float32")}
    by_embed = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    shardings = state_shardings(mesh, shapes, {"w": by_embed}, optimizer)
    opt_state = jax.eval_shape(optimizer.init, shapes)
    for leaf, sharding in zip(
        jax.tree.leaves(opt_state), jax.tree.leaves(shardings.opt_state), strict=True
    ):
        assert sharding == (by_embed if leaf.ndim else replicated_sharding(mesh))


def test_config_survives_yaml():
    @configclass
    class Run:
        train: TrainConfig = TrainConfig()

    overrides = [
        "train.optimizer.schedule.type=warmup_stable_decay",
        "train.optimizer.schedule.decay_steps=5",
        "train.optimizer.learning_rate=1e-4",
    ]
    run = load(Run, None, overrides)
    assert run.train.optimizer.schedule == WarmupStableDecay(decay_steps=5)
    assert run.train.optimizer.learning_rate == 1e-4
    assert "decay_steps: 5" in dump(run)
    with pytest.raises(UserError, match="Did you mean `cosine`"):
        load(Run, None, ["train.optimizer.schedule.type=cosin"])
