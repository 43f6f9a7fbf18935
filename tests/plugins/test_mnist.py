"""The MNIST presets learn, and the bundled models match their description: size, presets, samples of digits."""

from itertools import islice

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scoresde_core.registry import load_registry
from scoresde_core.sampler import sample
from scoresde_plugins.song2021.classification import accuracy
from scoresde_run.commands.shell import main
from scoresde_run.machine.processes import Processes
from scoresde_run.models import checkpoint
from scoresde_run.models.model import plan_data
from scoresde_run.results.picture import to_pixels
from scoresde_run.training.run import difference
from scoresde_run.training.trainer import Trainer, plan_training

REGISTRY = load_registry()
PRESETS = ["mnist_vp", "mnist_subvp", "mnist_ve",
           "xdiffusion_mnist_vp_discrete", "xdiffusion_mnist_vp_continuous", "xdiffusion_mnist_subvp"]  # fmt: skip
STATED = (0.991, 0.991, 0.990, 0.618, 0.145, 0.114)  # accuracy of mnist_classifier (docs/classifiers.md)
REDUCED = ["model.network.nf=8", "model.network.ch_mult=[1,2]", "model.network.num_res_blocks=1",
           "model.network.attn_resolutions=[8]", "model.shape=[1,16,16]", "training.batch_size=16",
           "training.warmup=0", "training.learning_rate=2e-3",
           "training.evaluate_batches=4", "training.evaluate_every=100"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images like digits: 700 draws of the mixture fitted to MNIST."""
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    drawn = REGISTRY.create("targets", "mnist_mfa").sample(700, seed=3)
    np.savez(path, images=to_pixels(drawn))
    return path


@pytest.mark.parametrize("name", PRESETS)
def test_the_test_loss_of_a_reduced_preset_falls(name, data):
    config = REGISTRY.create("presets", name).override([*REDUCED, f"data.dataset=npz[path={data}]"])
    trainer = Trainer(plan_training(config, REGISTRY), Processes(torch.device("cpu")))
    before = trainer.evaluate()
    for _ in islice(trainer.steps(), 50):
        pass
    assert trainer.evaluate() < 0.6 * before


@pytest.fixture(scope="module")
def found():
    return checkpoint.find("mnist_vp", REGISTRY)


class TestShipped:
    def test_it_is_small(self, found):
        assert (found.folder / "weights.safetensors").stat().st_size < 4_000_000
        kept = load_file(found.folder / "weights.safetensors")
        parameters = dict(found.load(REGISTRY).network.named_parameters())
        assert {kept[name].dtype for name in parameters} == {torch.float16}
        assert {p.dtype for p in parameters.values()} == {torch.float32}

    def test_it_is_of_the_preset_of_its_name_as_it_is_now(self, found):
        preset = REGISTRY.create("presets", "mnist_vp")
        assert difference(preset, found.config) == ["training.precision: float32 -> bfloat16"]
        assert found.step == preset.training.iterations == found.config.training.iterations
        assert found.config.sampling == preset.sampling

    def test_its_samples_are_digits(self, found):
        """By the mixture fitted to MNIST, under which real digits have 290 nats, upside down -540, shuffled -24,000."""
        model, target = found.load(REGISTRY), REGISTRY.create("targets", "mnist_mfa")
        sampler = REGISTRY.create("samplers", "pc[predictor=dpmpp_2m,grid=logsnr,steps=10]")
        x = sample(model.score(), sampler, 64, seed=0).x.clamp(-1, 1)
        assert float(target.log_prob(x).mean()) > -300
        assert len(set(target.responsibilities(x).argmax(1).tolist())) >= 15  # of 64 real ones: 26
        assert 0.09 < float((x > 0).float().mean()) < 0.15  # the share of ink: 0.12 or 0.13


class TestShippedClassifier:
    """mnist_classifier is of its preset, knows clean digits, and guides mnist_vp to the digit that is asked for."""

    found = checkpoint.find("mnist_classifier", REGISTRY)

    def test_it_is_small_and_of_the_preset_of_its_name_as_it_is_now(self):
        preset = REGISTRY.create("presets", "mnist_classifier")
        assert difference(preset, self.found.config) == ["training.precision: float32 -> bfloat16"]
        assert self.found.step == preset.training.iterations
        assert (self.found.folder / "weights.safetensors").stat().st_size < 500_000

    def test_it_has_its_stated_accuracy(self, shared):
        """On clean digits and at every noise, among it where samples settle on a class (sigma 3.33)."""
        classifier = self.found.load(REGISTRY, outputs=("logits",))
        dataset = REGISTRY.create("datasets", f"mnist[root={shared / 'data'}]")
        x, labels = (
            plan_data(classifier.plan, REGISTRY)[1](dataset.load("test")[:1000]),
            dataset.known("test")["labels"],
        )
        for row, stated in zip(accuracy(classifier.view(), x, labels[:1000], levels=6), STATED, strict=True):
            assert abs(row["accuracy"] - stated) < 4 * max(row["accuracy_stderr"], 0.004)

    def test_a_condition_on_it_gives_the_digits_asked_for(self, tmp_path):
        """By the features' classifier, which knows nothing of noise: most of 40 digits, and of 40 free ones a tenth."""
        judge, asked, share = REGISTRY.create("extractors", "mnist_classifier"), torch.arange(40) % 10, {}
        sampling = ["--sampler", "pc[predictor=dpmpp_2m,grid=logsnr,steps=10]", "--n", "40", "--device", "cpu"]
        guided = f"class[checkpoint=mnist_classifier,label={[*range(10)]},scale=4]"
        for name, more in (("free", []), ("guided", ["--condition", guided])):
            out = tmp_path / name
            assert main(["sample", "--checkpoint", "mnist_vp", *sampling, *more, "--out", str(out)]) == 0
            images = torch.from_numpy(np.load(out / "samples.npz")["samples"]).permute(0, 3, 1, 2)
            with torch.no_grad():
                logits = judge.load(torch.device("cpu"))(images).logits
            share[name] = int((logits.argmax(1) == asked).sum())
        assert share["free"] <= 12  # of 40 at 0.1 each, more have a chance of 1e-4
        assert share["guided"] >= 30
