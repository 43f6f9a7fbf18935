"""``scoresde sample``: pictures and arrays of a checkpoint, reproducible, never overwriting anything."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scoresde_core.plugins import discover
from scoresde_core.registry import load_registry
from scoresde_run.commands.shell import main
from scoresde_run.models import checkpoint
from scoresde_run.models.model import plan_model
from scoresde_run.results.picture import to_pixels

SMALL = ["model.network.nf=8", "model.network.num_res_blocks=1", "model.network.ch_mult=[1,2]", "model.shape=[1,8,8]",
         "model.network.attn_resolutions=[]"]  # fmt: skip
FAST = ["--set", *SMALL, "--steps", "4"]
REGISTRY = load_registry()


@pytest.fixture
def scoresde(tmp_path, monkeypatch, capsys):
    """Runs ``scoresde sample`` in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main(["sample", *arguments])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def made(folder="out"):
    return dict(np.load(Path(folder) / "samples.npz"))


def save_checkpoint(folder: Path, preset="mnist_vp", ema=0.5):
    plan = plan_model(REGISTRY.create("presets", preset).override([*SMALL, "sampling.sampler.steps=4"]), REGISTRY)
    network = plan.build(3).network
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    averages = {name: p.detach() * ema for name, p in network.named_parameters() if p.requires_grad}
    return checkpoint.save(folder, plan.config, network.state_dict(), averages, step=7)


class TestFiles:
    def test_what_is_written(self, scoresde):
        code, out, _ = scoresde("--preset", "mnist_vp", *FAST, "--n", "5", "--out", "out")
        assert code == 0
        assert "5 samples of shape [1, 8, 8], 4 function evaluations each" in out
        assert "sampler: pc[predictor=ddim,grid=uniform,steps=4]" in out
        assert sorted(path.name for path in Path("out").iterdir()) == ["samples.npz", "samples.png", "sampling.yaml"]
        arrays = made()
        assert list(arrays) == ["samples"]
        assert (arrays["samples"].shape, arrays["samples"].dtype) == ((5, 8, 8, 1), np.uint8)
        record = yaml.safe_load(Path("out/sampling.yaml").read_text())
        assert (record["preset"], record["n"], record["nfe"], record["seed"]) == ("mnist_vp", 5, 4.0, 0)

    def test_the_grid_that_a_predictor_took(self, scoresde):
        sampler = ("--sampler", "pc[predictor=dpmpp_2m]")
        code, out, _ = scoresde("--preset", "mnist_vp", *FAST, *sampler, "--n", "2", "--out", "out")
        assert code == 0
        assert "sampler: pc[predictor=dpmpp_2m,grid=logsnr,steps=4]" in out
        assert "grid=LogSNRGrid()" in " ".join(Path("out/sampling.yaml").read_text().split())

    @pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
    def test_the_picture_holds_the_samples_in_reading_order(self, scoresde, channels, mode):
        scoresde("--preset", "mnist_vp", *FAST, "--set", f"model.shape=[{channels},8,8]", "--n", "5", "--out", "out")
        picture = Image.open("out/samples.png")
        assert (picture.mode, picture.size) == (mode, (28, 18))  # 3 columns, 2 rows, gaps of 2
        tile = np.asarray(picture.crop((10, 10, 18, 18))).reshape(8, 8, channels)
        assert np.array_equal(tile, made()["samples"][4])
        assert not np.asarray(picture.crop((20, 10, 28, 18))).any()

    @pytest.mark.parametrize(("n", "norm", "told"), [(8, "batch", True), (8, "level", False), (100, "batch", False)])
    def test_a_batch_too_small_for_its_norms_is_told(self, scoresde, n, norm, told):
        sampler = f"pc[corrector=langevin[norm={norm}],steps=4]"
        arguments = ["--target", "mixture2d", "--sde", "vp", "--sampler", sampler, "--n", str(n), "--out", "out"]
        code, _, err = scoresde(*arguments)
        assert code == 0
        assert ("warning: langevin's steps" in err and "in batches of 8 events of 2 numbers" in err) == told

    def test_floats_are_the_samples_before_rounding(self, scoresde):
        scoresde("--preset", "mnist_vp", *FAST, "--n", "2", "--keep-floats", "--out", "out")
        arrays = made()
        assert arrays["floats"].shape == (2, 1, 8, 8)
        expected = np.clip(np.rint((arrays["floats"].astype(float) + 1) * 127.5), 0, 255).transpose(0, 2, 3, 1)
        assert np.abs(arrays["samples"] - expected).max() <= 1e-9

    def test_data_in_the_unit_interval_are_scaled_by_255(self, scoresde):
        scoresde("--preset", "mnist_ve", *FAST, "--n", "2", "--keep-floats", "--out", "out")
        arrays = made()
        expected = np.clip(arrays["floats"].transpose(0, 2, 3, 1) * 255, 0, 255)
        assert np.abs(arrays["samples"] - expected).max() <= 0.5 + 1e-3

    def test_points_have_no_picture(self, scoresde):
        Path("points.yaml").write_text("format: 1\nmodel: {network: 'mlp[width=4]', sde: vp, shape: [2]}\n")
        code, _, _ = scoresde("--preset", "points.yaml", "--steps", "3", "--n", "6", "--out", "out")
        assert code == 0
        assert list(made()) == ["floats"]
        assert made()["floats"].shape == (6, 2)

    def test_pixels(self):
        x = torch.tensor([-2.0, -1.0, 0.0, 1 / 255, 1.0, 9.0]).reshape(1, 1, 1, 6)
        assert to_pixels(x).ravel().tolist() == [0, 0, 128, 128, 255, 255]


class TestWhichModel:
    def test_a_checkpoint_with_its_own_sampler_averaged_weights_first(self, scoresde, tmp_path):
        found = save_checkpoint(tmp_path / "ck")
        for name, more in (("default", ()), ("ema", ("--weights", "ema")), ("raw", ("--weights", "raw"))):
            assert scoresde("--checkpoint", "ck", "--n", "2", "--keep-floats", *more, "--out", name)[0] == 0
        assert np.array_equal(made("default")["floats"], made("ema")["floats"])
        assert not np.array_equal(made("raw")["floats"], made("ema")["floats"])
        record = yaml.safe_load(Path("default/sampling.yaml").read_text())
        assert (record["weights"], record["step"], record["digest"], record["nfe"]) == ("ema", 7, found.digest(), 4)

    @pytest.mark.parametrize(
        ("sampler", "nfe"),
        [
            ("pc[predictor=euler_maruyama,corrector=langevin,steps=3]", 6),
            ("ode[method=rk4,steps=3,denoise=false]", None),
        ],
        ids=["pc", "ode"],
    )
    def test_any_sampler(self, scoresde, sampler, nfe):
        code, _, _ = scoresde("--preset", "mnist_vp", "--set", *SMALL, "--sampler", sampler, "--n", "2", "--out", "out")
        record = yaml.safe_load(Path("out/sampling.yaml").read_text())
        assert code == 0
        assert record["nfe"] == nfe or nfe is None

    def test_changes_reach_the_sde(self, scoresde):
        scoresde("--preset", "mnist_vp", *FAST, "--set", "sampling.t_min=0.25", "--n", "1", "--out", "out")
        assert "t_min=0.25" in yaml.safe_load(Path("out/sampling.yaml").read_text())["sde"]


class TestReproducible:
    def test_the_seed_decides_and_the_batch_size_does_not(self, scoresde):
        runs = {"a": ("1", "4"), "b": ("1", "4"), "c": ("1", "3"), "d": ("2", "4")}
        for name, (seed, size) in runs.items():
            scoresde("--preset", "mnist_vp", *FAST, "--n", "4", "--seed", seed, "--batch-size", size, "--keep-floats",
                     "--out", name)  # fmt: skip
        floats = {name: made(name)["floats"] for name in runs}
        assert np.array_equal(floats["a"], floats["b"])
        assert np.allclose(floats["a"], floats["c"], atol=1e-5)
        assert not np.allclose(floats["a"], floats["d"], atol=1e-2)


class TestTelling:
    def test_a_pipe_gets_plain_lines(self, scoresde):
        _, out, err = scoresde("--preset", "mnist_vp", *FAST, "--n", "3", "--batch-size", "2", "--out", "out")
        lines = err.splitlines()
        assert lines[0] == "batch 1 of 2: step 1 of 4"
        assert lines[-1] == "batch 2 of 2: step 4 of 4"
        assert "\x1b" not in out + err

    def test_plugins_that_listen_hear_of_every_step(self, scoresde, tmp_path, monkeypatch):
        (tmp_path / "step_listener.py").write_text(
            "from scoresde_core import hookimpl\n"
            "HEARD = []\n"
            "@hookimpl\n"
            "def scoresde_on_sampling_step(done, total):\n"
            "    HEARD.append((done, total))\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        points = [*discover(), EntryPoint("listener", "step_listener", "scoresde.plugins")]
        monkeypatch.setattr("scoresde_run.commands.shell.load_registry", lambda local: load_registry(points, local))
        assert scoresde("--preset", "mnist_vp", *FAST, "--n", "1", "--out", "out")[0] == 0
        heard = sys.modules["step_listener"].HEARD
        assert heard == [(k, 4) for k in range(1, 5)]


WRONG = {
    "neither": ([], "required"),
    "both": (["--preset", "mnist_vp", "--checkpoint", "x"], "not allowed with"),
    "unknown preset": (["--preset", "mnist_vpp"], "Did you mean 'mnist_vp'"),
    "no preset file": (["--preset", "gone.yaml"], "there is no preset file gone.yaml"),
    "no samples": (["--preset", "mnist_vp", "--n", "0"], "--n must be at least 1, got 0"),
    "batch": (["--preset", "mnist_vp", "--batch-size", "-1"], "--batch-size must be at least 1, got -1"),
    "steps": (["--preset", "mnist_vp", "--steps", "0"], "--steps must be at least 1"),
    "steps of an adaptive sampler": (
        ["--preset", "mnist_vp", "--sampler", "ode", "--steps", "3"],
        "--steps has no effect",
    ),
    "sampler": (["--preset", "mnist_vp", "--sampler", "pcc"], "Did you mean 'pc'"),
    "moves nothing": (["--preset", "mnist_vp", "--sampler", "pc[predictor=none]"], "move nothing"),
    "random averages": (["--preset", "mnist_vp", "--weights", "ema"], "needs a --checkpoint"),
    "change": (["--preset", "mnist_vp", "--set", "model.netwerk.nf=3"], "Did you mean 'network'"),
    "device": (["--preset", "mnist_vp", "--device", "toaster"], "there is no device 'toaster'"),
    "size": (["--preset", "mnist_vp", "--set", "model.shape=[1,27,28]"], "pad them to 28x28"),
}


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_a_usage_error_is_one_line_before_any_work(scoresde, tmp_path, arguments, words):
    code, out, err = scoresde(*arguments, "--out", "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(scoresde, tmp_path):
    (tmp_path / "out").mkdir()
    code, _, err = scoresde("--preset", "mnist_vp", "--out", "out")
    assert (code, err) == (3, "error: out exists: choose another --out, or remove it\n")


def test_samples_of_another_shape_are_not_written(scoresde, tmp_path):
    """A predictor that drops a coordinate runs to the end by broadcasting."""
    (tmp_path / "losing_parts.py").write_text(
        "import attrs\n"
        "from scoresde_core import Predictor\n"
        "@attrs.frozen\n"
        "class Loses(Predictor):\n"
        "    def step(self, x, step, model, noise):\n"
        "        return x[:, :1], x[:, :1]\n"
    )
    (tmp_path / "mine.yaml").write_text("api: 1\npredictors: {loses: {target: 'losing_parts:Loses'}}\n")
    sampler = "pc[predictor=loses,steps=1]"
    code, _, err = scoresde(
        "--target", "mixture2d", "--n", "2", "--sampler", sampler, "--registry", "mine.yaml", "--out", "out"
    )
    assert (code, "Loses()" in err, "gave samples of shape (1,), expected (2,)" in err) == (1, True, True), err
    assert not (tmp_path / "out").exists()


def test_samples_that_are_not_finite_are_not_written(scoresde, tmp_path):
    plan = plan_model(REGISTRY.create("presets", "mnist_vp").override([*SMALL, "sampling.sampler.steps=4"]), REGISTRY)
    state = {name: value * torch.nan if value.is_floating_point() else value
             for name, value in plan.build().network.state_dict().items()}  # fmt: skip
    checkpoint.save(tmp_path / "ck", plan.config, state)
    code, _, err = scoresde("--checkpoint", "ck", "--n", "2", "--out", "out")
    assert code == 1
    assert "the sampler diverged: 2 of 2 samples are not finite" in err
    assert not (tmp_path / "out").exists()


def test_a_mistyped_number_is_answered_without_torch():
    code = (
        "import sys; from scoresde_run.commands.shell import main; "
        "main(['sample', '--preset', 'mnist_vp', '--n', '0', '--out', 'x']); sys.exit(int('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "--n must be at least 1" in done.stderr
