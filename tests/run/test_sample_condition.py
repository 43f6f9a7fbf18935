"""``scoresde sample --condition``: every condition on the command line, and the known part next to the samples."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from scoresde_run.commands.shell import main

IMAGES = "gaussian[shape=[3,8,8],std=0.4]"
FAST = ["--sampler", "pc[steps=10,grid=logsnr,predictor=ddim[eta=1]]", "--n", "4"]


@pytest.fixture
def scoresde(tmp_path, monkeypatch, capsys):
    """Runs ``scoresde sample`` in a folder with two images in ``a.npz``; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", images=np.random.default_rng(0).integers(40, 216, (2, 8, 8, 3), dtype=np.uint8))

    def run(*arguments):
        code = main(["sample", *arguments, "--out", "out"])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def made():
    return dict(np.load("out/samples.npz"))


def levels():
    """Samples and what was observed, of a target's floats on [-1, 1], as grey levels (n, H, W, C) without a bound."""
    arrays = {"samples": made()["floats"], "observed": made()["observed"]}
    return {name: np.rint((x + 1) * 127.5).transpose(0, 2, 3, 1) for name, x in arrays.items()}


def given():
    return np.load("a.npz")["images"]


def grey(images):
    return images.astype(float).mean(3)


def blocks(images):
    return images.astype(float).reshape(len(images), 4, 2, 4, 2, 3).mean((2, 4))


def left(images):
    return images[:, :, :4].astype(float)


@pytest.mark.parametrize(
    ("condition", "known", "off"),
    [
        ("inpaint[mask=left]", left, 0),
        ("colorize", grey, 0.51),
        ("linear[operator=average[factor=2]]", blocks, 0.51),
        ("smcdiff[condition=inpaint[mask=left],particles=3]", left, 0),
    ],
    ids=["inpaint", "colorize", "linear", "smcdiff"],
)
def test_samples_have_what_was_observed(scoresde, condition, known, off):
    """To the grey level where pixels are known; to the rounding of single values where sums of them are."""
    code, _, _ = scoresde("--target", IMAGES, *FAST, "--condition", condition, "--observe", "a.npz")
    assert code == 0
    images = given()[[0, 1, 0, 1]]
    for name in ("samples", "observed"):
        assert np.abs(known(levels()[name]) - known(images)).max() <= off
    assert np.abs(levels()["samples"] - images).mean() > 10


def test_the_record_and_the_picture(scoresde):
    condition = ["--condition", "inpaint[mask=box]", "--observe", "a.npz", "--index", "1", "--rounds", "2"]
    scoresde("--target", IMAGES, "--sde", "ve", *FAST, *condition)
    record, arrays = yaml.safe_load(Path("out/sampling.yaml").read_text()), made()
    assert record["condition"].startswith("Inpaint(mask='box'")
    assert (record["observed"], record["index"], record["rounds"], record["nfe"]) == ("a.npz", [1], 2, 19.0)
    with Image.open("out/samples.png") as picture:
        sheet = np.asarray(picture)
    assert sheet.shape == (8 + 2 + 8, 16 + 2 + 16, 3)
    # Floats have no black and white of their own: the picture's is the least and the largest of all that is drawn.
    both = np.stack([arrays["observed"], arrays["floats"]])
    shown = np.rint((both - both.min()) / np.ptp(both) * 255).transpose(0, 1, 3, 4, 2)
    np.testing.assert_allclose(sheet[:8, :8], shown[0, 0], atol=1)
    np.testing.assert_allclose(sheet[:8, 8:16], shown[1, 0], atol=1)
    assert record["picture"] == f"floats, scaled: black is {both.min():.4g}, white {both.max():.4g}"
    # Unknown: the middle of the range.
    assert (arrays["observed"][:, :, 2:6, 2:6] == 0).all()
    # One observation, four samples of it.
    assert len({sample.tobytes() for sample in arrays["floats"]}) == 4


@pytest.mark.parametrize("sde", ["vp", "ve"])
def test_nothing_leaks_from_under_the_mask(scoresde, tmp_path, sde):
    sampling = ["--target", IMAGES, "--sde", sde, *FAST, "--condition", "inpaint[mask=top]", "--observe", "a.npz"]
    scoresde(*sampling)
    first = made()["floats"]
    images = given()
    images[:, 4:] = 255 - images[:, 4:]
    np.savez("a.npz", images=images)
    (tmp_path / "out").rename("before")
    scoresde(*sampling)
    np.testing.assert_array_equal(first, made()["floats"])


def test_masks_of_files_and_images_of_a_folder(scoresde):
    mask = np.zeros((8, 8), np.uint8)
    mask[2, 3] = 255
    Image.fromarray(mask).save("mask.png")
    Path("folder").mkdir()
    for number, image in enumerate(given()):
        Image.fromarray(image).save(f"folder/{number}.png")
    arguments = ["--condition", "inpaint[mask=mask.png]", "--observe", "./folder"]
    assert scoresde("--target", IMAGES, *FAST, *arguments)[0] == 0
    np.testing.assert_array_equal(levels()["samples"][:, 2, 3], given()[[0, 1, 0, 1], 2, 3])


def test_of_a_model_with_data_in_the_unit_interval(scoresde):
    small = ["model.network.nf=8", "model.network.num_res_blocks=1", "model.network.ch_mult=[1,2]",
             "model.shape=[3,8,8]", "model.network.attn_resolutions=[]"]  # fmt: skip
    arguments = ["--steps", "3", "--n", "2", "--condition", "inpaint[mask=right]", "--observe", "a.npz"]
    assert scoresde("--preset", "mnist_ve", "--set", *small, *arguments)[0] == 0
    np.testing.assert_array_equal(made()["samples"][:, :, 4:], given()[:, :, 4:])


def test_class_needs_no_data(scoresde):
    target = "mixture2d[layout=grid,components=4,radius=1.5,std=0.1]"
    arguments = ["--condition", f"class[label=[0,3],target={target}]", "--n", "6", "--sampler", "pc[steps=60]"]
    assert scoresde("--target", target, *arguments)[0] == 0
    points = made()["floats"]
    assert (points[0::2] < 0).all()
    assert (points[1::2] > 0).all()
    assert "observed" not in made()


def test_points_are_imputed(scoresde):
    np.savez("p.npz", points=np.array([[0.25, np.nan]], np.float32))
    arguments = ["--condition", "inpaint[mask=left]", "--observe", "p.npz", "--n", "5", "--steps", "5"]
    assert scoresde("--target", "mixture2d", *arguments)[0] == 0
    assert (made()["floats"][:, 0] == 0.25).all()
    assert np.isfinite(made()["floats"]).all()


WRONG = {
    "nothing observed": (["--condition", "colorize"], "--observe X"),
    "observed for nothing": (["--observe", "a.npz"], "need a --condition"),
    "rounds": (
        ["--condition", "colorize", "--observe", "a.npz", "--rounds", "0"],
        "--rounds must be at least 1, got 0",
    ),
    "unknown": (["--condition", "inpant"], "Did you mean 'inpaint'"),
    "mask": (["--condition", "inpaint[mask=gone.png]", "--observe", "a.npz"], "there is no file 'gone.png'"),
    "mask of another shape": (
        ["--condition", "inpaint[mask=wide.npy]", "--observe", "a.npz"],
        "the mask wide.npy has shape (8, 9), the events have (3, 8, 8): it needs that or (8, 8)",
    ),
    "blocks": (["--condition", "linear[operator=average[factor=3]]", "--observe", "a.npz"], "choose a divisor"),
    "particles of a class": (
        ["--condition", "smcdiff[condition=class[target=mixture2d]]", "--observe", "a.npz"],
        "as inpaint does",
    ),
    "index": (["--condition", "colorize", "--observe", "a.npz", "--index", "2"], "there are 2, 0 to 1"),
    "shape": (["--condition", "colorize", "--observe", "b.npz"], "b.npz has events of shape [9, 8, 3]"),
    "range": (["--condition", "colorize", "--observe", "c.npz"], "c.npz has values from 0 to 255"),
    "data of a class": (
        ["--condition", f"class[target={IMAGES}]", "--observe", "a.npz"],
        "no components to use as classes",
    ),
    "classifier of other events": (
        ["--condition", "class[checkpoint=mnist_classifier]"],
        "the classifier mnist_classifier is for events of shape (1, 28, 28), not (3, 8, 8)",
    ),
    "several arrays": (["--condition", "colorize", "--observe", "d.npz"], "d.npz has the arrays one, two"),
    "integers": (["--condition", "colorize", "--observe", "e.npz"], "give images as uint8 0 to 255"),
    "no steps": (["--condition", "colorize", "--observe", "a.npz", "--sampler", "ode"], "take pc"),
}


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_a_usage_error_is_one_line_before_any_work(scoresde, arguments, words):
    np.save("wide.npy", np.eye(8, 9))
    np.savez("b.npz", images=np.zeros((1, 9, 8, 3), np.uint8))
    np.savez("c.npz", images=np.linspace(0, 255, 192, dtype=np.float32).reshape(1, 3, 8, 8))
    np.savez("d.npz", one=np.zeros(1), two=np.zeros(1))
    np.savez("e.npz", images=np.zeros((1, 3, 8, 8), np.int64))
    code, out, err = scoresde("--target", IMAGES, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert not Path("out").exists()
