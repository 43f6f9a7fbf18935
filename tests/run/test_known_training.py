"""Training with what is known of events: classes and observations, dropped at random, for networks and processes."""

import json
import math

import numpy as np
import pytest
import torch
from scoresde import Processes, create, default_registry, plan_training, sample
from scoresde_core.components import Spec
from scoresde_core.errors import UsageError
from scoresde_plugins.networks.unet import UNet
from scoresde_run.commands.shell import main
from scoresde_run.models import checkpoint, known
from scoresde_run.models.config import Config
from scoresde_run.models.network_score import NetworkScore
from scoresde_run.sampling.guidance import GuidedSampler
from scoresde_run.training.run import TrainingRun

REGISTRY = default_registry()


def config(network="mlp[classes=3]", sde="vp", dataset="exact[target=mixture2d[components=3],count=2000]", **training):
    data = {
        "model": {"network": network, "sde": sde, "shape": [2]},
        "training": {"loss": "dsm", "batch_size": 256, "iterations": 1000, "warmup": 0, "learning_rate": 3e-3,
                     "ema": 0.99, "evaluate_every": None, **training},
        "data": {"dataset": dataset, "random_flip": False},
        "sampling": {"sampler": "pc[predictor=ddim,steps=30]", "n": 6},
    }  # fmt: skip
    return Config.from_plain(data, "the test")


def trained(steps, **how):
    trainer = plan_training(config(**how), REGISTRY).build(Processes(torch.device("cpu")))
    for _ in zip(range(steps), trainer.steps(), strict=False):
        pass
    return trainer


@pytest.fixture(scope="module")
def classes():
    return trained(500)


def shares(trainer, model, guidance=None):
    """How many of 300 samples have each of the three components."""
    sampler = trainer.plan.model.sampler
    sampler = GuidedSampler(sampler, create("guidances", guidance)) if guidance else sampler
    x = sample(model, sampler, 300, seed=1).x.double()
    return create("targets", "mixture2d[components=3]").responsibilities(x).argmax(1).bincount(minlength=3) / 300


def test_one_network_knows_the_class_or_any(classes):
    """With dropout of the class in training it has both scores; guidance by scale 0 is the unconditional one."""
    model = classes.averaged().score()
    for k in range(3):
        assert float(shares(classes, model.given(**{"class": torch.tensor([k])}))[k]) > 0.95
    assert float(shares(classes, model).max()) < 0.5
    told = model.given(**{"class": torch.tensor([1])})
    assert float(shares(classes, told, "cfg[scale=0]").max()) < 0.5
    assert float(shares(classes, told, "cfg[scale=2]")[1]) > 0.95


def test_a_picture_shows_every_class_in_order(classes):
    drawn = classes.sample()
    found = create("targets", "mixture2d[components=3]").responsibilities(drawn.double()).argmax(1)
    assert found.tolist() == [0, 0, 1, 1, 2, 2]


def test_dropout_is_a_share_of_the_rows_keyed_by_step():
    kept = torch.tensor([True, False, True])
    told = {"class": torch.tensor([2, 1, 0]), "y": torch.ones(3, 2)}
    found = known.dropped(told, kept)
    assert found["class"].tolist() == [2, -1, 0]
    assert found["y"].tolist() == [[1, 1], [0, 0], [1, 1]]


class Recorded(torch.nn.Module):
    """Stands for a network, and keeps the classes that it is given."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []

    def forward(self, x, label, **given):
        self.seen.append(given["class"].clone())
        return x * self.weight


@pytest.mark.parametrize(("dropout", "share"), [(0.0, 0.0), (0.3, 0.3)])
def test_a_share_of_the_classes_is_dropped(dropout, share):
    trainer = plan_training(config(known_dropout=dropout), REGISTRY).build(Processes(torch.device("cpu")))
    seen = Recorded()
    trainer._model.network = seen
    for _ in zip(range(20), trainer.steps(), strict=False):
        pass
    rows = torch.cat(seen.seen)
    found = float((rows < 0).double().mean())
    assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / len(rows)) + 1e-12
    assert set(rows.unique().tolist()) == ({0, 1, 2} if share == 0 else {-1, 0, 1, 2})


def test_what_was_never_dropped_must_be_given():
    trainer = plan_training(config(known_dropout=0.0), REGISTRY).build(Processes(torch.device("cpu")))
    model = trainer.averaged().score()
    with pytest.raises(UsageError, match="the model needs class of each sample: give --known class="):
        sample(model, trainer.plan.model.sampler, 2)
    told = model.given(**{"class": torch.tensor([1])})
    guided = GuidedSampler(trainer.plan.model.sampler, create("guidances", "cfg"))
    with pytest.raises(UsageError, match="trained without dropout of what is known"):
        sample(told, guided, 2)
    sample(told, trainer.plan.model.sampler, 2)


def test_a_process_that_needs_an_observation_is_trained_with_it():
    """Under OUVE the network sees x_t and y; its samples given y have the posterior mean and spread of Gaussian data.

    x ~ N(0, 1), y = x + N(0, 0.5^2): x | y ~ N(0.8 y, 0.2).
    """
    how = {
        "network": "mlp[cond_shape=[2],cond=y,label=t]",
        "sde": "ouve",
        "dataset": "exact[target=observed[of=gaussian[shape=[2],std=1],noise=0.5],count=20000]",
    }
    trainer = trained(800, **how)
    y = torch.tensor([[1.5, -1.0], [0.0, 0.5]]).repeat_interleave(400, 0)
    model = trainer.averaged().score().given(y=y)
    x = sample(model, create("samplers", "pc[predictor=reverse_diffusion,steps=100]"), 800, seed=2).x
    for rows in (slice(0, 400), slice(400, 800)):
        torch.testing.assert_close(x[rows].mean(0), 0.8 * y[rows][0], atol=0.12, rtol=0)
        torch.testing.assert_close(x[rows].std(0), torch.full((2,), math.sqrt(0.2)), atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "mlp[classes=2]"}, "there is no class 2, the model has 0 to 1"),
        ({"network": "mlp[cond_shape=[2]]"}, "has no y, which training needs"),
        ({"dataset": "exact[target=gaussian[shape=[2]],count=100]"}, "has no class, which training needs"),
        (
            {"network": "mlp[cond_shape=[3]]", "dataset": "exact[target=observed,count=100]"},
            r"y has rows of shape \[2\], the model takes \[3\]",
        ),
    ],
)
def test_data_that_do_not_fit_are_refused_before_training(changes, message):
    with pytest.raises(UsageError, match=message):
        plan_training(config(**changes), REGISTRY).build(Processes(torch.device("cpu")))


@pytest.mark.parametrize("name", ["ncsnpp", "ddpm"])
def test_u_nets_take_classes_and_images(name):
    """No class is the last row of the embedding; a new embedding changes nothing; an image is read beside x."""
    spec = create("networks", f"{name}[nf=64,ch_mult=[1,2],num_res_blocks=1,attn_resolutions=[],classes=4]")
    module: UNet = spec.build((1, 8, 8)).eval()
    assert not module.class_embedding.weight.any()
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x, label = torch.randn(3, 1, 8, 8), torch.rand(3)
    kinds = torch.tensor([0, 3, -1])
    with torch.no_grad():
        mixed = module(x, label, **{"class": kinds})
        none = module(x, label)
        torch.testing.assert_close(mixed[2], none[2])
        assert float((mixed[:2] - none[:2]).abs().flatten(1).amax(1).min()) > 1e-4
        torch.nn.init.zeros_(module.class_embedding.weight)
        torch.testing.assert_close(module(x, label, **{"class": kinds}), module(x, label))
    assert spec.takes((1, 8, 8)) == {"class": 4}
    with pytest.raises(UsageError, match="conditional=false leaves classes without a way"):
        create("networks", Spec(name, {"classes": 4, "conditional": False}))


def test_an_image_beside_x_is_zeros_if_it_is_not_given():
    spec = create("networks", "ncsnpp[nf=8,ch_mult=[1,2],num_res_blocks=1,attn_resolutions=[],cond_channels=1,cond=y]")
    module = spec.build((1, 8, 8)).eval()
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.1)
    model = spec.view(module, create("sdes", "vp"), (1, 8, 8))
    assert isinstance(model, NetworkScore)
    x, level = torch.randn(2, 1, 8, 8), model.sde.float_level(0.5)
    with torch.no_grad():
        torch.testing.assert_close(model.score(x, level), model.given(y=torch.zeros(1, 1, 8, 8)).score(x, level))
        assert float((model.given(y=torch.ones(2, 1, 8, 8)).score(x, level) - model.score(x, level)).abs().max()) > 1e-4


def test_an_unconditional_model_goes_on_as_one_with_classes(tmp_path):
    """``--from`` takes its weights, and what only the new network has, an embedding of classes, is zero."""
    old = plan_training(config(network="mlp"), REGISTRY).build(Processes(torch.device("cpu")))
    checkpoint.save(tmp_path / "old", old.plan.config, old.state.network.state_dict(), None, step=1, provenance={})
    new = plan_training(config(seed=5), REGISTRY).build(Processes(torch.device("cpu")))
    TrainingRun(new, tmp_path / "new", REGISTRY.hook).start_from(tmp_path / "old")
    x, level = torch.randn(3, 2), old.plan.model.sde.float_level(0.5)
    told = new.averaged().score().given(**{"class": torch.tensor([0, 1, 2])})
    with torch.no_grad():
        torch.testing.assert_close(told.score(x, level), old.averaged().score().score(x, level))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a short training with classes, with its configuration's test loss."""
    folder = tmp_path_factory.mktemp("known") / "run"
    path = folder.parent / "preset.yaml"
    made = config(iterations=300, evaluate_every=300, evaluate_batches=4, snapshot_every=300)
    path.write_text(made.to_yaml(), encoding="utf-8")
    assert main(["train", str(path), "--out", str(folder), "--log-level", "error"]) == 0
    return folder


def rows_of(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_evaluate_reads_what_the_model_knows(run, tmp_path):
    """The loss is that which training logged; samples have the classes that were asked for, in turn."""
    words = ["evaluate", str(run), "--device", "cpu", "--out"]
    assert main([*words, str(tmp_path / "loss"), "--loss", "--events", "1024"]) == 0
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    (found,) = rows_of(tmp_path / "loss")
    assert found["metrics"]["test_loss"]["value"] == pytest.approx(logged["evaluation_loss"], rel=0.2)
    sampled = ["--evaluator", "mode_weights", "--target", "mixture2d[components=3]", "--samples", "90"]
    asked = ["--known", "class=[0,1]", "--guidance", "cfg[scale=1.5]", "--batch-size", "20"]
    assert main([*words, str(tmp_path / "known"), *sampled, *asked]) == 0
    (found,) = rows_of(tmp_path / "known")
    assert (found["known"], found["guidance"], found["nfe"]) == ("class=[0,1]", "cfg[scale=1.5]", 60)
    # Two of three equal components: the total variation is 1/3.
    assert found["metrics"]["mode_weights"]["value"] == pytest.approx(1 / 3, abs=0.08)


def test_commands_tell_the_model(run, tmp_path, capsys):
    """Each sample has its class, whatever the batch; likelihood and encodings take those of the data."""
    words = ["--checkpoint", str(run), "--device", "cpu"]
    sampled = ["--n", "9", "--known", "class=[0,1,2]", "--batch-size", "4", "--out", str(tmp_path / "s")]
    assert main(["sample", *words, *sampled]) == 0
    x = torch.from_numpy(np.load(tmp_path / "s" / "samples.npz")["floats"]).double()
    found = create("targets", "mixture2d[components=3]").responsibilities(x).argmax(1)
    assert found.tolist() == [0, 1, 2] * 3
    bits = {}
    for told in ("class=data", "class=0"):
        out = tmp_path / told
        assert main(["likelihood", *words, "--images", "30", "--known", told, "--out", str(out)]) == 0
        bits[told] = np.load(out / "likelihood.npz")["bits_per_dim"].mean()
    assert bits["class=0"] > bits["class=data"] + 1
    assert main(["encode", *words, "--images", "10", "--batch-size", "3", "--known", "class=data",
                 "--out", str(tmp_path / "e")]) == 0  # fmt: skip
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample", "--known", "class=7"], "there is no class 7, the model has 0 to 2"),
        (["sample", "--known", "class=two"], "--known class must be an integer or a list of integers, got 'two'"),
        (["sample", "--known", "clas=1"], "the model takes nothing called 'clas'. Did you mean 'class'?"),
        (["sample", "--guidance", "cfg"], "cfg guides by what is known of each sample, and nothing is"),
        (["encode", "--known", "class=data", "--interpolate", "3"], "--known belongs to events: leave one out"),
        (["likelihood", "--known", "class"], "must be NAME=VALUE"),
    ],
)
def test_one_line_says_what_is_wrong(run, words, message, tmp_path, capsys):
    command, *rest = words
    code = main([command, "--checkpoint", str(run), "--device", "cpu", "--out", str(tmp_path / "o"), *rest])
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1), err
    assert message in err
    assert not (tmp_path / "o").exists()
