"""``scoresde encode``: latents against the closed form, the round trip, arcs, temperature, latents of a file."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from scoresde_core import create
from scoresde_run.commands.shell import main

MEAN, STD = 0.3, 0.5
GAUSSIAN = f"gaussian[shape=[1,2,2],mean={MEAN},std={STD}]"


@pytest.fixture
def scoresde(tmp_path, monkeypatch, capsys):
    """Runs ``scoresde encode`` in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main(["encode", *map(str, arguments)])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def arrays(name, folder="out"):
    return dict(np.load(Path(folder) / f"{name}.npz"))


def test_latents_are_those_of_the_affine_flow(scoresde):
    """x_1 = a_1 m + (x - a_0 m) s_1 / s_0 for a Gaussian, and back within the tolerance."""
    tight = ["--rtol", 1e-7, "--atol", 1e-7, "--t-min", 1e-3]
    code, out, _ = scoresde("--target", GAUSSIAN, "--sde", "vp", "--images", 20, *tight, "--out", "out")
    assert code == 0
    assert "round trip" in out
    found, record = arrays("latents"), yaml.safe_load(Path("out/encoding.yaml").read_text())
    sde = create("sdes", "vp")
    (a0, s0), (a1, s1) = ((float(sde.alpha(t)), float(sde.sigma(t))) for t in map(_time, (1e-3, 1.0)))
    spread = [np.sqrt(a**2 * STD**2 + s**2) for a, s in ((a0, s0), (a1, s1))]
    expected = a1 * MEAN + (found["events"] - a0 * MEAN) * spread[1] / spread[0]
    np.testing.assert_allclose(found["latents"], expected, atol=1e-4)
    np.testing.assert_allclose(found["decoded"], found["events"], atol=1e-4)
    assert (record["format"], record["version"], record["t_min"]) == ("scoresde-encoding", 1, 1e-3)
    off = np.sqrt(np.square(found["decoded"] - found["events"]).mean((1, 2, 3)))
    np.testing.assert_allclose(found["error"], off, rtol=1e-3, atol=1e-8)
    assert record["round_trip_error"]["largest"] == pytest.approx(off.max(), rel=1e-2)
    assert Path("out/latents.png").exists()


def _time(t):
    import torch

    return torch.tensor(t, dtype=torch.float64)


def test_arcs_begin_and_end_at_the_events(scoresde):
    scoresde("--target", GAUSSIAN, "--images", 5, "--interpolate", 4, "--out", "out")
    arcs, events = arrays("interpolation")["decoded"].reshape(2, 4, 1, 2, 2), arrays("latents")["events"]
    np.testing.assert_allclose(arcs[:, 0], events[[0, 2]], atol=1e-3)
    np.testing.assert_allclose(arcs[:, -1], events[[1, 3]], atol=1e-3)
    norms = np.linalg.norm(arrays("interpolation")["latents"].reshape(2, 4, 4), axis=2)
    assert (norms <= norms[:, [0, -1]].max(1, keepdims=True) * 1.001).all()
    assert Path("out/interpolation.png").exists()


def test_temperature_shrinks_about_the_mean(scoresde):
    """The flow of a Gaussian is affine: half the latent is half way to the event of latent 0."""
    scoresde("--target", GAUSSIAN, "--images", 6, "--temperature", 0.5, 1.0, "--out", "out")
    half, whole = (arrays(f"temperature_{t}")["decoded"] for t in ("0.5", "1"))
    events = arrays("latents")["events"]
    np.testing.assert_allclose(whole, events, atol=1e-3)
    centre = 2 * half - whole  # the event of latent 0, one for all
    np.testing.assert_allclose(centre, np.broadcast_to(centre[:1], centre.shape), atol=2e-3)
    assert abs(centre.mean() - MEAN) < 0.05


def test_the_noise_of_t_min_is_removed_but_not_in_round_trips(scoresde):
    """From events at t_min to the mean of what they came from: m + a s^2 / (a^2 s^2 + sigma^2) (x - a m)."""
    scoresde("--target", GAUSSIAN, "--images", 6, "--t-min", 0.2, "--denoise", "--temperature", 1.0, "--out", "out")
    found, clean = arrays("latents"), arrays("temperature_1")["decoded"]
    np.testing.assert_allclose(found["decoded"], found["events"], atol=1e-3)
    sde = create("sdes", "vp")
    a, sigma = float(sde.alpha(_time(0.2))), float(sde.sigma(_time(0.2)))
    gain = a * STD**2 / (a**2 * STD**2 + sigma**2)
    np.testing.assert_allclose(clean, MEAN + gain * (found["events"] - a * MEAN), atol=1e-3)
    assert abs(clean - found["events"]).max() > 0.1


def test_latents_of_a_file_decode_to_the_same(scoresde):
    scoresde("--target", GAUSSIAN, "--images", 3, "--out", "out")
    code, out, _ = scoresde("--target", GAUSSIAN, "--decode", "out/latents.npz", "--out", "back")
    assert code == 0
    assert "round trip" not in out
    np.testing.assert_allclose(arrays("decoded", "back")["decoded"], arrays("latents")["decoded"], atol=1e-6)


def test_a_picture_is_scaled_as_the_model_wants_it(scoresde):
    from PIL import Image

    Path("folder").mkdir()
    for name, level in (("b.png", 255), ("a.png", 0)):
        Image.fromarray(np.full((2, 2), level, np.uint8)).save(f"folder/{name}")
    assert scoresde("--target", GAUSSIAN, "--dataset", "./folder", "--out", "out")[0] == 0
    assert arrays("latents")["events"].mean((1, 2, 3)).tolist() == [-1, 1]


WRONG = {
    "images": (["--images", "0"], "--images must be at least 1, got 0"),
    "one end": (["--interpolate", "1"], "--interpolate needs at least the 2 ends, got 1"),
    "one event": (["--interpolate", "3", "--images", "1"], "needs at least two events, got 1"),
    "cold": (["--temperature", "0"], "--temperature must be above 0, got 0"),
    "t_min": (["--t-min", "2"], "--t-min must lie between 0 and 1, got 2"),
    "both": (["--decode", "a.npz", "--dataset", "mnist"], "leave --dataset out"),
    "no latents": (["--decode", "a.npz"], "there is no file a.npz"),
    "latents of another shape": (["--decode", "b.npz"], "b.npz has events of shape [3]"),
    "a folder without a slash": (["--dataset", "images"], "(a folder of images is written with a slash: ./images)"),
    "size": (["--dataset", "./images"], "0.png has 3 x 2 pixels, the model 2 x 2: resize it"),
    "solver": (["--method", "euler"], "dopri5"),
}


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_a_usage_error_is_one_line(scoresde, tmp_path, arguments, words):
    from PIL import Image

    np.savez("b.npz", latents=np.zeros((2, 3), np.float32))
    Path("images").mkdir()
    Image.fromarray(np.zeros((3, 2), np.uint8)).save("images/0.png")
    code, out, err = scoresde("--target", GAUSSIAN, *arguments, "--out", "out")
    assert (code, out) == (2, "")
    assert words in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
