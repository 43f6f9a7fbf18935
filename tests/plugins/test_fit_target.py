"""``scoresde fit-target`` from images on disk to a target in the bench, and the data sets it reads."""

import numpy as np
import pytest
import torch
from scoresde_core import create
from scoresde_core.errors import FileError
from scoresde_run.commands.shell import main


@pytest.fixture
def images(tmp_path):
    """300 images of a bright bar, left or right, in an .npz file."""
    generator = np.random.default_rng(0)
    array = generator.integers(0, 40, (300, 6, 5), dtype=np.uint8)
    side = generator.integers(0, 2, 300)
    array[np.arange(300), :, np.where(side == 0, 1, 3)] = generator.integers(180, 250, (300, 6), dtype=np.uint8)
    np.savez(tmp_path / "bars.npz", images=array)
    return tmp_path / "bars.npz", array


def fit(*arguments):
    return main(["fit-target", *map(str, arguments)])


def test_a_fitted_target_has_the_modes_of_its_data(images, tmp_path, capsys):
    path, array = images
    out = tmp_path / "bars.safetensors"
    assert fit(f"npz[path={path}]", "--components", 2, "--factors", 1, "--iterations", 8, "--out", out) == 0
    printed = capsys.readouterr()
    assert "held-out log-likelihood" in printed.out
    assert "iteration 8 of 8" in printed.err
    target = create("targets", f"mfa[file={out}]")
    assert target.shape == (1, 6, 5)
    mean, _ = target.moments()
    train = np.delete(array, np.arange(9, 300, 10), axis=0).reshape(270, -1)
    np.testing.assert_allclose(mean.numpy(), (train + 0.5).mean(0) / 128 - 1, atol=0.01)
    right = (array[:, :, 3].mean(1) > 100).mean()
    assert float(target.modes().max()) == pytest.approx(max(right, 1 - right), abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["npz[path=nowhere.npz]", "--out", "x.safetensors"], 3, "nowhere.npz"),
        (["npz[path={data},key=pictures]", "--out", "x.safetensors"], 2, "none called 'pictures'"),
        (["npz", "--out", "x.safetensors"], 2, "needs path"),
        (["npz[path={data},test_share=2]", "--out", "x.safetensors"], 2, "test_share"),
        (["npz[path={data}]", "--components", "0", "--out", "x.safetensors"], 2, "got 0"),
        (["npz[path={data}]", "--images", "0", "--out", "x.safetensors"], 2, "--images"),
        (["npz[path={data}]", "--out", "{data}"], 3, "exists"),
        (["npz[path={data}]", "--out", "nowhere/x.safetensors"], 3, "nowhere to hold"),
        (["mnist[root=nowhere]", "--out", "x.safetensors"], 3, "mnist[download=true]"),
        (["image_folder[path=nowhere]", "--out", "x.safetensors"], 3, "nowhere"),
    ],
    ids=lambda v: v[0].split("[")[0] if isinstance(v, list) else None,
)
def test_what_cannot_be_done_is_said_before_the_fit(images, tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    assert fit(*(a.format(data=images[0]) for a in arguments)) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_image_folder_is_cropped_and_split(tmp_path):
    from PIL import Image

    for index in range(20):
        pixels = np.zeros((8, 12, 3), np.uint8)
        pixels[:, 2:10] = index
        Image.fromarray(pixels).save(tmp_path / f"{index:02}.png")
    colour = create("datasets", f"image_folder[path={tmp_path},size=8]")
    assert colour.shape == (3, 8, 8)
    assert colour.load("test")[:, 0, 4, 4].tolist() == [9, 19]
    train = colour.load("train")
    assert train[:, 0, 4, 4].tolist() == [*range(9), *range(10, 19)]
    assert (train[5] == 5).all()
    assert create("datasets", f"image_folder[path={tmp_path},size=4,grey=true]").shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("array", "shape"),
    [((10, 6, 5), (1, 6, 5)), ((10, 6, 5, 3), (3, 6, 5)), ((10, 3, 6, 5), (3, 6, 5))],
    ids=["NHW", "NHWC", "NCHW"],
)
def test_an_array_in_any_layout(tmp_path, array, shape):
    np.savez(tmp_path / "a.npz", images=np.zeros(array, np.uint8))
    assert create("datasets", f"npz[path={tmp_path / 'a.npz'}]").shape == shape


def test_an_array_of_other_integers_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((10, 6, 5), np.int64))
    with pytest.raises(FileError, match=r"got int64"):
        create("datasets", f"npz[path={tmp_path / 'a.npz'}]").load()


def test_mnist_is_read_where_it_is(shared):
    data = create("datasets", f"mnist[root={shared / 'data'}]")
    test = data.load("test")
    assert test.shape == (10_000, *data.shape)
    assert test.dtype == torch.uint8
    # The mean grey level of MNIST's test images, as is well known: 0.1325 of white.
    assert float(test.double().mean()) / 255 == pytest.approx(0.1325, abs=1e-4)
