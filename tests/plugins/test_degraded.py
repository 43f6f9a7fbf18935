"""The data set ``degraded``: y is what its formula says, and models that need y train on it."""

import numpy as np
import pytest
import torch
from scoresde import Batches, Preprocessing, Processes, create, default_registry, plan_training
from scoresde_core.errors import ScoreSDEError

REGISTRY = default_registry()


@pytest.fixture
def images(tmp_path):
    """Forty pictures of 8 x 12 pixels; a tenth is held out."""
    np.savez(tmp_path / "a.npz", images=np.random.default_rng(0).integers(0, 256, (40, 8, 12), dtype=np.uint8))
    return f"array[path={tmp_path}/a.npz]"


def degraded(of, *params):
    return create("datasets", f"degraded[{','.join((f'of={of}', *params))}]")


def data_of(dataset, split="train"):
    return dataset.load(split).double() / 127.5 - 1


def test_events_are_those_of_the_other_set(images):
    data, inner = degraded(images), create("datasets", images)
    assert (data.shape, data.levels) == (inner.shape, inner.levels) == ((1, 8, 12), 256)
    assert torch.equal(data.load("test"), inner.load("test"))
    assert list(data.known()) == ["y"]


def test_what_the_other_set_knows_stays():
    data = degraded("exact[target=mixture2d,count=50]", "noise=0.5")
    known = data.known()
    assert sorted(known) == ["labels", "y"]
    assert known["y"].shape == (50, 2)


def test_means_stand_at_full_size(images):
    data = degraded(images, "by=average[factor=4]", "noise=0")
    x = data_of(data).numpy()
    blocks = x.reshape(36, 1, 2, 4, 3, 4).mean((3, 5), keepdims=True)
    expected = np.broadcast_to(blocks, (36, 1, 2, 4, 3, 4)).reshape(x.shape)
    np.testing.assert_allclose(data.known()["y"].numpy(), expected, atol=1e-6)


def test_a_box_is_zero(images):
    data = degraded(images, "by=mask[mask=box]", "noise=0")
    expected = data_of(data)
    expected[..., 2:6, 3:9] = 0
    torch.testing.assert_close(data.known()["y"].double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("width", [0.7, 2.0])
def test_a_blur_is_gaussian_with_repeated_edges(images, width):
    ndimage = pytest.importorskip("scipy.ndimage")
    data = degraded(images, f"by=blur[width={width}]", "noise=0")
    weights = {"mode": "nearest", "radius": max(1, round(4 * width)), "axes": (2, 3)}
    expected = ndimage.gaussian_filter(data_of(data).numpy(), width, **weights)
    np.testing.assert_allclose(data.known()["y"].numpy(), expected, atol=1e-6)


def test_noise_is_normal_and_keyed_by_seed_split_and_index(images, tmp_path):
    data = degraded(images, "noise=0.25")
    z = {split: (data.known(split)["y"].double() - data_of(data, split)) / 0.25 for split in ("train", "test")}
    numbers = z["train"].flatten()
    assert abs(float(numbers.mean())) < 4 / len(numbers) ** 0.5
    assert abs(float(numbers.var()) - 1) < 4 * (2 / len(numbers)) ** 0.5
    assert not torch.isclose(z["train"][:4], z["test"]).any()
    assert torch.equal(data.known()["y"], degraded(images, "noise=0.25").known()["y"])
    other = degraded(images, "noise=0.25", "seed=1").known()["y"]
    assert not torch.isclose(other, data.known()["y"]).all(1).any()
    with np.load(tmp_path / "a.npz") as file:
        np.savez(tmp_path / "b.npz", images=file["images"][:10])
    fewer = degraded(f"array[path={tmp_path}/b.npz]", "noise=0.25")
    torch.testing.assert_close(fewer.known()["y"], data.known()["y"][:9])


@pytest.mark.parametrize("centered", [True, False])
def test_batches_have_it_in_the_units_of_the_model_and_mirrored(images, centered):
    data = degraded(images, "noise=0")
    for flip in (False, True):
        preprocessing = Preprocessing(centered=centered, flip=flip, levels=256)
        batch = next(Batches(data, 36, preprocessing=preprocessing, needs=("y",)).stream())
        torch.testing.assert_close(batch.known["y"], batch.x, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("of", "params", "words"),
    [
        ("exact[target=mixture2d]", ["by=blur"], r"by=BlurOperator.* does not fit .* needs events with"),
        ("exact[target='gaussian[shape=[1,8,8]]']", ["by=average[factor=3]"], "choose a divisor"),
        ("exact[target=mixture2d]", ["by=fog"], "no operator is called 'fog'"),
        ("exact[target=mixture2d]", ["noise=-1"], "noise"),
    ],
)
def test_what_does_not_fit_is_one_line(of, params, words):
    with pytest.raises(ScoreSDEError, match=words) as caught:
        degraded(of, *params)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "network",
    [
        "mlp[width=8,cond_shape=[1,8,8],cond=y,label=t]",
        "ncsnpp[nf=8,ch_mult=[1,2],num_res_blocks=1,attn_resolutions=[],cond_channels=1,cond=y]",
    ],
    ids=["mlp", "ncsnpp"],
)
def test_networks_and_processes_that_need_y_take_a_step(tmp_path, network):
    """One step of training under OUVE, whose data drift to y."""
    np.savez(tmp_path / "a.npz", images=np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8))
    changes = [
        f"data.dataset=degraded[of=array[path={tmp_path}/a.npz],by=blur,noise=0.3]",
        "model.shape=[1,8,8]", "model.sde=ouve", f"model.network={network}",
        "training.batch_size=4", "training.warmup=0",
    ]  # fmt: skip
    trainer = plan_training(REGISTRY.create("presets", "mnist_vp").override(changes), REGISTRY).build(
        Processes(torch.device("cpu"))
    )
    before = {name: value.clone() for name, value in trainer.state.network.state_dict().items()}
    assert torch.isfinite(next(trainer.steps())).all()
    assert any(not torch.equal(value, before[name]) for name, value in trainer.state.network.state_dict().items())
