"""Variational dequantisation: log q is that of a density, and training brings the bound down to log P(v)."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scoresde_core import ExactScore, create, default_registry
from scoresde_core.errors import FileError, UsageError
from scoresde_core.loss import Draws
from scoresde_core.noise import Noise
from scoresde_plugins.commands.train_dequantizer import DequantizationLoss
from scoresde_plugins.dequantizers.flowpp import FlowPP, merge, split
from scoresde_plugins.likelihood.bits_per_dim import bits_per_dim, measure
from scoresde_plugins.likelihood.bound import likelihood_bound
from scoresde_plugins.likelihood.likelihood import FlowDensity
from scoresde_plugins.targets.gaussian import GaussianTarget
from scoresde_run.commands.shell import main
from scoresde_run.data.dequantizer import Dequantizer
from scoresde_run.data.units import Units
from scoresde_run.models.network_score import NetworkScore
from scoresde_run.results.fingerprint import Fingerprint

TINY = {"filters": 6, "couplings": 2, "blocks": 1, "components": 3, "heads": 2, "context": 4}


def flow(shape, seed=0, **options):
    """A flow away from its initial state, in float64, and some images."""
    generator = torch.Generator().manual_seed(seed)
    module = FlowPP(**{**TINY, **options}).build(shape).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
    images = torch.randint(0, 256, (5, *shape), generator=generator).to(torch.uint8)
    return module, images, torch.randn(5, *shape, generator=generator, dtype=torch.float64)


class TestFlow:
    def test_columns(self):
        x = torch.arange(24.0).reshape(1, 2, 3, 4)
        assert split(x)[0][0, 0].tolist() == [[0, 2], [4, 6], [8, 10]]
        assert torch.equal(merge(split(x)), x)

    @pytest.mark.parametrize("couplings", [1, 2, 3])
    def test_log_density_by_automatic_differentiation(self, couplings):
        """log q(u) = log N(eps) - log |det du/deps|."""
        module, images, noise = flow((2, 3, 4), couplings=couplings)
        u, log_q = module(images, noise)
        assert bool(((u > 0) & (u < 1)).all())
        for k in (0, 3):
            jacobian = torch.autograd.functional.jacobian(
                lambda eps, k=k: module(images[k : k + 1], eps)[0].flatten(), noise[k : k + 1]
            ).reshape(24, 24)
            normal = torch.distributions.Normal(0, 1).log_prob(noise[k]).sum()
            torch.testing.assert_close(log_q[k], normal - torch.linalg.slogdet(jacobian).logabsdet)

    def test_depends_on_the_image(self):
        module, images, noise = flow((1, 4, 4))
        assert not torch.allclose(module(images[:1], noise[:1])[0], module(images[1:2], noise[:1])[0])

    def test_begins_near_uniform(self):
        images, noise = torch.zeros(400, 1, 8, 8, dtype=torch.uint8), torch.randn(400, 1, 8, 8)
        with torch.no_grad():
            u, log_q = FlowPP(**TINY).build((1, 8, 8))(images, noise)
        assert float(u.mean()) == pytest.approx(0.5, abs=0.05)
        assert float(u.var()) == pytest.approx(1 / 12, rel=0.2)
        assert float(log_q.mean()) / 64 / math.log(2) < 0.1

    @pytest.mark.parametrize("shape", [(1, 4, 5), (2,)])
    def test_odd_widths_are_refused(self, shape):
        with pytest.raises(ValueError, match="even"):
            FlowPP().build(shape)


class Fixed(Dequantizer):
    """A flow as it is."""

    def __init__(self, module):
        self.module = module

    def dequantize(self, images, noise):
        with torch.no_grad():
            u, log_q = self.module(images, noise())
        return images + u, log_q


@pytest.mark.parametrize("units", [Units(True, levels=256), Units(False, levels=256)], ids=["centred", "unit"])
def test_the_loss_is_the_bound_in_bits_per_dimension(units):
    """One time and noise an image: on average what the stratified bound gives, without its offset."""
    low, high = units.range
    target, sde = GaussianTarget((1, 2, 4), mean=(low + high) / 2, std=0.3 * (high - low)), create("sdes", "vp")
    module = flow((1, 2, 4))[0].float()
    images = torch.randint(90, 166, (1, 1, 2, 4), generator=torch.Generator().manual_seed(4)).to(torch.uint8)
    score, many = ExactScore(target, sde), images.expand(40_000, -1, -1, -1)
    with torch.no_grad():
        losses = DequantizationLoss(score, units).per_sample(
            NetworkScore(module, sde, parameterisation="score", label="t"), many, Draws(0, 0, 40_000)
        )
    bound = bits_per_dim(
        lambda x, seed: -likelihood_bound(score, x, times=100, offset=False, seed=seed).nats,
        images.expand(200, -1, -1, -1), low=low, high=high, dequantizer=Fixed(module),
    )  # fmt: skip
    error = math.hypot(float(losses.std()) / math.sqrt(40_000), bound.stderr)
    assert error < 0.06
    assert abs(float(losses.mean()) - bound.mean) < 4 * error


STD = 0.002
TARGET = GaussianTarget((1, 2, 4), mean=1 / 256, std=STD)  # the middle of grey level 128, narrower than its cell
TRAIN = [
    "train-dequantizer", "--target", f"gaussian[shape=[1,2,4],mean={1 / 256},std={STD}]", "--dataset",
    "npz[path=flat.npz]", "training.batch_size=32", "training.learning_rate=0.01", "training.warmup=0",
    "training.log_every=20", "training.evaluate_every=null", "--log-level", "error",
    *(f"model.network.{key}={value}" for key, value in TINY.items()),
]  # fmt: skip


@pytest.fixture(scope="class")
def trained(tmp_path_factory):
    """A run of 80 steps, on images of a single grey level."""
    folder = tmp_path_factory.mktemp("dequantizer")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        np.savez("flat.npz", images=np.full((100, 2, 4), 128, np.uint8))
        assert main([*TRAIN, "--out", "run", "training.iterations=80", "training.resume_every=40"]) == 0
        yield folder


@pytest.mark.usefixtures("trained")
class TestTraining:
    def test_the_bound_is_tighter_than_with_uniform_noise(self, trained):
        """The truth is -log2 P(v) of the one grey level; uniform noise is above it, what was fitted much less so."""
        truth = -math.log2(math.erf(1 / 256 / STD / math.sqrt(2)))
        images = torch.full((400, 1, 2, 4), 128, dtype=torch.uint8)
        above = []
        for text in ("uniform", f"variational[checkpoint={trained / 'run'}]"):
            found = bits_per_dim(lambda x, seed: TARGET.log_prob(x), images, dequantizer=create("dequantizers", text))
            assert found.mean > truth - 4 * found.stderr
            above.append(found.mean - truth)
        assert above[1] < 0.5 * above[0]

    def test_noise_stays_in_the_cell_and_follows_its_key(self, trained):
        dequantizer = create("dequantizers", f"variational[checkpoint={trained / 'run'}]")
        images, noise = torch.full((50, 1, 2, 4), 255, dtype=torch.uint8), Noise(0, (1, 2, 4), 50)
        filled, log_q = dequantizer.dequantize(images, noise.at(0, "dequantization"))
        again, _ = dequantizer.dequantize(images, noise.at(0, "dequantization"))
        assert torch.equal(filled, again)
        assert filled.dtype == torch.float32
        assert log_q.shape == (50,)
        assert float(filled.min()) > 255
        assert float(filled.max()) < 256

    def test_a_resumed_run_ends_where_an_unbroken_one_does(self, trained):
        assert main([*TRAIN, "--out", "parts", "training.iterations=40"]) == 0
        assert main([*TRAIN, "--out", "parts", "training.iterations=80"]) == 0
        from safetensors.torch import load_file

        whole, parts = (
            load_file(trained / name / "models" / "step_000000080" / "ema.safetensors") for name in ("run", "parts")
        )
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[name], parts[name]) for name in whole)

    def test_a_run_keeps_to_its_score(self, trained, capsys):
        other = [text.replace("std=0.002", "std=0.003") for text in TRAIN]
        assert main([*other, "--out", "run", "training.iterations=90"]) == 2
        assert "holds a run with another configuration" in capsys.readouterr().err

    def test_the_command_measures_with_it(self, trained, capsys):
        subject = ["--target", TRAIN[2], "--dataset", "flat.npz", "--images", "4", "--trace", "exact"]
        assert main(["likelihood", *subject, "--dequantizer", "variational[checkpoint=run]", "--out", "l"]) == 0
        assert "dequantizer: variational[checkpoint=run]" in Path("l/likelihood.yaml").read_text()
        capsys.readouterr()

    def test_other_weights_in_the_same_place_are_other_noise(self, trained):
        """Not what an interrupted likelihood goes on with, and not what is kept in memory."""
        subject = ["--target", TRAIN[2], "--dataset", "flat.npz", "--images", "4", "--trace", "exact"]
        described, found = [], []
        for run, number in (("run", 0), ("parts", 1), ("run", 2)):
            shutil.rmtree("here", ignore_errors=True)
            shutil.copytree(trained / run / "models" / ("step_000000080" if run == "run" else "step_000000040"), "here")
            text = "variational[checkpoint=here]"
            described.append(Fingerprint(default_registry()).describe(create("dequantizers", text)))
            assert main(["likelihood", *subject, "--dequantizer", text, "--out", f"here_{number}"]) == 0
            found.append(np.load(f"here_{number}/likelihood.npz")["bits_per_dim"])
        assert described[0] == described[2] != described[1]
        assert (found[0] == found[2]).all()
        assert not (found[0] == found[1]).any()

    def test_other_shapes_are_refused(self, trained):
        dequantizer = create("dequantizers", f"variational[checkpoint={trained / 'run'}]")
        with pytest.raises(FileError, match=r"for images of shape \[1, 2, 4\], not \[1, 4, 4\]"):
            dequantizer.dequantize(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), lambda: torch.zeros(2, 1, 4, 4))


class TestTruncatedNormal:
    def test_it_is_the_noise_of_a_model_of_grey_levels(self):
        """Under the exact score of one level, q and p are the same normal law, but q is cut to the cell."""
        level = torch.full((3, 1, 2, 2), 128, dtype=torch.uint8)
        model = ExactScore(GaussianTarget((1, 2, 2), mean=2 * 128 / 255 - 1, std=1e-5), create("sdes", "vp"))
        at = model.sde.float_level(1e-4)
        cells = at.sigma / at.alpha * 255 / 2
        density = FlowDensity(trace="exact", t_min=1e-4)
        found = measure(density, model, level, repeats=2, dequantizer=create("dequantizers", "truncated_normal"))
        assert 0.3 < cells < 0.6
        cut = -math.log2(math.erf(0.5 / cells / math.sqrt(2)))
        torch.testing.assert_close(found.values, torch.full_like(found.values, cut), rtol=0, atol=3e-3)

    def test_a_large_scale_is_uniform(self):
        images = torch.zeros(4000, 1, 1, 1, dtype=torch.uint8)
        noise = Noise(0, (1, 1, 1), 4000)
        u, log_q = create("dequantizers", "truncated_normal[std=50]").dequantize(images, noise.at(0, "u"))
        assert float(log_q.abs().max()) < 1e-4
        torch.testing.assert_close(u.flatten().sort().values, (torch.arange(4000) + 0.5) / 4000, rtol=0, atol=0.03)

    def test_the_largest_grey_level_stays_below_the_next_in_float32(self):
        images, far = torch.full((1, 1, 1, 2), 255, dtype=torch.uint8), torch.tensor([[[[40.0, -40.0]]]])
        u, _ = create("dequantizers", "truncated_normal[std=5]").dequantize(images, lambda: far)
        assert u.dtype == torch.float32
        assert 255.9 < float(u.max()) < 256
        assert 255 <= float(u.min()) < 255.1

    def test_its_law_is_that_of_rejection(self):
        """The variance of a normal law cut at half a cell is s^2 (1 - 2 e phi(e) / (2 Phi(e) - 1)), e = 1 / (2 s)."""
        images, noise = torch.zeros(20_000, 1, 1, 2, dtype=torch.uint8), Noise(1, (1, 1, 2), 20_000)
        u, _ = create("dequantizers", "truncated_normal[std=0.3]").dequantize(images, noise.at(0, "u"))
        e = 0.5 / 0.3
        share = 2 * e * math.exp(-(e**2) / 2) / math.sqrt(2 * math.pi) / math.erf(e / math.sqrt(2))
        assert float(u.var()) == pytest.approx(0.09 * (1 - share), rel=0.03)
        assert abs(float(u.mean()) - 0.5) < 4 * 0.3 / math.sqrt(40_000)

    def test_without_a_model_it_asks_for_its_scale(self):
        with pytest.raises(UsageError, match="give std="):
            create("dequantizers", "truncated_normal").dequantize(torch.zeros(1, 1), lambda: torch.zeros(1, 1))


class TestWrong:
    def test_no_such_checkpoint(self):
        with pytest.raises((FileError, UsageError), match="no such folder"):
            create("dequantizers", "variational[checkpoint=gone]")

    def test_a_checkpoint_of_something_else(self, tmp_path):
        from scoresde_core.components import Spec
        from scoresde_run.models import checkpoint
        from scoresde_run.models.config import Config, ModelConfig

        config = Config(ModelConfig(Spec("mlp"), Spec("vp"), (2,)))
        checkpoint.save(tmp_path / "c", config, {"a": torch.zeros(1)})
        with pytest.raises(UsageError, match="contains a mlp, not a dequantiser"):
            create("dequantizers", f"variational[checkpoint={tmp_path / 'c'}]")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--target", "mnist_mfa"], "name the images: --dataset cifar10"),
            (["--target", "mixture2d", "--dataset", "exact[target=mixture2d]"], "needs uint8 images"),
            (["--target", "gaussian[shape=[1,3,5]]", "--dataset", "npz[path=odd.npz]"], "even and odd columns"),
            (["--preset", "vp_ddpm_cifar10", "--dataset", "cifar10"], "was trained at discrete ones"),
        ],
    )
    def test_is_one_line(self, tmp_path, monkeypatch, capsys, arguments, words):
        monkeypatch.chdir(tmp_path)
        np.savez("odd.npz", images=np.zeros((20, 3, 5), np.uint8))
        assert main(["train-dequantizer", *arguments, "--out", "run"]) == 2
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1
