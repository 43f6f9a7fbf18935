"""Classifiers of noisy events: the loss receives labels, training finds the exact posterior, and conditions use it."""

import json
import math
import shutil
import sys
from itertools import islice

import attrs
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scoresde import Batches, Dataset, Draws, ExactScore, Preprocessing, create, load_registry
from scoresde_core.components import parameters
from scoresde_core.errors import FileError, UsageError
from scoresde_core.sde import Level
from scoresde_plugins.conditions.label import ClassCondition, TargetClassifier
from scoresde_plugins.networks.classifier import NetworkClassifier
from scoresde_plugins.song2021.classification import accuracy
from scoresde_run.commands.shell import main
from scoresde_run.machine.processes import Processes
from scoresde_run.models import checkpoint
from scoresde_run.models.model import plan_data, plan_loss, plan_model
from scoresde_run.training.run import TrainingRun
from scoresde_run.training.trainer import Trainer, plan_training

REGISTRY = load_registry()
HERE = Processes(torch.device("cpu"))
STD = 0.8
MIXTURE = f"mixture2d[components=3,std={STD},weights=[0.5,0.3,0.2]]"
POINTS = ["model.network=mlp_classifier[classes=3,width=32,depth=2]", "model.sde=ve[sigma_max=10]", "model.shape=[2]",
          f"data.dataset=exact[target={MIXTURE},count=4096,test_count=2048]", "data.random_flip=false",
          "training.batch_size=256", "training.learning_rate=1e-2", "training.warmup=0", "training.weight_decay=0",
          "training.ema=0.98", "training.evaluate_batches=8"]  # fmt: skip


def config(*changes):
    return REGISTRY.create("presets", "mnist_classifier").override([*POINTS, *changes])


def trainer(*changes):
    return Trainer(plan_training(config(*changes), REGISTRY), HERE)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A classifier of three Gaussians in the plane, trained in a folder by the command."""
    folder = tmp_path_factory.mktemp("classifier")
    (folder / "it.yaml").write_text(
        config("training.iterations=250", "training.evaluate_every=250", "training.resume_every=125").to_yaml()
    )
    assert main(["train", str(folder / "it.yaml"), "--out", str(folder / "run"), "--device", "cpu"]) == 0
    return folder / "run"


@attrs.frozen
class Marked(Dataset):
    """Grey levels 0 .. 9, with twice the level as the label."""

    labels: int = 10

    @property
    def shape(self):
        return (1, 2, 2)

    def load(self, split="train"):
        return torch.arange(10, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()

    def open(self, split="train"):
        return [*self.load(split)]

    def known(self, split="train"):
        return {"labels": 2 * torch.arange(self.labels)}


class TestLabels:
    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
    @pytest.mark.parametrize("resident", [True, False], ids=["resident", "streamed"])
    @pytest.mark.parametrize("world", [1, 2])
    def test_they_come_with_their_events(self, resident, world):
        for rank in range(world):
            options = dict(rank=rank, world=world, resident=resident, workers=0, needs=("labels",))
            batches = Batches(Marked(), 4, preprocessing=Preprocessing(centered=False), **options)
            found = [*islice(batches.stream(3), 6), *batches.once()]
            assert [len(batch.x) for batch in found[:6]] == [4 // world] * 6
            for batch in found:
                levels = (batch.x[:, 0, 0, 0] * 255).round().long()
                assert torch.equal(batch.known["labels"], 2 * levels)
                for part in batch.parts(2):
                    assert torch.equal(part.known["labels"], 2 * (part.x[:, 0, 0, 0] * 255).round().long())

    def test_nobody_asks_for_what_no_loss_needs(self):
        assert next(Batches(Marked(labels=3), 4).stream()).known == {}

    def test_there_has_to_be_one_an_event(self):
        with pytest.raises(UsageError, match="has 10 events in its train split, but 9 labels"):
            Batches(Marked(labels=9), 4, needs=("labels",))

    def test_of_a_target_have_the_joint_law(self):
        """Given its label, an event has its component's mean and variance; given an event, a label its posterior."""
        data = create("datasets", f"exact[target={MIXTURE},count=20000]")
        x, labels, target = data.load().double(), data.known()["labels"], data.target
        for k, weight in enumerate(target.modes().tolist()):
            own, count = x[labels == k], int((labels == k).sum())
            assert count / len(x) == pytest.approx(weight, abs=4 * math.sqrt(weight * (1 - weight) / len(x)))
            torch.testing.assert_close(own.mean(0), target.mixture.means[k], rtol=0, atol=4 * STD / math.sqrt(count))
            assert float(own.var(0).mean()) == pytest.approx(STD**2, rel=4 / math.sqrt(count))
        posterior = target.responsibilities(x)
        doubtful = (posterior[:, 0] > 0.2) & (posterior[:, 0] < 0.8)
        gap = ((labels == 0).double() - posterior[:, 0])[doubtful]
        assert len(gap) > 100
        assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(len(gap))
        assert torch.equal(labels, data.known()["labels"])
        assert not torch.equal(labels[:10_000], data.known("test")["labels"])

    def test_of_files(self, tmp_path):
        images, labels = np.zeros((20, 4, 4), np.uint8), np.arange(20) % 7
        np.savez(tmp_path / "it.npz", images=images, labels=labels, halves=labels / 2)
        data = create("datasets", f"npz[path={tmp_path}/it.npz,labels=labels]")
        assert data.known("test")["labels"].tolist() == [9 % 7, 19 % 7]
        assert len(data.known("train")["labels"]) == len(data.load("train"))
        assert create("datasets", f"npz[path={tmp_path}/it.npz]").known() == {}
        with pytest.raises(FileError, match=r"'halves' in .* must be integers"):
            create("datasets", f"npz[path={tmp_path}/it.npz,labels=halves]").known()
        smaller = create("datasets", f"resized[data=npz[path={tmp_path}/it.npz,labels=labels],size=2]")
        assert smaller.known("test")["labels"].tolist() == [2, 5]

    def test_of_folders(self, tmp_path):
        from PIL import Image

        for number in range(12):
            folder = tmp_path / ("dogs" if number % 3 else "cats")
            folder.mkdir(exist_ok=True)
            Image.fromarray(np.full((4, 4), 20 * number, np.uint8)).save(folder / f"{number:02}.png")
        data = create("datasets", f"image_folder[path={tmp_path},size=4,grey=true,test_share=0.5]")
        for split in ("train", "test"):
            levels = data.load(split)[:, 0, 0, 0] // 20
            assert torch.equal(data.known(split)["labels"], (levels % 3 > 0).long())
        assert create("datasets", f"image_folder[path={tmp_path / 'dogs'},size=4]").known() == {}
        with pytest.raises(UsageError, match="labels need every picture: set broken=fail"):
            create("datasets", f"image_folder[path={tmp_path},size=4,broken=skip]").known()

    def test_of_cifar10_jpegs(self, shared):
        labels = create("datasets", f"jpeg_archive[path={shared / 'data' / 'cifar10_jpeg'}]").known("test")["labels"]
        assert labels.dtype == torch.int64
        assert labels.bincount().tolist() == [1000] * 10

    def test_of_mnist(self, shared):
        labels = create("datasets", f"mnist[root={shared / 'data'}]").known("test")["labels"]
        assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]  # as everybody knows them
        assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


class TestTraining:
    def test_finds_the_exact_posterior(self, run):
        """The test loss is the least there is within a few hundredths of a nat, and so are the probabilities."""
        plan = plan_training(config(), REGISTRY)
        evaluated = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        found = [row["evaluation_loss"] for row in evaluated if "evaluation_loss" in row][-1]
        truth, best, target = TargetClassifier(plan.dataset.target, sde=plan.model.sde), [], plan.dataset.target
        batches = Batches(plan.dataset, 256, split="test", seed=42, needs=("labels",))
        for number, batch in enumerate(batches.once()):
            draws = Draws(42, f"evaluation {number}", 256)
            best.append(plan.loss.per_sample(truth, batch.x, draws, **batch.known))
        least = float(torch.cat(best).mean())
        assert least - 0.01 < found < least + 0.03
        trained = create("conditions", f"class[checkpoint={run}]").observe(torch.zeros(1, 2)).classifier
        for sigma in (0.1, 0.5, 2.0, 8.0):
            level = Level(0.5, 1.0, sigma)
            x = target.sample(1000, seed=3) + sigma * torch.randn(1000, 2, generator=torch.Generator().manual_seed(3))
            gap = trained.log_probabilities(x, level).exp() - truth.log_probabilities(x, level).exp()
            assert gap.abs().mean() < 0.03

    def test_what_is_written(self, run):
        assert not list((run / "samples").iterdir())
        assert len(list((run / "models").iterdir())) == 1
        assert any(name.startswith("blocks") for name in load_file(next(run.glob("models/*/ema.safetensors"))))

    def test_goes_on_where_it_was(self, tmp_path):
        def train(folder, stop_after):
            made = trainer("training.iterations=9", "training.accumulate=2", "training.precision=bfloat16")
            start = made.state.step
            list(TrainingRun(made, folder, REGISTRY.hook, lambda: made.state.step - start >= stop_after))
            return made

        train(tmp_path / "run", 4)
        going_on, straight = train(tmp_path / "run", 99), train(tmp_path / "straight", 99)
        for name, value in straight.state.network.state_dict().items():
            assert torch.equal(going_on.state.network.state_dict()[name], value), name

    def test_labels_follow_the_parts_of_a_batch(self):
        losses = [[float(x) for x in islice(trainer(*more).steps(), 3)] for more in ([], ["training.accumulate=4"])]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            (["data.dataset.target=gaussian"], "has no labels, which training needs"),
            (["model.network.classes=2"], "labels 0 to 2, the network classes 0 to 1: set model.network.classes=3"),
            (["model.network=mlp"], "trains a NoisyClassifier, but the network 'mlp' gives noise"),
            (["training.loss=dsm"], "trains a ScoreModel, but the network 'mlp_classifier' gives logits"),
        ],
    )
    def test_what_cannot_work_is_one_line_before_any_work(self, tmp_path, capsys, changes, words):
        (tmp_path / "it.yaml").write_text(config().to_yaml())
        out = tmp_path / "run"
        code = main(["train", str(tmp_path / "it.yaml"), *changes, "--out", str(out), "--device", "cpu"])
        err = capsys.readouterr().err
        assert (code, err.count("\n")) == (2, 1)
        assert words in err
        assert not (out / "metrics.jsonl").exists()

    def test_losses_and_networks_find_each_other(self):
        plan = plan_model(REGISTRY.create("presets", "cifar10_noise_classifier"), REGISTRY, outputs=None)
        assert type(plan_loss(plan, REGISTRY)).__name__ == "ClassificationLoss"


class TestUse:
    def test_as_a_condition(self, run):
        """The guided score is near that of the component, a closed form; most of the way from the unguided one."""
        target = create("targets", MIXTURE)
        for sigma in (0.5, 2.0):
            x = target.sample(500, seed=5) + sigma * torch.randn(500, 2, generator=torch.Generator().manual_seed(5))
            observed = create("conditions", f"class[checkpoint={run},label=1]").observe(x)
            guided = observed.guide(ExactScore(target)).score(x, Level(0.5, 1.0, sigma))
            truth = (target.mixture.means[1].float() - x) / (STD**2 + sigma**2)
            off = [(score - truth).norm(dim=1).mean() for score in (guided, target.score(x, Level(0.5, 1.0, sigma)))]
            assert off[0] < 0.3 * off[1]

    def test_under_any_sde(self, run):
        """x / alpha with sigma / alpha: of the same event at the same ratio, the same probabilities."""
        trained = create("conditions", f"class[checkpoint={run}]").observe(torch.zeros(1, 2)).classifier
        x = torch.randn(5, 2)
        ours, other = Level(0.1, 1.0, 2.0), Level(0.7, 0.25, 0.5)
        torch.testing.assert_close(trained.log_probabilities(x, ours), trained.log_probabilities(x / 4, other))

    def test_images_on_another_range(self):
        """What is v on [-1, 1] with noise s is (v + 1) / 2 on [0, 1] with noise s / 2."""
        network = create("networks", "mlp_classifier[classes=4]").build((1, 2, 2))
        plain, moved = NetworkClassifier(network, 4), NetworkClassifier(network, 4, scale=0.5, shift=0.5)
        x, z = torch.rand(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
        expected = plain.log_probabilities(x + 0.2 * z, Level(0.3, 1.0, 0.2))
        alpha = 0.8
        seen = moved.log_probabilities(alpha * (2 * x - 1 + 0.4 * z), Level(0.3, alpha, alpha * 0.4))
        torch.testing.assert_close(seen, expected)

    def test_a_checkpoint_knows_its_range(self, tmp_path):
        small = ["model.network=mlp_classifier[classes=10]", "model.shape=[1,4,4]", "data.dataset=resized[data=marked]"]
        for centered in (True, False):
            chosen = REGISTRY.create("presets", "mnist_classifier").override(
                [*small, f"model.centered={str(centered).lower()}"]
            )
            model = plan_model(chosen, REGISTRY, outputs=None).build()
            folder = tmp_path / str(centered)
            checkpoint.save(folder, chosen, model.network.state_dict())
            for sampled in (True, False):
                condition = ClassCondition(checkpoint=str(folder), centered=sampled)
                found = condition.observe(torch.zeros(2, 1, 4, 4)).classifier
                expected = (1, 0) if sampled == centered else (0.5, 0.5) if sampled else (2, -1)
                assert (found.scale, found.shift) == expected

    @pytest.mark.parametrize(
        ("label", "shape", "words"),
        [(3, (2,), "has classes 0 to 2, got 3"), (0, (3,), r"for events of shape \(2,\), not \(3,\)")],
    )
    def test_what_does_not_fit(self, run, label, shape, words):
        with pytest.raises(ValueError, match=words):
            ClassCondition(checkpoint=str(run), label=label).observe(torch.zeros(1, *shape))

    def test_its_name_is_looked_up_where_the_condition_was(self, run, tmp_path, capsys, monkeypatch):
        """In the file of --registry, at any depth; nowhere else."""
        shutil.copytree(max((run / "models").iterdir()), tmp_path / "my_models" / "it")
        (tmp_path / "my_models" / "__init__.py").write_text("")
        (tmp_path / "mine.yaml").write_text("api: 1\ncheckpoints: {mine: {target: 'my_models:it/model.yaml'}}\n")
        monkeypatch.setattr(sys, "path", list(sys.path))
        made = load_registry(local=[tmp_path / "mine.yaml"]).create("conditions", "class[checkpoint=mine]")
        assert made.observe(torch.zeros(1, 2)).classifier.classes == 3
        assert "registry" not in [p.name for p in parameters(ClassCondition)]
        with pytest.raises(FileError, match="mine is not a checkpoint"):
            create("conditions", "class[checkpoint=mine]").skip((2,))
        asked = [
            "sample",
            "--target",
            MIXTURE,
            "--condition",
            "class[checkpoint=mine,label=2]",
            "--n",
            "2",
            "--device",
            "cpu",
        ]
        assert main([*asked, "--registry", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "samples")]) == 0
        assert main([*asked, "--out", str(tmp_path / "none")]) == 3
        assert "mine is not a checkpoint" in capsys.readouterr().err

    def test_it_gives_no_samples(self, run, tmp_path, capsys):
        assert main(["sample", "--checkpoint", str(run), "--out", str(tmp_path / "samples")]) == 2
        assert "gives logits, which is no score" in capsys.readouterr().err

    def test_a_score_model_is_no_classifier(self, tmp_path):
        chosen = REGISTRY.create("presets", "lesson_many_scales")
        checkpoint.save(tmp_path / "it", chosen, plan_model(chosen, REGISTRY).build().network.state_dict())
        with pytest.raises(UsageError, match="gives noise, which is a score: choose one that gives logits"):
            ClassCondition(checkpoint=str(tmp_path / "it")).observe(torch.zeros(1, 2))


class TestAccuracy:
    def test_is_near_that_of_bayes_at_every_level(self, run):
        """The best accuracy is the mean of the largest posterior probability, here by many exact draws."""
        classifier = checkpoint.find(run, REGISTRY).load(REGISTRY, outputs=("logits",))
        data = plan_data(classifier.plan, REGISTRY)[0]
        rows = accuracy(classifier.view(), data.load("test"), data.known("test")["labels"], levels=4)
        assert [row["sigma_over_alpha"] for row in rows] == pytest.approx([0.01, 0.1, 1, 10], rel=1e-3)
        target = create("targets", MIXTURE)
        generator = torch.Generator().manual_seed(1)
        for row in rows:
            sigma = row["sigma_over_alpha"]
            x = target.sample(20_000, seed=1) + sigma * torch.randn(20_000, 2, generator=generator)
            logs = target.log_responsibilities(x, Level(0.5, 1.0, sigma))
            bound = 4 * row["accuracy_stderr"] + 0.01
            assert row["accuracy"] == pytest.approx(float(logs.exp().amax(1).mean()), abs=bound)
            entropy = -float((logs.exp() * logs).sum(1).mean())
            assert row["cross_entropy"] == pytest.approx(entropy, abs=4 * row["cross_entropy_stderr"] + 0.02)
