"""Pairs of pictures by name, 16-bit pictures, classes of file names; and conditions of another size than the event."""

import numpy as np
import pytest
import torch
from PIL import Image
from scoresde import Batches, Preprocessing, create
from scoresde_core.errors import FileError, ScoreSDEError
from scoresde_run.commands.shell import main


def write(folder, *names, size=(8, 8), seed=0, deep=False):
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(seed)
    made = generator.integers(0, 65536 if deep else 256, (len(names), *size), dtype=np.uint16 if deep else np.uint8)
    for name, pixels in zip(names, made, strict=True):
        Image.fromarray(pixels).save(folder / name)
    return torch.from_numpy(made.astype("i4")).unsqueeze(1)


NAMES = [f"{kind}_{k}" for k in range(10) for kind in ("cat", "dog")]
KINDS = [0] * 10 + [1] * 10
"""In the order of the names: cats come first."""


def paired(tmp_path, **more):
    return create("datasets", "paired", path=f"{tmp_path}/x", y=f"{tmp_path}/y", size=8, grey=True, **more)


def test_pairs_have_the_same_name_whatever_their_order_and_suffix(tmp_path):
    write(tmp_path / "x", *(f"{name}.png" for name in NAMES))
    y = write(tmp_path / "y", *(f"{name}.bmp" for name in reversed(NAMES)), seed=1)
    data = paired(tmp_path, classes="names")
    order = sorted(range(20), key=lambda k: NAMES[k])
    expected = y.flip(0)[order]
    held_out = torch.arange(20) % 10 == 9
    assert torch.equal(data.known("train")["y"].int(), expected[~held_out])
    assert torch.equal(data.known("test")["y"].int(), expected[held_out])
    assert data.known("test")["labels"].tolist() == [KINDS[9], KINDS[19]]
    flipped = next(Batches(data, 18, preprocessing=Preprocessing(levels=256, flip=True), needs=("y",)).stream())
    whole = Preprocessing(levels=256)
    pairs = {tuple(x.flatten().tolist()): y for x, y in zip(whole(data.load()), whole(data.known()["y"]), strict=True)}
    turned = 0
    for x, y in zip(flipped.x, flipped.known["y"], strict=True):
        own, mirrored = (tuple(each.flatten().tolist()) for each in (x, x.flip(-1)))
        turned += own not in pairs
        assert torch.equal(y, pairs[own] if own in pairs else pairs[mirrored].flip(-1))
    assert 0 < turned < 18


@pytest.mark.parametrize(("lacks", "words"), [("y", r"'.*/y' has no picture 'cat_3' \(1 of 20\): make pairs"),
                                              ("x", r"'.*/x' has no picture 'cat_3' \(1 of 20\)")])  # fmt: skip
def test_pairs_that_do_not_match_are_named(tmp_path, lacks, words):
    for folder in "xy":
        write(tmp_path / folder, *(f"{name}.png" for name in NAMES if (folder, name) != (lacks, "cat_3")))
    with pytest.raises(FileError, match=words) as caught:
        paired(tmp_path).known()
    assert "\n" not in str(caught.value)


def test_the_pictures_of_a_test_folder_have_their_pairs_in_the_same_place(tmp_path):
    write(tmp_path / "x", *(f"{name}.png" for name in NAMES[:15]))
    write(tmp_path / "z", *(f"{name}.png" for name in NAMES[15:]))
    y = write(tmp_path / "y", *(f"{name}.png" for name in sorted(NAMES)))
    data = paired(tmp_path, test=f"{tmp_path}/z")
    rows = [sorted(NAMES).index(name) for name in sorted(NAMES[15:])]
    assert torch.equal(data.known("test")["y"].int(), y[rows])


def test_classes_of_file_names(tmp_path):
    write(tmp_path / "x", *(f"{name}.png" for name in NAMES))
    data = create("datasets", "image_folder", path=f"{tmp_path}/x", size=8, classes="names")
    assert data.known("train")["labels"].tolist() == [0] * 9 + [1] * 9
    write(tmp_path / "z", "fox_1.png")
    with pytest.raises(FileError, match=r"has a name 'fox' that .* does not have: it is not a class"):
        create("datasets", "image_folder", path=f"{tmp_path}/x", test=f"{tmp_path}/z", classes="names").known("test")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_pictures_of_16_bits(tmp_path, suffix):
    pixels = write(tmp_path / "x", *(f"{k:02}.{suffix}" for k in range(20)), size=(8, 12), deep=True)
    data = create("datasets", "image_folder", path=f"{tmp_path}/x", size=[8, 12], grey=True, levels=65536)
    assert (data.levels, data.shape, data.load().dtype) == (65536, (1, 8, 12), torch.int32)
    assert torch.equal(data.load("test"), pixels[9::10])
    half = create("datasets", "image_folder", path=f"{tmp_path}/x", size=[4, 6], grey=True, levels=65536)
    means = torch.nn.functional.avg_pool2d(pixels[9::10].float(), 2)
    assert float((half.load("test").float() - means).abs().mean()) < 0.35 * float(means.std())
    with pytest.raises(FileError, match="not 8 bits: convert it, or set grey=true and levels=65536"):
        create("datasets", "image_folder", path=f"{tmp_path}/x", size=8).load()
    with pytest.raises(FileError, match=r"has grey levels up to \d+, not below levels=4096"):
        create("datasets", "image_folder", path=f"{tmp_path}/x", size=[8, 12], grey=True, levels=4096).load()
    with pytest.raises(ScoreSDEError, match="pictures of 16 bits are grey: set grey=true"):
        create("datasets", "image_folder", path=f"{tmp_path}/x", size=8, levels=65536)


def test_a_condition_of_another_size_in_training_and_sampling(tmp_path, monkeypatch):
    """A picture of 4 x 4 is known of each of 8 x 8: grey levels on [-1, 1], from a folder and from a file."""
    monkeypatch.chdir(tmp_path)
    for folder in "xy":
        write(tmp_path / folder, *(f"{name}.png" for name in NAMES))
    train = ["train", "mnist_vp", "data.dataset=paired[path=x,y=y,y_size=4,size=8,grey=true]", "model.shape=[1,8,8]",
             "model.network=mlp[width=8,depth=1,cond_shape=[1,4,4],cond=y,parameterisation=v]", "sampling.n=2",
             "training.batch_size=4", "training.iterations=2", "sampling.sampler=pc[steps=2]",
             "--out", "run"]  # fmt: skip
    assert main(train) == 0
    np.savez("low.npz", images=np.random.default_rng(3).integers(0, 256, (2, 4, 4), dtype=np.uint8))
    draw = ["sample", "--checkpoint", "run", "--n", "2", "--steps", "2", "--out", "drawn"]
    assert main([*draw, "--known", "y=low.npz"]) == 0
    with np.load("low.npz") as file:
        np.save("floats.npy", file["images"][:, None].astype("f4") / 127.5 - 1)
    assert main([*draw[:-1], "again", "--known", "y=floats.npy"]) == 0
    with np.load("drawn/samples.npz") as one, np.load("again/samples.npz") as two:
        assert (one["samples"] == two["samples"]).all()


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ([], "the model needs y of each sample: give --known y=..."),
        (["y=long.npz"], "long.npz has events of shape [9, 9], the model [1, 8, 8]"),
        (["class=3"], "the model takes nothing called 'class'"),
    ],
)
def test_what_a_model_needs_is_told_before_any_work(tmp_path, monkeypatch, capsys, known, words):
    monkeypatch.chdir(tmp_path)
    for folder in "xy":
        write(tmp_path / folder, *(f"{name}.png" for name in NAMES))
    train = ["train", "mnist_vp", "data.dataset=paired[path=x,y=y,size=8,grey=true]", "model.shape=[1,8,8]",
             "model.network=mlp[width=8,depth=1,cond_shape=[1,8,8],cond=y]", "sampling.n=2", "training.known_dropout=0",
             "training.batch_size=4", "training.iterations=1", "sampling.sampler=pc[steps=2]",
             "--out", "run"]  # fmt: skip
    assert main(train) == 0
    np.savez("long.npz", images=np.zeros((2, 9, 9), np.uint8))
    capsys.readouterr()
    draw = ["sample", "--checkpoint", "run", "--n", "2", "--steps", "2", "--out", "drawn"]
    assert main([*draw, *(["--known", *known] if known else [])]) == 2
    told = capsys.readouterr().err
    assert (words in told, told.count("\n")) == (True, 1)
    assert not (tmp_path / "drawn").exists()
