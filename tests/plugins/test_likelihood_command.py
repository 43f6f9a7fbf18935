"""``scoresde likelihood``: bits/dim against closed forms, its protocol on record, bad requests in one line."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scoresde_core import ExactScore, create
from scoresde_core.registry import load_registry
from scoresde_plugins.likelihood.bits_per_dim import join, measure
from scoresde_plugins.likelihood.likelihood import BoundDensity, FlowDensity, trained_t_min
from scoresde_plugins.targets.gaussian import GaussianTarget
from scoresde_plugins.targets.mfa import MNISTMFATarget
from scoresde_run.commands.shell import main
from scoresde_run.models.model import plan_model

VP = create("sdes", "vp")
GAUSSIAN = "gaussian[shape=[2],mean=0.3,std=0.5]"
SMALL = ["model.network.nf=8", "model.network.num_res_blocks=1", "model.network.ch_mult=[1,2]", "model.shape=[1,8,8]",
         "model.network.attn_resolutions=[]"]  # fmt: skip


@pytest.fixture
def scoresde(tmp_path, monkeypatch, capsys):
    """Runs ``scoresde likelihood`` in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main(["likelihood", *map(str, arguments)])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def record(folder="out"):
    return yaml.safe_load((Path(folder) / "likelihood.yaml").read_text())


def arrays(folder="out"):
    return dict(np.load(Path(folder) / "likelihood.npz"))


def images(path, shape=(6, 8, 8), seed=0):
    np.savez(path, images=np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize(
    ("preset", "t_min"),
    [
        ("scoreflow_vp_cifar10_ddpmpp_continuous", 1e-5),
        ("scoreflow_subvp_imagenet32_ddpmpp_deep_continuous", 1e-2),
        ("subvp_cifar10_ddpmpp_continuous", 1e-5),
        ("vp_ddpm_cifar10", 1e-5),
    ],
)
def test_published_likelihoods_start_at_the_smallest_time_of_training(preset, t_min):
    registry = load_registry()
    assert trained_t_min(plan_model(registry.create("presets", preset), registry), registry) == t_min
    assert trained_t_min(None, registry) == 1e-5


class TestMeasure:
    @pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0)], ids=["centred", "unit"])
    def test_of_grey_levels_is_their_probability(self, low, high):
        """Independent Gaussian pixels as wide as many cells: -log2 of the mass of each cell, by the error function."""
        std = 0.2 * (high - low)
        target = GaussianTarget((1, 4, 4), mean=(low + high) / 2, std=std)
        grey = torch.randint(60, 196, (16, 1, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        edges = (low + (high - low) * torch.stack([grey, grey.int() + 1]) / 256 - (low + high) / 2) / std
        mass = torch.special.ndtr(edges.double()).diff(dim=0)[0]
        truth = -mass.log2().mean((1, 2, 3))
        found = measure(FlowDensity(trace="exact"), ExactScore(target, VP), grey, low=low, high=high, repeats=2)
        # Uniform dequantisation costs (cell / std)^2 / 24 nats a dimension and scatters: 4e-4 bits/dim together.
        torch.testing.assert_close(found.bits.per_image, truth, rtol=0, atol=8e-3)
        assert abs(found.bits.mean - float(truth.mean())) < 2e-3

    def test_more_draws_reach_the_probability(self):
        """A pixel much narrower than its cell: the bound of one draw is loose, that of 64 is the mass of the cell."""
        std = 0.3 * 2 / 256
        target = GaussianTarget((1, 1, 1), mean=1 / 256, std=std)
        grey, density = torch.full((40, 1, 1, 1), 128, dtype=torch.uint8), FlowDensity(trace="exact", t_min=1e-6)
        truth = -math.log2(math.erf(0.5 / 0.3 / math.sqrt(2)))
        above = []
        for draws in (1, 8, 64):
            bits = measure(density, ExactScore(target, VP), grey, draws=draws).bits
            assert bits.mean > truth - 4 * bits.stderr
            above.append(bits.mean - truth)
        assert above[0] > 4 * above[1] > 16 * above[2]

    def test_draws_share_their_probes(self):
        """The error of the probes is the same in all draws of a Gaussian, and so outside the average over them."""
        target = GaussianTarget((1, 1, 2), covariance=((1.0, 0.9), (0.9, 1.0)))
        grey = torch.randint(100, 150, (5, 1, 1, 2), generator=torch.Generator().manual_seed(2)).to(torch.uint8)

        def bits(trace, draws):
            density = FlowDensity(trace=trace, rtol=1e-8, atol=1e-8)
            return measure(density, ExactScore(target, VP), grey, repeats=2, draws=draws).values

        one, many = (bits("rademacher", draws) - bits("exact", draws) for draws in (1, 5))
        assert float(one.abs().min()) > 0.01
        torch.testing.assert_close(one, many, rtol=0, atol=1e-5)

    def test_of_mnist_mfa_with_exact_divergence(self):
        """784 dimensions, the trace exact: below 2e-3 bits/dim."""
        target = MNISTMFATarget()
        x = target.sample(1)
        density = FlowDensity(trace="exact", rtol=1e-4, atol=1e-4)
        exact = target.to("cpu", torch.float64)
        found = measure(density, ExactScore(target, VP), x, exact=lambda x: exact.log_prob(x.double()))
        assert abs(found.gap.mean) < 2e-3

    @pytest.mark.parametrize("form", ["dsm", "ssm"])
    def test_the_bound_is_tight_for_the_exact_score_of_mnist_mfa(self, form):
        target = MNISTMFATarget()
        exact = target.to("cpu", torch.float64)
        found = measure(
            BoundDensity(form=form, times=100), ExactScore(target, VP), target.sample(8),
            exact=lambda x: exact.log_prob(x.double()),
        )  # fmt: skip
        assert found.gap.stderr < 0.03
        assert abs(found.gap.mean) < 4 * found.gap.stderr
        assert float(found.stderr.square().mean().sqrt()) == pytest.approx(float(found.gap.values.std()), rel=0.6)

    def test_parts_join_to_the_whole(self):
        target = GaussianTarget((1, 2, 2), std=0.5)
        grey = torch.randint(0, 256, (7, 1, 2, 2), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
        density, model = FlowDensity(rtol=1e-8, atol=1e-8), ExactScore(target, VP)
        exact = target.to("cpu", torch.float64)

        def found(events, first=0):
            return measure(
                density, model, events, repeats=2, seed=5, first=first, exact=lambda x: exact.log_prob(x.double())
            )

        whole, parts = found(grey), join([found(grey[:3]), found(grey[3:], 3)])
        torch.testing.assert_close(whole.bits.values, parts.bits.values, rtol=0, atol=1e-5)
        torch.testing.assert_close(whole.exact.values, parts.exact.values)
        torch.testing.assert_close(whole.latent, parts.latent, rtol=0, atol=1e-5)
        assert whole.nfe.shape == parts.nfe.shape == (2, 7)

    def test_repeats_have_probes_of_their_own(self):
        target = GaussianTarget((2,), covariance=((1.0, 0.9), (0.9, 1.0)))
        found = measure(FlowDensity(), ExactScore(target, VP), target.sample(5), repeats=3)
        assert len({float(value) for value in found.bits.values[:, 0]}) == 3


class TestCommand:
    def test_on_a_target(self, scoresde):
        arguments = ["--target", GAUSSIAN, "--sde", "ve", "--images", 200, "--trace", "exact", "--latents"]
        code, out, _ = scoresde(*arguments, "--out", "out")
        found = record()
        assert code == 0
        assert "exact: " in out
        assert (found["format"], found["version"]) == ("scoresde-likelihood", 1)
        assert (found["target"], found["images"], found["trace"], found["density"]) == (GAUSSIAN, 200, "exact", "ode")
        assert abs(found["bits_above_exact"]["mean"]) < 2e-3
        entropy = math.log2(0.5 * math.sqrt(2 * math.pi * math.e))
        assert abs(found["bits_per_dim"]["mean"] - entropy) < 4 * found["bits_per_dim"]["stderr"]
        data = arrays()
        assert data["bits_per_dim"].shape == data["nfe"].shape == data["exact"].shape == (1, 200)
        assert data["latents"].shape == (200, 2)
        assert data["latents"].std() == pytest.approx(50, rel=0.1)
        assert found["nfe"] == pytest.approx(data["nfe"].mean())
        # A fixed subset, spread over the split.
        assert (data["index"] == np.arange(200) * 50).all()

    def test_on_images_of_a_model(self, scoresde):
        """Data in [0, 1], any batch size, repeats; what the folder says is what its arrays hold."""
        images("a.npz")
        model = ["--preset", "mnist_ve", "--set", *SMALL, "--dataset", "a.npz", "--rtol", "1e-3", "--atol", "1e-3"]
        assert scoresde(*model, "--repeats", 2, "--images", 4, "--out", "out")[0] == 0
        found, data = record(), arrays()
        assert (found["range"], found["of"], found["images"], found["dequantizer"]) == ([0.0, 1.0], 6, 4, "uniform")
        assert found["bits_per_dim"]["mean"] == pytest.approx(data["bits_per_dim"].mean(), abs=1e-7)
        spread = data["bits_per_dim"].mean(0).std(ddof=1) / 2
        assert found["bits_per_dim"]["stderr"] == pytest.approx(spread, abs=1e-7)
        assert "exact_bits_per_dim" not in found

    @pytest.mark.parametrize(
        ("options", "t_min"),
        [([], 0.02), (["--t-min", "0.1"], 0.1), (["--bound", "--times", "100"], 0.02)],
        ids=["of the loss", "given", "bound"],
    )
    def test_starts_where_the_model_was_trained(self, scoresde, options, t_min):
        model = ["--preset", "moons_vp", "--set", "training.loss=dsm[t_min=0.02]", "data.dataset.test_count=4"]
        assert scoresde(*model, "--images", 4, *options, "--out", "out")[0] == 0
        assert record()["t_min"] == t_min

    def test_the_bound(self, scoresde):
        code, out, _ = scoresde("--target", GAUSSIAN, "--images", 50, "--bound", "ssm", "--times", 100, "--out", "out")
        found = record()
        assert code == 0
        assert out.startswith("at most ")
        assert (found["density"], found["form"], found["times"]) == ("bound", "ssm", 100)
        gap = found["bits_above_exact"]
        assert abs(gap["mean"]) < 4 * gap["stderr"]
        assert found["stderr_of_draws"] == pytest.approx(gap["stderr"], rel=0.5)
        assert found["nfe"] == 100 + 10
        bare = ["--target", GAUSSIAN, "--images", 2, "--bound", "--times", 100, "--no-offset"]
        assert not scoresde(*bare, "--out", "bare")[1].startswith("at most ")

    def test_a_discrete_model_on_request(self, scoresde):
        images("a.npz", (2, 8, 8))
        discrete = ["--preset", "mnist_vp", "--set", *SMALL, "model.network.label=index", "--dataset", "a.npz"]
        code, _, err = scoresde(*discrete, "--out", "out")
        assert code == 2
        assert "was trained at discrete ones" in err
        assert "--discrete" in err
        loose = ["--discrete", "--rtol", 1e-2, "--atol", 1e-2]
        assert scoresde(*discrete, *loose, "--out", "out")[0] == 0
        assert record()["discrete"] is True


WRONG = {
    "nothing": (["--out", "out"], "required"),
    "sde of a model": (["--preset", "mnist_vp", "--sde", "ve"], "needs a --target"),
    "set of a target": (["--target", "mixture2d", "--set", "a.b=1"], "--set has no effect on a --target"),
    "no images": (["--target", "mixture2d", "--images", "0"], "--images must be at least 1, got 0"),
    "repeats": (["--target", "mixture2d", "--repeats", "0"], "--repeats must be at least 1, got 0"),
    "draws": (["--target", "mixture2d", "--draws", "0"], "--draws must be at least 1, got 0"),
    "draws of floats": (["--target", "mixture2d", "--draws", "2"], "these data are floats"),
    "draws of the bound": (["--target", "mnist_mfa", "--draws", "2", "--bound"], "leave one of them out"),
    "trace": (["--target", "mixture2d", "--trace", "hutch"], "trace must be 'rademacher' or 'gaussian' or 'exact'"),
    "probes": (["--target", "mixture2d", "--probes", "0"], "probes"),
    "method": (["--target", "mixture2d", "--method", "rk4"], "dopri5"),
    "tolerance": (["--target", "mixture2d", "--rtol", "-1"], "rtol"),
    "t_min": (["--target", "mixture2d", "--t-min", "1.0"], "t_min"),
    "times of the ODE": (["--target", "mixture2d", "--times", "100"], "add --bound"),
    "probes of the bound": (["--target", "mixture2d", "--bound", "--probes", "2"], "leave --probes out"),
    "latents of the bound": (["--target", "mixture2d", "--bound", "--latents"], "leave --latents out"),
    "form": (["--target", "mixture2d", "--bound", "esm"], "form must be 'dsm' or 'ssm', got 'esm'"),
    "times": (["--target", "mixture2d", "--bound", "--times", "10"], "times"),
    "dequantizer": (["--target", "mixture2d", "--dequantizer", "unifrm"], "Did you mean 'uniform'"),
    "data set": (["--target", "mixture2d", "--dataset", "mnst"], "Did you mean 'mnist'"),
    "no such file": (["--target", "mixture2d", "--dataset", "gone.npz"], "there is no file or folder gone.npz"),
    "other shape": (["--target", "mixture2d", "--dataset", "wide.npz"], "wide.npz has events of shape [8, 9]"),
    "out of range": (["--target", "mnist_mfa", "--dataset", "loud.npz"], "loud.npz has values from"),
}


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_a_usage_error_is_one_line_before_any_work(scoresde, tmp_path, arguments, words):
    images("wide.npz", (3, 8, 9))
    np.savez("loud.npz", images=255 * np.ones((2, 28, 28), np.float32))
    code, out, err = scoresde(*arguments, *([] if "--out" in arguments else ["--out", "out"]))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(scoresde, tmp_path):
    (tmp_path / "out").mkdir()
    assert scoresde("--target", GAUSSIAN, "--out", "out")[0] == 3
