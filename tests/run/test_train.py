"""Training: steps against independent formulas, what a run writes, and what it refuses before any work."""

import errno
import functools
import json
import math
import resource
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scoresde_core.errors import FileError, ScoreSDEError
from scoresde_core.hookspecs import hookimpl
from scoresde_core.loss import Draws
from scoresde_core.registry import load_registry
from scoresde_core.score import ExactScore
from scoresde_run.commands.shell import main
from scoresde_run.commands.train import _show
from scoresde_run.machine.processes import Processes
from scoresde_run.machine.progress import Progress
from scoresde_run.models import checkpoint
from scoresde_run.models.config import Config, TrainingConfig
from scoresde_run.models.model import plan_model
from scoresde_run.training import state as training_state
from scoresde_run.training.run import Event, TrainingRun, difference
from scoresde_run.training.trainer import Average, Trainer, plan_training

REGISTRY = load_registry()
HERE = Processes(torch.device("cpu"))
QUICK = ["model.network=mlp[width=16,depth=1]", "model.shape=[1,8,8]", "training.batch_size=16", "training.warmup=0",
         "training.learning_rate=2e-4", "training.ema=0.999", "training.ema_warmup=false",
         "training.iterations=12", "training.log_every=4", "training.evaluate_every=4", "training.resume_every=4",
         "training.snapshot_every=6", "sampling.sampler.steps=2", "sampling.n=5"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """60 images of 8 x 8 pixels: 54 for training, 6 held out."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8))
    return path


@pytest.fixture
def config(data):
    def make(*changes: str) -> Config:
        base = REGISTRY.create("presets", "mnist_vp").override([f"data.dataset=npz[path={data}]", *QUICK])
        return base.override(changes)

    return make


@pytest.fixture
def trainer(config):
    return lambda *changes: Trainer(plan_training(config(*changes), REGISTRY), HERE)


@pytest.fixture
def scoresde(tmp_path, monkeypatch, capsys, data):
    """Runs ``scoresde train mnist_vp`` on tiny data in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, preset="mnist_vp", changes=None):
        changes = [f"data.dataset=npz[path={data}]", *QUICK] if changes is None else changes
        code = main(["train", preset, *changes, "--device", "cpu", *arguments])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def take(trainer: Trainer, steps: int) -> list[float]:
    return [float(loss) for loss in islice(trainer.steps(), steps)]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.state.network.state_dict().items()}


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def by_hand(trainer: Trainer, steps: int) -> tuple[list[float], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The same steps with Adam, clipping and averaging written out from their papers, in float64."""
    plan, config = trainer.plan, trainer.config
    network = plan_model(plan.config, REGISTRY).build(config.seed).network.train()
    named = dict(network.named_parameters())
    first, second = ({n: torch.zeros_like(p, dtype=torch.float64) for n, p in named.items()} for _ in range(2))
    ema = {n: p.detach().double().clone() for n, p in named.items()}
    model, losses = checkpointless(plan, network), []
    for step in range(steps):
        draws = Draws(config.seed, step, config.batch_size)
        x = next(trainer.batches.stream(step)).x
        loss = plan.loss.per_sample(model, x, draws).mean()
        losses.append(loss.item())
        gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
        norm = math.sqrt(sum(g.double().square().sum().item() for g in gradients.values()))
        scale = 1.0 if config.gradient_clip is None else min(1.0, config.gradient_clip / (norm + 1e-6))
        rate = config.learning_rate * (min(step / config.warmup, 1) if config.warmup else 1)
        b1, b2 = config.betas
        decay = min(config.ema, (2 + step) / (11 + step)) if config.ema_warmup else config.ema
        with torch.no_grad():
            for name, p in named.items():
                g, value = gradients[name].double() * scale, p.double()
                if config.optimizer == "adam":
                    g = g + config.weight_decay * value
                else:
                    value = value * (1 - rate * config.weight_decay)
                first[name] = b1 * first[name] + (1 - b1) * g
                second[name] = b2 * second[name] + (1 - b2) * g * g
                up = first[name] / (1 - b1 ** (step + 1))
                down = (second[name] / (1 - b2 ** (step + 1))).sqrt() + config.adam_eps
                p.copy_((value - rate * up / down).float())
                ema[name] = decay * ema[name] + (1 - decay) * p.double()
    return losses, {n: p.detach() for n, p in named.items()}, ema


def checkpointless(plan, network):
    return type(plan.model.build(0))(plan.model, network).score()


class TestSteps:
    @pytest.mark.parametrize(
        "changes",
        [
            ["training.gradient_clip=null"],
            ["training.gradient_clip=0.05"],
            ["training.warmup=3"],
            ["training.optimizer=adamw", "training.weight_decay=0.1"],
            ["training.weight_decay=0.1", "training.betas=[0.8,0.9]"],
            ["training.ema=0.9"],
            ["training.ema=0.9", "training.ema_warmup=true"],
        ],
        ids=["plain", "clipped", "warmup", "adamw", "l2", "average", "average-warmup"],
    )
    def test_parameters_follow_the_papers_formulas(self, trainer, changes):
        made = trainer("training.learning_rate=1e-2", *changes)
        losses, expected, averages = by_hand(made, 5)
        assert take(made, 5) == pytest.approx(losses, rel=1e-5)
        for name, value in made.state.network.named_parameters():
            # Adam divides by the gradient's size: where a gradient is about 0 its rounding is all that is left of it.
            torch.testing.assert_close(value.detach(), expected[name], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(
                made.state.average.parameters[name].double(), averages[name], rtol=1e-4, atol=1e-5
            )

    def test_the_first_step_of_a_warm_up_has_no_size(self, trainer):
        made = trainer("training.warmup=4")
        before = weights(made)
        take(made, 1)
        assert all(torch.equal(before[name], value) for name, value in weights(made).items())
        assert [made.learning_rate(step) / 2e-4 for step in (0, 1, 4, 9)] == [0, 0.25, 1, 1]

    def test_a_batch_in_parts_is_the_batch(self, trainer):
        whole, parts = trainer(), trainer("training.accumulate=4")
        assert take(whole, 4) == pytest.approx(take(parts, 4), rel=1e-5)
        for name, value in weights(whole).items():
            torch.testing.assert_close(value, weights(parts)[name], rtol=1e-4, atol=1e-6)

    def test_what_came_before_does_not_matter(self, trainer):
        torch.manual_seed(5)
        first = take(trainer(), 3)
        torch.manual_seed(6)
        assert first == take(trainer(), 3)
        assert first != take(trainer("training.seed=43"), 3)

    def test_dropout_is_keyed_by_the_step(self, trainer):
        dropout = ["model.network=ncsnpp[nf=8,num_res_blocks=1,ch_mult=[1],attn_resolutions=[],dropout=0.5,fir=false]"]
        made, late = trainer(*dropout), trainer(*dropout)
        made.state.step = late.state.step = 7
        take(late, 1)
        torch.rand(3)
        take(made, 1)
        assert all(torch.equal(weights(late)[name], value) for name, value in weights(made).items())

    @pytest.mark.parametrize("precision", ["bfloat16", "float16"])
    def test_half_precision_is_near(self, trainer, precision):
        full, half = take(trainer(), 3), take(trainer(f"training.precision={precision}"), 3)
        assert half != full
        assert half == pytest.approx(full, rel=0.02)

    def test_channels_last_changes_the_layout_alone(self, trainer):
        conv = "model.network=ncsnpp[nf=8,num_res_blocks=1,ch_mult=[1],attn_resolutions=[],fir=false]"
        plain, last = trainer(conv), trainer(conv, "training.channels_last=true")
        assert take(last, 2) == pytest.approx(take(plain, 2), rel=1e-4)
        assert any(p.ndim == 4 and p.stride(1) == 1 and p.shape[1] > 1 for p in last.state.network.parameters())

    def test_compiled_steps_are_the_same(self, trainer, monkeypatch):
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
        plain, compiled = trainer("training.warmup=2"), trainer("training.warmup=2", "training.compile=true")
        assert take(compiled, 3) == pytest.approx(take(plain, 3), rel=1e-5)
        for name, value in weights(plain).items():  # under the same names: what is saved does not know of it
            torch.testing.assert_close(weights(compiled)[name], value, rtol=1e-4, atol=1e-6)

    def test_the_loss_falls_towards_that_of_the_exact_score(self, trainer):
        points = "data.dataset=exact[target=mixture2d,count=1024,test_count=256]"
        quick = ["training.batch_size=256", "training.ema=0.9", "training.learning_rate=3e-3"]
        made = trainer("model.network=mlp[width=64]", "model.shape=[2]", points, *quick)
        target, plan = made.plan.dataset.target, made.plan
        draws = Draws(42, "evaluation 0", 256)
        best = plan.loss.per_sample(ExactScore(target, plan.model.sde), made._test[0].x, draws).mean().item()
        before = made.evaluate()
        take(made, 150)
        assert best * 0.98 < made.evaluate() < best + 0.25 * (before - best)
        assert made.evaluate() == made.evaluate()

    def test_evaluation_is_the_mean_over_the_test_events(self, trainer):
        made = trainer()
        x = torch.cat([batch.x for batch in made._test])
        assert len(x) == 6
        score = made.averaged().score()
        draws = Draws(42, "evaluation 0", 6, total=16)
        expected = made.plan.loss.per_sample(score, x, draws).mean()
        assert made.evaluate() == pytest.approx(expected.item(), rel=1e-6)

    def test_the_logged_loss_is_the_mean_since_the_last(self, trainer):
        made = trainer()
        losses = take(made, 3)
        assert made.read_loss() == pytest.approx(np.mean(losses), rel=1e-6)
        losses = take(made, 2)
        assert made.read_loss() == pytest.approx(np.mean(losses), rel=1e-6)

    def test_deterministic_means_no_exceptions(self, trainer):
        """Warnings in place of errors would have torch's fused attention on CUDA add in any order (its own warning)."""
        try:
            assert len(take(trainer("training.deterministic=true"), 1)) == 1
            assert torch.are_deterministic_algorithms_enabled()
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        finally:
            torch.use_deterministic_algorithms(False)

    def test_average_takes_buffers_as_they_are(self):
        network = torch.nn.BatchNorm1d(2)
        average = Average(network, 0.5)
        network(torch.randn(8, 2))
        assert torch.equal(average.current().running_mean, network.running_mean)


class TestRun:
    def test_what_is_written(self, scoresde):
        code, out, err = scoresde("--out", "run")
        assert (code, "12 steps; the model is in run" in out) == (0, True)
        assert "step 12 of 12: loss" in err
        assert sorted(p.name for p in Path("run/models").iterdir()) == ["step_000000006", "step_000000012"]
        assert sorted(p.name for p in Path("run/checkpoints").iterdir()) == [f"step_{n:09d}" for n in (4, 8, 12)]
        with Image.open("run/samples/step_000000012.png") as picture:
            assert picture.size == (28, 18)  # 3 columns, 2 rows, gaps of 2
        losses = [row for row in rows(Path("run")) if "loss" in row]
        assert [row["step"] for row in losses] == [4, 8, 12]
        assert {"loss", "learning_rate", "gradient_norm", "events_per_second"} < set(losses[0])
        assert [row["step"] for row in rows(Path("run")) if "evaluation_loss" in row] == [4, 8, 12]

    def test_samples_that_fail_end_no_training(self, scoresde, monkeypatch):
        def fail(*_, **__):
            raise RuntimeError("no memory for samples")

        monkeypatch.setattr("scoresde_run.training.trainer.Trainer.sample", fail)
        code, out, err = scoresde("--out", "run")
        assert (code, "12 steps; the model is in run" in out) == (0, True)
        assert err.count("warning: no picture run/samples/step_0000000") == 2
        assert "RuntimeError: no memory for samples; the training goes on" in err
        assert not list(Path("run/samples").iterdir())

    def test_the_run_is_a_checkpoint(self, scoresde, trainer):
        scoresde("--out", "run")
        made = trainer()
        take(made, 12)
        found = checkpoint.read("run")
        assert found.step == 12
        ours, raw = found.load(REGISTRY).network, found.load(REGISTRY, ema=False).network
        for name, value in made.state.network.named_parameters():
            assert torch.equal(dict(raw.named_parameters())[name], value)
            assert torch.equal(dict(ours.named_parameters())[name], made.state.average.parameters[name])
        assert main(["sample", "--checkpoint", "run", "--n", "2", "--device", "cpu", "--out", "samples"]) == 0

    def test_its_configuration_repeats_it(self, scoresde):
        scoresde("--out", "run")
        scoresde("--out", "again", preset="run/config.yaml", changes=[])
        first, again = (checkpoint.read(folder) for folder in ("run", "again"))
        assert first.hashes == again.hashes
        assert first.config == again.config

    def test_a_finished_run_is_left_alone_and_goes_on_with_more_iterations(self, scoresde):
        scoresde("--out", "run")
        before = checkpoint.read("run").hashes
        code, _, _ = scoresde("--out", "run")
        assert (code, checkpoint.read("run").hashes) == (0, before)
        scoresde("training.iterations=14", "--out", "run")
        scoresde("training.iterations=14", "--out", "straight")
        assert checkpoint.read("run").step == 14
        assert checkpoint.read("run").hashes == checkpoint.read("straight").hashes

    def test_only_the_newest_states_are_kept(self, scoresde):
        scoresde("training.resume_every=2", "training.keep=2", "--out", "run")
        assert sorted(p.name for p in Path("run/checkpoints").iterdir()) == [f"step_{n:09d}" for n in (10, 12)]

    def test_fresh_moves_the_old_run_away(self, scoresde):
        scoresde("--out", "run")
        before = checkpoint.read("run").hashes
        code, _, err = scoresde("training.seed=1", "--fresh", "--out", "run")
        assert (code, "moved the run in run to run.1" in err) == (0, True)
        assert checkpoint.read("run.1").hashes == before
        assert checkpoint.read("run").hashes != before

    def test_fresh_moves_nothing_for_a_run_that_cannot_begin(self, scoresde):
        scoresde("--out", "run")
        Path("paper").mkdir()
        Path("paper/thesis.tex").write_text("all of it")
        assert scoresde("data.dataset=npz[path=gone.npz]", "--fresh", "--out", "run")[0] != 0
        code, _, err = scoresde("--fresh", "--out", "paper")
        assert (code, "paper exists and is not a training run" in err) == (3, True)
        assert sorted(p.name for p in Path().iterdir()) == ["paper", "run"]

    def test_fresh_moves_nothing_for_weights_that_are_not_there(self, scoresde):
        scoresde("--out", "run")
        assert scoresde("--fresh", "--from", "gone/model", "--out", "run")[0] != 0
        assert [p.name for p in Path().iterdir()] == ["run"]

    def test_fresh_from_the_run_that_is_moved(self, scoresde):
        scoresde("--out", "run")
        old = checkpoint.read("run").states()[0]
        code, _, _ = scoresde("training.iterations=1", "training.warmup=5", "--fresh", "--from", "run", "--out", "run")
        assert (code, sorted(p.name for p in Path().iterdir())) == (0, ["run", "run.1"])
        new = checkpoint.read("run").states()[0]  # a first step of a warm-up has no size
        assert all(torch.equal(new[name], old[name]) for name in old)

    def test_a_run_that_ends_where_it_was_stopped_has_its_model(self, config, scoresde):
        made = Trainer(plan_training(config(), REGISTRY), Processes(torch.device("cpu")))
        list(TrainingRun(made, Path("run"), REGISTRY.hook, stop=lambda: made.state.step == 5))
        with pytest.raises(FileError, match="is not a checkpoint"):
            checkpoint.read("run")
        code, out, _ = scoresde("training.iterations=5", "--out", "run")
        assert (code, "5 steps; the model is in run" in out) == (0, True)
        found = checkpoint.read("run")
        assert found.step == 5
        assert all(torch.equal(value, found.states()[0][name]) for name, value in weights(made).items())

    def test_another_configuration_is_refused_with_the_difference(self, scoresde):
        scoresde("--out", "run")
        code, _, err = scoresde("training.learning_rate=1e-3", "model.network.width=32", "--out", "run")
        assert code == 2
        assert "model.network.width: 16 -> 32; training.learning_rate: 0.0002 -> 0.001" in err
        assert err.count("\n") == 1

    def test_from_a_model(self, scoresde):
        scoresde("--out", "run")
        first = checkpoint.read("run")
        scoresde("training.iterations=1", "training.warmup=5", "training.seed=1", "--from", "run", "--out", "next")
        weights, averages = first.states()
        ours, our_averages = checkpoint.read("next").states()  # a first step of a warm-up has no size
        assert all(torch.equal(ours[name], weights[name]) for name in weights)
        torch.testing.assert_close(our_averages, {n: 0.999 * averages[n] + 0.001 * weights[n] for n in averages})

    def test_from_a_state_with_another_rate(self, scoresde):
        scoresde("--out", "run")
        state = "run/checkpoints/step_000000008"
        scoresde("--from", state, "--out", "same")
        assert checkpoint.read("same").hashes == checkpoint.read("run").hashes
        scoresde("training.learning_rate=1e-5", "--from", state, "--out", "other")
        assert checkpoint.read("other").step == 12
        assert checkpoint.read("other").hashes != checkpoint.read("run").hashes

    def test_from_a_state_of_another_precision(self, scoresde):
        scoresde("--out", "run")
        code, _, err = scoresde(
            "training.precision=float16", "--from", "run/checkpoints/step_000000008", "--out", "half"
        )
        assert (code, checkpoint.read("half").step) == (0, 12), err

    def test_log_levels(self, scoresde):
        _, _, quiet = scoresde("--log-level", "warning", "--out", "quiet")
        _, _, everything = scoresde("--log-level", "debug", "--out", "loud")
        assert quiet == ""
        assert all(text in everything for text in ("step 4 of 12: loss", "test loss", "checkpoints/step_000000008"))

    @pytest.mark.parametrize(
        ("iterations", "told"), [(50_010, ", about 13.9 h left"), (3_611, ", about 60"), (3_610, "")]
    )
    def test_hours_of_work_are_said(self, capsys, iterations, told):
        """Ten steps of 100 events are done, at 100 a second."""
        event = Event("loss", 10, {"loss": 0.5, "events_per_second": 100.0})
        _show(event, Progress(), TrainingConfig(iterations=iterations, batch_size=100), True, False)
        line = f"step 10 of {iterations}: loss 0.5, 100 events/s"
        assert capsys.readouterr().err.startswith(line + told if told else line + "\n")

    def test_a_damaged_state_is_a_warning_at_its_level(self, scoresde):
        scoresde("--out", "run")
        for level, told in (("error", False), ("warning", True)):
            newest = max(Path("run/checkpoints").glob("step_*"))
            (newest / "state.safetensors").write_bytes(b"")
            code, _, err = scoresde("--log-level", level, "--out", "run")
            line = f"warning: run/checkpoints/{newest.name}/state.safetensors is damaged: "
            assert (code, err.startswith(line) and err.count("\n") == 1) == (0, told), err

    def test_plugins_hear_of_steps_and_checkpoints(self, config, tmp_path):
        class Listener:
            def __init__(self):
                self.steps, self.paths = [], []

            @hookimpl
            def scoresde_on_training_step(self, step, loss):
                self.steps.append((step, loss.ndim))

            @hookimpl
            def scoresde_on_checkpoint(self, path, state):
                self.paths.append((path.parent.name, state.step))

        registry, listener = load_registry(), Listener()
        manager = registry.hook.scoresde_on_training_step._hookexec.__self__
        manager.register(listener)
        run = TrainingRun(Trainer(plan_training(config(), registry), HERE), tmp_path / "run", registry.hook)
        list(run)
        assert listener.steps == [(n, 0) for n in range(1, 13)]
        expected = [("checkpoints", n) for n in (4, 8, 12)] + [("models", n) for n in (6, 12)]
        assert sorted(listener.paths) == sorted(expected)

    def test_tensorboard_shows_what_the_metrics_say(self, scoresde):
        reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        assert scoresde("--tensorboard", "--out", "run")[0] == 0
        events = reader.EventAccumulator("run/tensorboard").Reload()
        rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
        names = {name for row in rows for name in row} - {"step"}
        assert set(events.Tags()["scalars"]) == names >= {"loss", "evaluation_loss", "learning_rate"}
        for name in names:
            shown = [(event.step, event.value) for event in events.Scalars(name)]
            told = [(row["step"], row[name]) for row in rows if name in row]
            assert [step for step, _ in shown] == [step for step, _ in told]
            assert [value for _, value in shown] == pytest.approx([value for _, value in told], rel=1e-6)

    def test_tensorboard_forgets_steps_that_are_made_again(self, scoresde):
        reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        quick = ("training.log_every=1", "training.keep=9", "--tensorboard", "--out", "run")
        scoresde(*quick)
        for place in (*Path("run/checkpoints").iterdir(), *Path("run/models").iterdir()):
            if place.name > "step_000000008":  # as after a kill, when 12 steps were logged and 8 saved
                shutil.rmtree(place)
        assert scoresde(*quick)[0] == 0
        events = reader.EventAccumulator("run/tensorboard").Reload()
        assert [event.step for event in events.Scalars("loss")] == list(range(1, 13))

    def test_points_train_too(self, scoresde):
        changes = ["model.shape=[2]", "data.dataset=exact[target=mixture2d,count=64,test_count=8]"]
        code, _, _ = scoresde(*changes, "--out", "run")
        assert code == 0
        with Image.open("run/samples/step_000000012.png") as image:
            assert image.size == (480, 480)  # a scatter


class TestDivergence:
    def test_it_stops_with_the_last_good_state(self, trainer, tmp_path):
        made = trainer("training.iterations=40", "training.learning_rate=1e-3")
        events = iter(TrainingRun(made, tmp_path / "run", REGISTRY.hook))
        assert any(event.what == "checkpoint" and event.step == 8 for event in events)
        with torch.no_grad():
            next(made.state.network.parameters())[0] = math.nan
        with pytest.raises(ScoreSDEError) as caught:
            list(events)
        assert "at or before step 12: the loss is nan; the last good state is checkpoints/step_000000008" in str(
            caught.value
        )
        saved, tensors = training_state.newest(tmp_path / "run/checkpoints")
        assert saved.step == 8
        assert all(value.isfinite().all() for value in tensors.values())

    def test_a_poisoned_parameter_is_never_saved(self, trainer, tmp_path):
        made = trainer("training.log_every=100")
        events = iter(TrainingRun(made, tmp_path / "run", REGISTRY.hook))
        assert next(events).what == "begin"
        made.state.network.end[1].bias.data[0] = math.inf
        with pytest.raises(ScoreSDEError, match="no state was saved before: take another --out and a lower"):
            list(events)
        assert list((tmp_path / "run/checkpoints").iterdir()) == []

    def test_a_gradient_beyond_half_precision_is_no_number(self, trainer, tmp_path):
        made = trainer("training.log_every=1")
        run = TrainingRun(made, tmp_path, REGISTRY.hook)
        next(made.steps())
        made.gradient_norm = torch.tensor(math.inf)
        assert "gradient_norm" not in run._log_loss().numbers
        assert "Infinity" not in (tmp_path / "metrics.jsonl").read_text()

    def test_the_last_good_state_is_of_no_later_step(self, trainer, tmp_path):
        made = trainer("training.iterations=40", "training.log_every=1")
        (tmp_path / "run/checkpoints" / training_state.name_of(30)).mkdir(parents=True)
        run = TrainingRun(made, tmp_path / "run", REGISTRY.hook)
        made.state.step = 9
        assert "no state was saved before" in str(run._divergence("the loss is nan"))


class TestBadData:
    """Errors of data and disk are one line that names the file; earlier states are intact."""

    @pytest.fixture
    def pictures(self, tmp_path):
        """Forty pictures, of which one is cut off."""
        folder = tmp_path / "pictures"
        folder.mkdir()
        for number in range(40):
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:02}.png")
        (folder / "07.png").write_bytes((folder / "07.png").read_bytes()[:50])
        return "data.dataset=image_folder[path=pictures,size=8,grey=true{}]"

    def test_an_empty_folder(self, scoresde, tmp_path):
        (tmp_path / "empty").mkdir()
        code, out, err = scoresde("data.dataset=image_folder[path=empty,size=8,grey=true]", "--out", "run")
        assert (code, out, err.count("\n")) == (3, "", 1)
        assert "there is no image file in 'empty': give a folder" in err

    def test_an_empty_array(self, scoresde):
        np.savez("none.npz", images=np.zeros((0, 8, 8), np.uint8))
        code, _, err = scoresde("data.dataset=npz[path=none.npz]", "--out", "run")
        assert (code, err.count("\n")) == (2, 1)
        assert "is empty" in err

    def test_a_damaged_file(self, scoresde, data):
        Path("cut.npz").write_bytes(data.read_bytes()[:-300])
        code, _, err = scoresde("data.dataset=npz[path=cut.npz]", "--out", "run")
        assert (code, err.count("\n")) == (3, 1)
        assert "cannot read cut.npz as an .npz file" in err

    def test_one_broken_picture_ends_the_run_before_it_begins(self, scoresde, pictures):
        code, out, err = scoresde(pictures.format(""), "--out", "run")
        assert (code, out, err.count("\n")) == (3, "", 1)
        assert "cannot read the image 07.png in pictures" in err
        assert "(broken=skip skips such files)" in err
        assert "0x" not in err

    @pytest.mark.filterwarnings("default:cannot read the image")
    def test_or_is_skipped_and_named(self, scoresde, pictures):
        code, _, err = scoresde(pictures.format(",broken=skip"), "--out", "run")
        assert code == 0
        (warning,) = [line for line in err.splitlines() if line.startswith("warning")]
        assert "07.png" in warning
        assert warning.endswith("; skipped")

    def test_pictures_of_another_number_of_channels(self, scoresde, pictures):
        code, _, err = scoresde(pictures.format("").replace(",grey=true", ""), "--out", "run")
        assert (code, err.count("\n")) == (2, 1)
        assert "has events of shape (3, 8, 8), the model (1, 8, 8)" in err

    def test_a_disk_that_fills_up_between_two_saves(self, scoresde):
        scoresde("training.log_every=1", "training.iterations=40", "--out", "run")
        size = Path("run/metrics.jsonl").stat().st_size
        assert size > Path("run/config.yaml").stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))  # no file may grow beyond this
        try:
            code, _, err = scoresde("training.log_every=1", "training.iterations=48", "--out", "run")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (code, "error: cannot write run/metrics.jsonl: File too large" in err) == (3, True)
        assert checkpoint.read("run").step == 40
        scoresde("training.log_every=1", "training.iterations=48", "--out", "run")
        scoresde("training.log_every=1", "training.iterations=48", "--out", "straight")
        assert checkpoint.read("run").hashes == checkpoint.read("straight").hashes
        assert [row["step"] for row in rows(Path("run")) if "loss" in row] == list(range(1, 49))

    def test_a_picture_that_cannot_be_written(self, scoresde, monkeypatch):
        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Image.Image, "save", full)
        code, _, err = scoresde("--out", "run")
        warnings = [line for line in err.splitlines() if line.startswith("warning: no picture run/samples/")]
        assert (code, len(warnings)) == (0, 2)
        assert warnings[1].endswith("No space left on device; the training goes on")
        assert checkpoint.read("run").step == 12


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["data.dataset=mnist[root=nowhere]", "model.shape=[1,28,28]"], "MNIST is not in 'nowhere'"),
            (["data.dataset=null"], "names no data set"),
            (["data.dataset=minst"], "Did you mean 'mnist'"),
            (["training.loss=smld"], "SMLDLoss needs noise on unscaled data"),
            (["training.loss=dms"], "or 'dsm'"),
            (["training.accumulate=3"], "a batch of 16 does not divide into 1 processes x 3 parts"),
            (["model.shape=[3,8,8]"], "has events of shape (1, 8, 8), the model (3, 8, 8)"),
            (["training.precision=half"], "precision must be"),
            (["data.dequantizer=flow"], "got data.dequantizer=flow"),
            (["sampling.sampler.predictor=ddin"], "Did you mean 'ddim'"),
            (["--device", "cuda:99"], "there is no device 'cuda:99'"),
            (["--from", "nowhere"], "nowhere is not a checkpoint"),
        ],
    )
    def test_one_clear_line_before_any_work(self, scoresde, arguments, words):
        code, out, err = scoresde(*arguments, "--out", "run")
        assert code in (2, 3)
        assert words in err
        assert (out, err.count("\n")) == ("", 1)
        assert not list(Path().glob("run/checkpoints/*"))

    def test_a_folder_of_something_else(self, scoresde):
        Path("run").mkdir()
        Path("run/thesis.tex").write_text("all of it")
        code, _, err = scoresde("--out", "run")
        assert (code, "run exists and is not a training run" in err) == (3, True)
        assert [p.name for p in Path("run").iterdir()] == ["thesis.tex"]

    def test_a_forgotten_preset(self, scoresde):
        code, _, err = scoresde("--out", "run", preset="training.batch_size=3")
        assert (code, "name a preset before" in err) == (2, True)

    def test_tensorboard_that_is_not_there(self, scoresde, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
        code, _, err = scoresde("--tensorboard", "--out", "run")
        assert (code, "pip install 'scoresde[track]'" in err) == (2, True)

    def test_a_checkpoint_of_another_network_by_name(self, scoresde):
        code, _, err = scoresde("--from", "mnist_vp", "--out", "run")
        assert (code, "does not fit this configuration" in err) == (3, True)

    def test_a_test_split_that_is_not_there_can_be_done_without(self, scoresde, data, tmp_path):
        np.savez(tmp_path / "one.npz", images=np.zeros((1, 8, 8, 1), np.uint8))
        dataset = f"data.dataset=npz[path={tmp_path / 'one.npz'}]"
        code, _, err = scoresde(dataset, "--out", "run")
        assert code == 2
        assert "is empty (training.evaluate_every=null" in err
        assert scoresde(dataset, "training.evaluate_every=null", "--out", "run")[0] == 0


class TestPlan:
    def test_a_discrete_loss_takes_the_networks_scales(self):
        config = REGISTRY.create("presets", "ve_ncsn_cifar10")
        plan = plan_training(config, REGISTRY)
        assert plan.loss.scales == 10

    @pytest.mark.parametrize("name", [e.row.name for e in REGISTRY.entries("presets")])
    def test_every_preset_can_be_trained(self, name, monkeypatch):
        plan = plan_training(REGISTRY.create("presets", name), installed(monkeypatch))
        assert tuple(plan.dataset.shape) == plan.model.shape
        assert plan.preprocessing.centered is plan.config.model.centered

    def test_differences_that_change_a_step(self, config):
        changes = ["training.iterations=99", "training.batch_size=8", "sampling.n=3", "model.sde=subvp"]
        assert difference(config(), config(*changes)) == [
            "model.sde: vp -> subvp",
            "training.batch_size: 16 -> 8",
        ]

    def test_a_component_is_the_same_by_name_alone_and_with_parameters(self, config):
        plain, moved = config("data.dataset=mnist"), config("data.dataset=mnist[root=elsewhere]")
        assert difference(plain, moved) == difference(moved, plain) == []
        assert difference(plain, config("data.dataset=cifar10[root=elsewhere]")) == [
            "data.dataset.name: mnist -> cifar10"
        ]
        slower = config("model.sde=vp[beta_max=10.0]")
        assert difference(config(), slower) == ["model.sde.beta_max: not given -> 10.0"]


def installed(monkeypatch):
    """The registry, as if what optional data sets require were there."""
    monkeypatch.setattr("scoresde_core.registry.missing_requirements", lambda row: [])
    return load_registry()
