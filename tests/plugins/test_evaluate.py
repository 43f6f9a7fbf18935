"""``scoresde evaluate``: the numbers equal those of its parts, and every outcome is a row."""

import json
import math
import re
import shlex
import shutil
import time
import types
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from third_party import ASKED as THEIRS
from third_party import DIST, distribution_of_the_page, rows_of
from scoresde_bench.report.compare import RunComparison as compare
from scoresde_bench.report.page import write_report
from scoresde_bench.report.result_sets import identity, read_result_sets
from scoresde_core import sample
from scoresde_core.evaluator import Evaluator, Metric
from scoresde_core.registry import load_registry
from scoresde_plugins.evaluate import checkpoints as choice
from scoresde_plugins.evaluate.measure import Measure, MeasuredModel, Part, compute
from scoresde_plugins.evaluate.measures import Draw, SplitLikelihood, SplitLoss
from scoresde_plugins.evaluators import comparison
from scoresde_plugins.extractors.identity import Identity
from scoresde_plugins.likelihood.bits_per_dim import bits_per_dim
from scoresde_plugins.likelihood.likelihood import log_likelihood
from scoresde_plugins.numerics.flow import Solver
from scoresde_run.commands.shell import main
from scoresde_run.data.evidence import Evidence
from scoresde_run.features import extraction
from scoresde_run.features.extraction import EventSet
from scoresde_run.machine.progress import Progress
from scoresde_run.models import checkpoint
from scoresde_run.results import fingerprint
from scoresde_run.results.results import Results
from scoresde_run.training.state import name_of

DOCS = Path(__file__).parents[2] / "docs" / "evaluate.md"
STEPS = (10, 20, 30, 40)
TRAINING = ["training.batch_size=8", "training.warmup=4", "training.iterations=40", "training.log_every=10",
            "training.evaluate_every=10", "training.evaluate_batches=100", "training.resume_every=40",
            "training.snapshot_every=10", "training.learning_rate=1e-2", "training.ema=0.9", "data.random_flip=false",
            "training.loss.stratified=true", "sampling.sampler.steps=4", "sampling.n=2", "model.network=mlp[width=16]",
            "evaluation.samples=24", "evaluation.batch_size=10", "evaluation.repeats=2",
            "evaluation.last_checkpoint=2"]  # fmt: skip
QUICK = ["--events", "4", "--repeats", "1", "--tolerance", "1e-2"]
POINTS = ["model.shape=[2]", "data.dataset=exact[target=mixture2d,count=64,test_count=30]"]


def train(folder: Path, *changes: str) -> Path:
    command = ["train", "mnist_vp", *TRAINING, *changes, "--out", str(folder), "--device", "cpu"]
    assert main([*command, "--log-level", "error"]) == 0
    return folder


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """A run on points of the plane."""
    return train(tmp_path_factory.mktemp("points") / "run", *POINTS)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A run on images of 8 x 8 pixels."""
    folder = tmp_path_factory.mktemp("images")
    np.savez(folder / "tiny.npz", images=np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8))
    # Its samples stay on the data's scale though it is hardly trained.
    network = "model.network=mlp[width=16,parameterisation=denoised]"
    data = f"data.dataset=npz[path={folder}/tiny.npz,test_share=0.3]"
    return train(folder / "run", "model.shape=[1,8,8]", network, data)


@pytest.fixture(scope="module")
def registry():
    return load_registry()


class NoTruth(Evaluator):
    """The mean of all samples: it needs nothing else."""

    needs = frozenset()

    def evaluate(self, evidence):
        return [Metric("mean", float(evidence.samples.mean()), 0.0, better="zero")]


class Nothing(Evaluator):
    """A metric that is never a number."""

    needs = frozenset()

    def evaluate(self, evidence):
        return [Metric("nothing", math.nan, math.nan)]


def evaluate(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments), "--device", "cpu"])


def rows(folder: Path) -> list[dict]:
    """Every row, in the order of the file."""
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def logged(run: Path) -> dict[int, float]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["evaluation_loss"] for row in found if "evaluation_loss" in row}


def stored(run: Path, step: int = 40) -> checkpoint.Checkpoint:
    return checkpoint.read(run / "models" / name_of(step))


class TestNumbers:
    @pytest.mark.parametrize("kind", ["points", "images"])
    def test_the_loss_is_the_one_that_training_logged(self, kind, request, tmp_path):
        run = request.getfixturevalue(kind)
        assert evaluate(run, "--models", "all", "--loss", "--out", tmp_path / "it") == 0
        found = {row["training_step"]: row["metrics"]["test_loss"]["value"] for row in rows(tmp_path / "it")}
        assert found == pytest.approx(logged(run), rel=1e-12)
        assert set(found) == set(STEPS)

    def test_the_loss_of_all_batches_and_its_error(self, images, tmp_path):
        """The whole split in batches of another size: as many events, other noise."""
        assert evaluate(images, "--loss", "--batch-size", 7, "--out", tmp_path / "it") == 0
        (row,) = rows(tmp_path / "it")
        assert row["costs"]["loss"]["events"] == 20
        metric = row["metrics"]["test_loss"]
        assert abs(metric["value"] - logged(images)[40]) < 4 * metric["stderr"]

    def test_the_likelihood_of_a_network_that_says_zero(self, points, tmp_path, registry):
        """Without a score the ODE is dx/dt = f x: x(1) = a x, and log p(x) = log pi(a x) + D log a."""
        found = stored(points)
        weights = {name: torch.zeros_like(value) for name, value in found.states()[0].items()}
        checkpoint.save(tmp_path / "zero", found.config, weights)
        assert evaluate(tmp_path / "zero", "--likelihood", "--out", tmp_path / "it") == 0
        sde = found.load(registry).sde
        ends = sde.alpha(torch.tensor([1e-5, 1.0], dtype=torch.float64))
        scale = float(ends[1] / ends[0])
        events = registry.create("datasets", found.config.data.dataset).load("test").double()
        log_p = torch.distributions.Normal(0.0, 1.0).log_prob(scale * events).sum(1) + 2 * math.log(scale)
        bits = -log_p / (2 * math.log(2))
        metric = rows(tmp_path / "it")[0]["metrics"]["bits_per_dim"]
        assert metric["value"] == pytest.approx(float(bits.mean()), abs=1e-5)
        assert metric["stderr"] == pytest.approx(float(bits.std()) / math.sqrt(len(bits)), abs=1e-5)
        assert metric["unit"] == "bits/dim"

    def test_bits_of_images_are_those_of_the_library(self, images, tmp_path, registry):
        asked = ["--likelihood", "--batch-size", 3, "--events", 8, "--tolerance", "1e-3"]
        assert evaluate(images, *asked, "--out", tmp_path / "it") == 0
        model = stored(images).load(registry)
        data = registry.create("datasets", stored(images).config.data.dataset).load("test")
        solver = Solver(rtol=1e-3, atol=1e-3)
        whole = bits_per_dim(
            lambda x, seed: log_likelihood(model.score(), x, seed=seed, solver=solver, batch_size=3).log_prob,
            data[[n * 20 // 8 for n in range(8)]],
            repeats=2,
        )
        (row,) = rows(tmp_path / "it")
        assert row["metrics"]["bits_per_dim"]["value"] == pytest.approx(whole.mean, rel=1e-9)
        assert row["metrics"]["bits_per_dim"]["stderr"] == pytest.approx(whole.stderr, rel=1e-6)
        assert row["costs"]["likelihood"]["nfe"] > 20

    def test_evaluators_see_the_samples_of_one_run(self, points, tmp_path, registry):
        asked = ["--evaluator", "nll_gap", "moments", "log_likelihood[samples=8]", "--target", "mixture2d"]
        assert evaluate(points, *asked, "--seed", 3, "--out", tmp_path / "it") == 0
        model, target = stored(points).load(registry), registry.create("targets", "mixture2d")
        drawn = sample(model.score(), model.plan.sampler, 24, seed=3, batch_size=10)
        evidence = Evidence(drawn.x, 3, target=target, model=model.score())
        (row,) = rows(tmp_path / "it")
        for name in ("nll_gap", "moments"):
            (metric,) = registry.create("evaluators", name).evaluate(evidence)
            assert row["metrics"][name] == metric.plain()
        assert row["metrics"]["log_likelihood_error"]["unit"] == "bits/dim"
        assert row["nfe"] == drawn.nfe == 4
        assert (row["samples"], row["batch_size"], row["seed"], row["steps"]) == (24, 10, 3, 4)
        assert (row["sampler"], row["predictor"], row["corrector"]) == ("pc", "ddim", "none")
        assert row["grid"] == "uniform"  # the predictor's, for none is named

    def test_features_are_extracted_once_for_all(self, points, tmp_path, registry, monkeypatch):
        """Of samples, of the whole reference, of the floor; of two checkpoints; and none anew for one metric more."""
        seen, load = [], Identity.load

        def counting(self, device):
            extract = load(self, device)
            return lambda x: (seen.append(len(x)), extract(x))[1]

        monkeypatch.setattr(Identity, "load", counting)
        extraction._loaded.cache_clear()
        inside = f"features=identity,reference={POINTS[1].partition('=')[2]}"
        texts = [f"{kind}[{inside}]" for kind in ("kernel", "frechet", "precision_recall")]
        asked = ["--seed", 3, "--out", tmp_path / "it", "--evaluator"]
        assert evaluate(points, "--models", "20,40", *asked, *texts) == 0
        assert sum(seen) == 2 * 24 + 64 + 24
        found = rows(tmp_path / "it")[-1]["metrics"]
        assert evaluate(points, *asked, *texts[:2], f"frechet[ranges=3,{inside}]") == 0
        assert sum(seen) == 2 * 24 + 64 + 24
        monkeypatch.undo()
        extraction._loaded.cache_clear()
        model = stored(points).load(registry)
        drawn = sample(model.score(), model.plan.sampler, 24, seed=3, batch_size=10)
        for text in texts:
            for metric in registry.create("evaluators", text).evaluate(Evidence(drawn.x, 3)):
                for key in ("value", "stderr", "floor"):
                    assert found[metric.name][key] == pytest.approx(getattr(metric, key), rel=1e-9)
                assert found[metric.name]["details"] == json.loads(json.dumps(metric.plain()["details"]))

    @pytest.mark.parametrize("kind", ["frechet[features=identity,", "sliced_wasserstein["])
    def test_other_true_events_in_the_same_place_are_noticed(self, images, tmp_path, kind):
        asked = ["--out", tmp_path / "it", "--evaluator", f"{kind}reference=npz[path={tmp_path}/r.npz]]"]
        values = []
        for seed in (1, 2, 1):
            grey = np.random.default_rng(seed).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
            np.savez(tmp_path / "r.npz", images=grey)
            for cache in (comparison.Origin.events, comparison._reference):
                cache.cache_clear()
            assert evaluate(images, *asked) == 0
            values.append(next(iter(rows(tmp_path / "it")[-1]["metrics"].values()))["value"])
        assert values[0] == values[2] != values[1]

    def test_edited_source_measures_anew(self, points, tmp_path, monkeypatch, capsys):
        """Neither the old row nor an old batch is reused."""
        common = (points, "--loss", "--evaluator", "moments", "--target", "mixture2d", "--out", tmp_path / "it")
        assert evaluate(*common) == 0
        before = files(tmp_path / "it")
        read = fingerprint.of_source

        def edited(module):  # by package in a checkout, by module where it is installed
            found = read(module)
            return {name: text[::-1] if name.startswith("scoresde_plugins") else text for name, text in found.items()}

        monkeypatch.setattr(fingerprint, "of_source", edited)
        capsys.readouterr()
        for again in (True, False):
            assert evaluate(*common) == 0
            said = capsys.readouterr().err
            told = "measured before with an earlier version of scoresde_plugins" in said and ": measured anew" in said
            assert (told, "done before" in said) == (again, not again)
        after = files(tmp_path / "it")
        assert before.items() <= after.items()
        assert len(after) == 2 * len(before)

    def test_an_evaluator_of_the_model_draws_none(self, points, tmp_path):
        asked = ["--evaluator", "log_likelihood[samples=8]", "--target", "mixture2d", "--out", tmp_path / "it"]
        assert evaluate(points, *asked) == 0
        (row,) = rows(tmp_path / "it")
        assert (row["nfe"], row["sampler"], row["samples"]) == (None, None, None)
        assert row["metrics"]["log_likelihood_error"]["stderr"] > 0
        assert [path.parent.name.partition("-")[0] for path in files(tmp_path / "it")] == ["judgement"]

    def test_two_evaluators_with_one_name_for_their_metric(self, points, tmp_path):
        asked = ["sliced_wasserstein", "sliced_wasserstein[projections=7]"]
        assert evaluate(points, "--evaluator", *asked, "--target", "mixture2d", "--out", tmp_path / "it") == 0
        first, second = rows(tmp_path / "it")[0]["metrics"].items()
        assert first[0] == "sliced_wasserstein"
        assert second[0] == "sliced_wasserstein (judgement sliced_wasserstein[projections=7])"
        assert first[1]["value"] != second[1]["value"]

    def test_another_evaluator_draws_no_samples_anew(self, points, tmp_path):
        common = (points, "--target", "mixture2d", "--out", tmp_path / "it", "--evaluator", "moments")
        assert evaluate(*common) == 0
        before = files(tmp_path / "it")
        assert evaluate(*common, "nll_gap") == 0
        after = files(tmp_path / "it")
        assert before.items() <= after.items()
        assert {path.parent.name.partition("-")[0] for path in after.keys() - before.keys()} == {"judgement"}
        assert [sorted(row["metrics"]) for row in rows(tmp_path / "it")] == [["moments"], ["moments", "nll_gap"]]

    def test_what_the_configuration_says(self, points, tmp_path):
        """Without a measure: the loss, and the likelihood where the configuration asks for it."""
        assert evaluate(points, "--out", tmp_path / "plain") == 0
        assert list(rows(tmp_path / "plain")[0]["metrics"]) == ["test_loss"]
        changes = ["evaluation.likelihood=true", "evaluation.split=train", "evaluation.repeats=1"]
        assert evaluate(points, "--events", 9, "--out", tmp_path / "more", "--set", *changes) == 0
        (row,) = rows(tmp_path / "more")
        assert list(row["metrics"]) == ["test_loss", "bits_per_dim"]
        assert (row["parameters"]["loss"]["split"], row["parameters"]["loss"]["of"]) == ("test", 30)
        told = row["parameters"]["likelihood"]
        assert (told["split"], told["of"], told["events"], told["repeats"]) == ("train", 64, 9, 1)

    def test_raw_weights_are_others(self, points, tmp_path):
        for weights in ("ema", "raw"):
            assert evaluate(points, "--weights", weights, "--out", tmp_path / "it") == 0
        averaged, raw = rows(tmp_path / "it")
        assert averaged["parameters"]["weights"] != raw["parameters"]["weights"]
        assert averaged["metrics"]["test_loss"]["value"] != raw["metrics"]["test_loss"]["value"]


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every part, and what tells whether it was written again."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("parts/*/*.safetensors")}


class TestRows:
    def test_the_report_of_the_bench_shows_them(self, points, images, tmp_path):
        out = tmp_path / "it"
        assert evaluate(points, "--models", "all", "--evaluator", "nll_gap", "--target", "mixture2d", "--out", out) == 0
        assert (
            evaluate(images, "--loss", "--evaluator", "no_truth", "--out", out, "--registry", no_truth(tmp_path)) == 0
        )
        read = list(Results(out).rows.values())
        assert len(read) == 5
        page = write_report(read, out / "report.html", "scoresde evaluate").read_text()
        for step in STEPS:
            assert name_of(step) in page
        assert page.count("data:image/png") == 5
        assert "nll_gap" in page
        assert "5 cells done" in page

    def test_losses_alone(self, points, tmp_path):
        out = tmp_path / "it"
        assert evaluate(points, "--models", "10,40", "--likelihood", "--loss", *QUICK, "--out", out) == 0
        page = write_report(rows(out), out / "report.html", "scoresde evaluate").read_text()
        assert "bits_per_dim" in page
        assert "test_loss" in page

    def test_a_second_time_nothing_is_done(self, points, tmp_path, capsys):
        for _ in range(2):
            assert evaluate(points, "--models", "all", "--out", tmp_path / "it") == 0
        assert capsys.readouterr().err.count("done before") == 4
        assert len(rows(tmp_path / "it")) == 4

    def test_other_weights_in_the_same_place_are_measured(self, points, tmp_path):
        shutil.copytree(points / "models" / name_of(10), tmp_path / "model")
        assert evaluate(tmp_path / "model", "--out", tmp_path / "it") == 0
        shutil.rmtree(tmp_path / "model")
        shutil.copytree(points / "models" / name_of(20), tmp_path / "model")
        assert evaluate(tmp_path / "model", "--out", tmp_path / "it") == 0
        assert [row["training_step"] for row in rows(tmp_path / "it")] == [10, 20]
        (last,) = Results(tmp_path / "it").rows.values()
        assert last["metrics"]["test_loss"]["value"] == pytest.approx(logged(points)[20])

    def test_a_damaged_checkpoint_is_a_failed_row(self, points, tmp_path, capsys):
        for step in STEPS[:3]:
            shutil.copytree(points / "models" / name_of(step), tmp_path / str(step))
        weights = tmp_path / "10" / checkpoint.WEIGHTS
        weights.write_bytes(weights.read_bytes()[:-8] + b"\0" * 8)
        (tmp_path / "20" / checkpoint.INDEX).write_text("format: [")
        places = [tmp_path / str(step) for step in STEPS[:3]]
        assert evaluate(*places, "--loss", "--out", tmp_path / "it") == 1
        first, second, third = rows(tmp_path / "it")
        assert (first["status"], second["status"], third["status"]) == ("failed", "failed", "done")
        assert f"{weights} is damaged" in first["reason"]
        assert f"cannot read {tmp_path / '20' / checkpoint.INDEX}" in second["reason"]
        assert "2 failed" in write_report(rows(tmp_path / "it"), tmp_path / "it/report.html", "it").read_text()
        assert f"{places[0]}: {weights} is damaged" in capsys.readouterr().out
        # Mended, only the failed ones are done.
        for step in STEPS[:2]:
            shutil.rmtree(tmp_path / str(step))
            shutil.copytree(points / "models" / name_of(step), tmp_path / str(step))
        assert evaluate(*places, "--loss", "--out", tmp_path / "it") == 0
        assert capsys.readouterr().err.count("done before") == 1
        assert {row["status"] for row in Results(tmp_path / "it").rows.values()} == {"done"}

    def test_what_fails_is_compared_with_what_it_was(self, points, tmp_path, monkeypatch):
        """A damaged index, damaged weights or a missing model is compared as failed, not as missing."""
        monkeypatch.setattr(choice, "POLL_SECONDS", 0.02)
        run = tmp_path / "run"
        shutil.copytree(points, run)
        asked = ["--evaluator", "moments", "nll_gap", "--target", "mixture2d", "--models", "all"]
        assert evaluate(run, *asked, "--out", tmp_path / "before") == 0
        models = [run / "models" / name_of(step) for step in STEPS]
        (models[0] / checkpoint.INDEX).write_text("format: [")
        (models[1] / checkpoint.EMA).write_bytes(b"")
        shutil.rmtree(models[2])
        assert evaluate(run, *asked, "--wait", "0.005", "--out", tmp_path / "after") == 1
        before, after = read_result_sets([str(tmp_path / name) for name in ("before", "after")])
        found = compare(before, after)
        assert (found.matched, found.missing, found.new) == (4, [], [])
        assert len(found.broken) == 3
        for step, words in zip(STEPS, ("cannot read", "is damaged", "did not appear"), strict=False):
            (line,) = [line for line in found.broken if f"after {step} training steps" in line]
            assert words in line
        for row in after.rows:
            assert row["evaluators"] == ["moments", "nll_gap"]
        # By themselves, the models of a run are what the run says.
        assert evaluate(models[0], *asked[:-2], "--out", tmp_path / "alone") == 1
        assert {identity(row) for row in read_result_sets([str(tmp_path / "alone")])[0].rows} < {
            *map(identity, before.rows)
        }

    def test_averaged_weights_that_are_not_there(self, points, tmp_path):
        found = stored(points)
        checkpoint.save(tmp_path / "raw", found.config, found.states()[0])
        assert evaluate(tmp_path / "raw", points, "--weights", "ema", "--out", tmp_path / "it") == 1
        assert [row["status"] for row in rows(tmp_path / "it")] == ["failed", "done"]
        failed, done = rows(tmp_path / "it")
        assert "has no averaged weights" in failed["reason"]
        for axis in ("network", "sde", "training_step"):
            assert failed[axis] is not None
        assert (failed["network"], failed["sde"]) == (done["network"], done["sde"])

    def test_a_batch_too_small_for_its_norms_is_told(self, points, tmp_path, capsys):
        arguments = ["--evaluator", "moments", "--target", "mixture2d", "--samples", 24, "--batch-size", 16]
        for name, corrector in (("batch", "langevin"), ("level", "langevin[norm=level]")):
            sampler = f"pc[predictor=ddim,corrector={corrector},steps=4]"
            assert evaluate(points, *arguments, "--sampler", sampler, "--out", tmp_path / name) == 0
        told, silent = rows(tmp_path / "batch")[0]["warnings"]["batch"], rows(tmp_path / "level")[0]
        assert "in batches of 8 events of 2 numbers" in told
        assert "warnings" not in silent
        assert capsys.readouterr().out.count(f"warning: {told}") == 1

    def test_a_sampler_that_diverges(self, points, tmp_path):
        found = stored(points)
        weights, _ = found.states()
        weights["end.1.weight"] = torch.full_like(weights["end.1.weight"], 1e30)
        checkpoint.save(tmp_path / "wild", found.config, weights)
        asked = ["--loss", "--evaluator", "moments", "--target", "mixture2d"]
        assert evaluate(tmp_path / "wild", *asked, "--out", tmp_path / "it") == 1
        (row,) = rows(tmp_path / "it")
        assert re.match(r"the sampler diverged: \d+ of 24 samples are not finite", row["reason"])
        assert "test_loss" in row["metrics"]

    @pytest.mark.parametrize("judged", [["moments", "--target", "mixture2d"], ["no_truth"]], ids=["target", "data"])
    def test_finite_samples_far_beyond_true_events_have_diverged(self, points, tmp_path, judged):
        found = stored(points)
        weights, _ = found.states()
        weights["end.1.weight"] = torch.full_like(weights["end.1.weight"], 1e3)
        checkpoint.save(tmp_path / "wild", found.config, weights)
        manifest = tmp_path / "rows.yaml"
        manifest.write_text(f"api: 1\nevaluators:\n  no_truth:\n    target: {__name__}:NoTruth\n")
        asked = ["--evaluator", *judged, "--registry", manifest, "--out", tmp_path / "it"]
        assert evaluate(tmp_path / "wild", *asked) == 1
        (row,) = rows(tmp_path / "it")
        assert row["status"] == "failed"
        assert row["reason"].startswith("the sampler diverged: the root mean square of its samples is ")
        assert row["metrics"] == {}

    def test_metrics_of_which_none_is_a_number_are_not_done(self, points, tmp_path):
        manifest = tmp_path / "rows.yaml"
        manifest.write_text(f"api: 1\nevaluators:\n  nothing:\n    target: {__name__}:Nothing\n")
        asked = ["--loss", "--registry", manifest, "--target", "mixture2d", "--evaluator", "nothing"]
        assert evaluate(points, *asked, "--out", tmp_path / "one") == 1
        (row,) = rows(tmp_path / "one")
        assert (row["status"], row["reason"]) == (
            "failed",
            "no metric of finite samples has a finite value: nothing",
        )
        assert set(row["metrics"]) == {"test_loss", "nothing"}
        assert evaluate(points, *asked, "moments", "--out", tmp_path / "two") == 0
        assert rows(tmp_path / "two")[0]["status"] == "done"

    def test_a_row_that_a_kill_cut_short_is_written_again(self, points, tmp_path):
        assert evaluate(points, "--models", "10,20", "--out", tmp_path / "it") == 0
        path = tmp_path / "it" / "results.jsonl"
        path.write_text(path.read_text()[:-20])
        assert evaluate(points, "--models", "10,20", "--out", tmp_path / "it") == 0
        assert [row["training_step"] for row in rows(tmp_path / "it")] == [10, 20]

    def test_a_damaged_part_is_computed_again(self, points, tmp_path):
        assert evaluate(points, "--out", tmp_path / "it") == 0
        (first, *_) = sorted(files(tmp_path / "it"))
        first.write_bytes(first.read_bytes()[:-1])
        value = rows(tmp_path / "it")[0]["metrics"]
        (tmp_path / "it" / "results.jsonl").write_text("")
        assert evaluate(points, "--out", tmp_path / "it") == 0
        assert rows(tmp_path / "it")[0]["metrics"] == value


@pytest.mark.parametrize("kind", [SplitLoss, SplitLikelihood, Draw])
def test_a_measure_states_every_field_that_its_numbers_depend_on(kind):
    """Besides its events and what belongs to the model; the scale only judges what was drawn."""
    elsewhere = {"fingerprint", "parts", "share", "sde", "plan", "units", "scale"}
    assert set(kind.stated) == {field.name for field in attrs.fields(kind)} - elsewhere


class Counted(Measure):
    """Batches that record who computed them; that of ``bad`` fails."""

    def __init__(self, name, count, done, bad=None):
        object.__setattr__(self, "parts", ())
        object.__setattr__(self, "told", (name, count, done, bad))

    title = property(lambda self: self.told[0])
    name = property(lambda self: self.told[0])
    count = property(lambda self: self.told[1])
    settings = protocol = property(lambda self: {})

    def measure(self, k, model):
        name, _, done, bad = self.told
        done.append((name, k))
        if k == bad:
            raise ValueError(f"{name} {k}")
        return Part({}, {"k": k})

    def summarise(self, parts):
        return {}


class Alone:
    """One of three processes, whose others say nothing."""

    count = 3

    def __init__(self, rank):
        self.rank = rank

    def exchange(self, value):
        return [value]


class TestBatches:
    def test_every_batch_falls_to_one_process_and_the_measures_of_a_stage_to_all(self, tmp_path):
        done = {rank: [] for rank in range(3)}
        model = MeasuredModel(None, torch.device("cpu"), torch.float32, {}, tmp_path)
        for rank, own in done.items():
            stage = [Counted(name, count, own) for name, count in (("a", 1), ("b", 4), ("c", 1), ("d", 1))]
            assert compute(stage, model, Alone(rank), Progress(shown=False), "it") == {}
        everything = [("a", 0), *(("b", k) for k in range(4)), ("c", 0), ("d", 0)]
        assert sorted(batch for own in done.values() for batch in own) == everything
        assert [len(own) for own in done.values()] == [3, 2, 2]
        # Other ranks find them done.
        again = []
        compute([Counted("b", 4, again)], model, Alone(1), Progress(shown=False), "it")
        assert not again

    def test_a_measure_that_fails_is_left_and_the_others_are_done(self, tmp_path):
        done = []
        model = MeasuredModel(None, torch.device("cpu"), torch.float32, {}, tmp_path)
        stage = [Counted("a", 9, done, bad=3), Counted("b", 6, done)]
        found = compute(stage, model, Alone(0), Progress(shown=False), "it")
        assert {title: str(failed) for title, failed in found.items()} == {"a": "ValueError: a 3"}
        assert done == [("a", 0), ("a", 3), ("b", 0), ("b", 3)]


def no_truth(folder: Path) -> Path:
    """A registry with an evaluator that needs samples alone."""
    path = folder / "rows.yaml"
    path.write_text(
        f"api: 1\nevaluators:\n  no_truth:\n    target: {__name__}:NoTruth\n    summary: the mean of all samples\n"
    )
    return path


class TestThirdParty:
    """Declarations of another package's evaluators are treated like ours."""

    def test_features_are_extracted_once_with_ours(self, points, tmp_path, monkeypatch):
        """Alone, in batches of another size, they give the same values as with ours."""
        seen, load = [], Identity.load

        def counting(self, device):
            extract = load(self, device)
            return lambda x: (seen.append(len(x)), extract(x))[1]

        monkeypatch.setattr(Identity, "load", counting)
        extraction._loaded.cache_clear()
        distribution_of_the_page(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        common = (points, "--target", "mixture2d", "--evaluator")
        assert evaluate(*common, "kernel[features=identity]", *THEIRS, "--out", tmp_path / "it") == 0
        assert sum(seen) == 3 * 24  # of the samples, of the truth, of what plays the samples in the floor
        folders = {path.parent.name.partition("-")[0] for path in files(tmp_path / "it")}
        assert folders == {"samples", "features", "judgement"}
        small = ("brightness", "feature_shift[features=identity,batch_size=5]", "feature_size")
        assert evaluate(*common, *small, "--batch-size", 7, "--out", tmp_path / "small") == 0
        extraction._loaded.cache_clear()
        (row,), (other,) = rows(tmp_path / "it"), rows(tmp_path / "small")
        for name in ("brightness", "feature_shift_identity", "feature_size"):
            assert other["metrics"][name]["value"] == pytest.approx(row["metrics"][name]["value"], rel=1e-6)
        assert row["plugins"][DIST] == "1.2"
        loaded = load_registry()
        model = stored(points).load(loaded)
        drawn = sample(model.score(), model.plan.sampler, 24, batch_size=10)
        for text in THEIRS:
            evidence = Evidence(drawn.x, target=loaded.create("targets", "mixture2d"))
            (metric,) = loaded.create("evaluators", text).evaluate(evidence)
            assert row["metrics"][metric.name]["value"] == pytest.approx(metric.value, rel=1e-9)
            assert row["metrics"][metric.name]["stderr"] == pytest.approx(metric.stderr, rel=1e-6)

    CODE = """
import os, attrs, torch
from scoresde import Estimate, Evaluator, EventSet, Extraction, Features, param
from scoresde_plugins.evaluators import features, pooled, samples
from scoresde_plugins.extractors.identity import Identity

class Offset(Evaluator):
    needs = frozenset()
    def depends_on(self, evidence):
        return {"offset": torch.tensor(float(os.environ["OFFSET"]))}
    def evaluate(self, evidence):
        return [self.metric("offset", Estimate(float(os.environ["OFFSET"])))]

class Mine(Evaluator):
    needs = frozenset()
    number = 1.0
    def reads(self, evidence):
        return [(Extraction(Identity()), EventSet(("mine",), 8, lambda: torch.full((8, 2), self.number)))]
    def evaluate(self, evidence):
        ((extraction, events),) = self.reads(evidence)
        return [self.metric("mine", Estimate(float(pooled(features(extraction, events, evidence)).mean())))]

class Other(Mine):
    number = 2.0

class Short(Mine):
    def reads(self, evidence):
        return [(Extraction(Identity()), EventSet(("short",), 7, lambda: torch.zeros(8, 2)))]

class OfModel(Mine):
    judges = "model"
    def reads(self, evidence):
        return [(Extraction(Identity()), samples(evidence))]

@attrs.frozen
class Scaled(Identity):
    scale: float = 1.0
    def load(self, device):
        return lambda x: Features(self.scale * x)

@attrs.frozen
class OfScaled(Mine):
    scale: float = param(1.0, "of the features")
    def reads(self, evidence):
        return [(Extraction(Scaled(self.scale)), samples(evidence))]

class Clash(Mine):
    def depends_on(self, evidence):
        return {"target": 1}
"""

    def rows(self, folder):
        names = {"offset": "Offset", "mine": "Mine", "other": "Other", "of_model": "OfModel", "clash": "Clash"}
        names |= {"of_scaled": "OfScaled", "short": "Short"}
        return rows_of(folder, "my_other_metrics", names, self.CODE)

    def test_what_they_depend_on_counts(self, points, tmp_path, monkeypatch, capsys):
        asked = (points, "--registry", self.rows(tmp_path), "--evaluator", "offset", "mine", "--out", tmp_path / "it")
        for offset, again in (("1", False), ("1", True), ("2", False)):
            monkeypatch.setenv("OFFSET", offset)
            assert evaluate(*asked) == 0
            assert ("done before" in capsys.readouterr().err) == again
            metrics = rows(tmp_path / "it")[-1]["metrics"]
            assert (metrics["offset"]["value"], metrics["mine"]["value"]) == (float(offset), 1.0)

    def test_a_part_of_a_set_has_its_rows(self):
        """Else the features of the whole set would be taken for its own."""
        whole = EventSet(("whole",), 3, lambda: torch.zeros(3, 2))
        with pytest.raises(ValueError, match="give both or neither"):
            EventSet(("part",), 2, lambda: torch.zeros(2, 2), whole=whole)

    def test_an_extractor_that_does_not_tell_its_parameters(self, points, tmp_path):
        """Features are not used again for another scale, which the extractor's own protocol keeps to itself."""
        asked = (points, "--registry", self.rows(tmp_path), "--out", tmp_path / "it", "--evaluator")
        one, three = (
            evaluate(*asked, f"of_scaled[scale={scale}]") or rows(tmp_path / "it")[-1]["metrics"]["mine"]["value"]
            for scale in (1, 3)
        )
        assert three == pytest.approx(3 * one, rel=1e-6)

    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            (["mine", "other"], "two evaluators mean different things by features Identity() of mine"),
            (["moments", "of_model"], "judges the model, so it cannot read features of samples"),
            (["short"], "features Identity() of short: the set has 8 events, but states 7"),
            (["clash"], "depends_on of the evaluator clash uses the reserved name target"),
        ],
        ids=["label", "model", "size", "name"],
    )
    def test_what_contradicts_others_is_refused(self, points, tmp_path, capsys, asked, message):
        common = (points, "--registry", self.rows(tmp_path), "--target", "mixture2d", "--out", tmp_path / "it")
        assert evaluate(*common, "--evaluator", *asked) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "it" / "results.jsonl").exists()


class TestChoice:
    @pytest.mark.parametrize(
        ("text", "steps"),
        [
            ("last", [40]),
            ("all", [10, 20, 30, 40]),
            ("configured", [10, 20]),
            ("10,30", [10, 30]),
            ("15-30", [20, 30]),
        ],
    )
    def test_models(self, points, text, steps):
        chosen = choice.chosen_checkpoints([points], choice.Choice(text), wait=False)
        assert [each.find() for each in chosen] == [points / "models" / name_of(step) for step in steps]

    def test_the_best_has_the_lowest_loss_of_those_that_are_there(self, points, tmp_path):
        shutil.copytree(points, tmp_path / "run")
        lines = [(10, 3.0), (20, 0.5), (25, 0.1), (30, 0.7), (40, math.nan)]
        text = "".join(json.dumps({"step": step, "evaluation_loss": loss}) + "\n" for step, loss in lines)
        (tmp_path / "run/metrics.jsonl").write_text(text + '{"step": 40, "evalu')
        (best,) = choice.chosen_checkpoints([tmp_path / "run"], choice.Choice("best"), wait=False)
        assert best.find().name == name_of(20)

    def test_folders_of_both_kinds_each_once(self, points):
        one = points / "models" / name_of(20)
        chosen = choice.chosen_checkpoints([one, points], choice.Choice("all"), wait=False)
        assert [each.find().name for each in chosen] == [name_of(step) for step in (20, 10, 30, 40)]


@pytest.fixture
def appears(monkeypatch):
    """Sets what happens while the command waits: one of some renames at each look."""

    def set_up(*moves: tuple[Path, Path]) -> None:
        left = list(moves)

        def sleep(seconds):
            source, place = left.pop(0)
            source.rename(place)

        monkeypatch.setattr(choice, "time", types.SimpleNamespace(sleep=sleep, monotonic=time.monotonic))

    return set_up


class TestWaiting:
    def test_models_are_evaluated_as_they_appear(self, points, tmp_path, appears, capsys):
        run, hidden = tmp_path / "run", tmp_path / "hidden"
        shutil.copytree(points, run)
        (run / "models").rename(hidden)
        (run / "models").mkdir()
        appears(*((hidden / name_of(step), run / "models" / name_of(step)) for step in STEPS))
        assert evaluate(run, "--models", "all", "--wait", "5", "--out", tmp_path / "it") == 0
        assert [row["training_step"] for row in rows(tmp_path / "it")] == list(STEPS)
        said = [line for line in capsys.readouterr().err.splitlines() if "waiting" in line]
        names = [run / "models" / name_of(step) for step in STEPS]
        assert said == [f"waiting for {name}, for at most 5 minutes" for name in names]

    def test_the_best_of_a_run_is_known_at_its_end(self, points, tmp_path, appears):
        shutil.copytree(points, tmp_path / "run")
        last = tmp_path / "run/models" / name_of(40)
        last.rename(tmp_path / "away")
        appears((tmp_path / "away", last))
        assert evaluate(tmp_path / "run", "--models", "best", "--wait", "5", "--out", tmp_path / "it") == 0
        losses = logged(points)
        assert [row["training_step"] for row in rows(tmp_path / "it")] == [min(losses, key=losses.get)]

    def test_what_does_not_come_is_a_failed_row(self, points, tmp_path, monkeypatch):
        monkeypatch.setattr(choice, "POLL_SECONDS", 0.02)
        shutil.copytree(points, tmp_path / "run")
        shutil.rmtree(tmp_path / "run/models" / name_of(30))
        assert evaluate(tmp_path / "run", "--models", "all", "--wait", "0.005", "--out", tmp_path / "it") == 1
        assert [row["status"] for row in rows(tmp_path / "it")] == ["done", "done", "done", "failed"]
        assert rows(tmp_path / "it")[-1]["reason"] == "it did not appear in time: is the training still running?"


WRONG = [
    (["{run}", "--models", "newest"], "cannot read --models newest: write last, best, all, configured"),
    (["{run}", "--models", "30-10"], "--models 30-10 has no step in it"),
    (["{run}", "--models", "15"], "has no model of step 15: it has 10, 20, 30, 40"),
    (["{run}", "--models", "15", "--wait", "1"], "will have no model of step 15: it saves one every 10 steps"),
    (["{run}", "--models", "11-19"], "has no such model"),
    (["nowhere"], "nowhere is not a checkpoint: there is no such folder"),
    (["{run}", "--samples", "0"], "--samples must be at least 1, got 0"),
    (["{run}", "--samples", "5"], "--samples has no effect"),
    (["{run}", "--loss", "--probes", "5"], "--probes has no effect without --likelihood"),
    (["{run}", "--wait", "0"], "--wait must be a number of minutes above 0, got 0"),
    (["{run}", "--tolerance", "-1"], "--tolerance must lie between 0 and 1, got -1"),
    (["{run}", "--evaluator", "nll_gap"], "the evaluator nll_gap compares with an exact target: give --target"),
    (["{run}", "--evaluator", "nil_gap"], "Did you mean 'nll_gap'"),
    (["{run}", "--evaluator", "nll_gap", "--target", "gaussian[shape=[3]]"], "the model makes events of shape [2]"),
    (["{run}", "--evaluator", "nll_gap", "--target", "mixture2d", "--sampler", "odee"], "Did you mean 'ode'"),
    (["{run}", "--evaluator", "moments", "--target", "mixture2d", "--samples", "1"], "cannot judge these samples: "),
    (["{run}", "--evaluator", "frechet[features=identity]"], "cannot judge these samples: frechet_identity needs"),
    (["{run}", "--evaluator", "frechet[features=identity,statistics=no.npz]"], "no.npz"),
    (["{run}", "--set", "evaluation.samlpes=3"], "there is no 'samlpes'. Did you mean 'samples'"),
    (["{run}", "--set", "data.dataset=npz[path=no.npz]"], "no.npz"),
    (["{run}", "--likelihood", "--set", "model.network.label=index"], "was trained at discrete ones"),
    (["{run}", "--likelihood", "--dequantizer", "nniform"], "Did you mean 'uniform'"),
]


class TestRefused:
    @pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(w[0][1:]) or w[0][0] for w in WRONG])
    def test_before_any_work(self, points, tmp_path, capsys, arguments, message):
        given = [str(points) if word == "{run}" else word for word in arguments]
        assert evaluate(*given, "--out", tmp_path / "it") in (2, 3)
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
        assert not (tmp_path / "it").exists()

    def test_one_of_several_processes_says_it(self, points, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("RANK", "1")
        with pytest.raises(SystemExit, match="2"):
            evaluate(points, "--models", "15", "--out", tmp_path / "it")
        assert capsys.readouterr().err == ""

    def test_a_folder_of_something_else(self, points, capsys):
        assert evaluate(points, "--out", points) == 3
        assert f"{points} exists and is not an evaluation: choose another --out" in capsys.readouterr().err
        assert not (points / "parts").exists()

    def test_a_run_that_has_no_best(self, points, tmp_path, capsys):
        shutil.copytree(points, tmp_path / "run")
        (tmp_path / "run/metrics.jsonl").unlink()
        assert evaluate(tmp_path / "run", "--models", "best", "--out", tmp_path / "it") == 2
        assert "has no evaluation_loss at the step of a model" in capsys.readouterr().err


def test_the_commands_of_the_documentation_run(tmp_path, monkeypatch):
    """In order, in one folder."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```bash\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.M | re.S)
    commands = [line for block in blocks for line in block.replace("\\\n", " ").strip().splitlines()]
    commands = [command for command in commands if not command.startswith("torchrun")]
    assert len(commands) == 5
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "scoresde"
        assert main(arguments) == 0, command
    found = rows(tmp_path / "evaluation")
    assert [row["training_step"] for row in found] == [50, 100, 150, 150, 100, 50, 100, 150]
    losses = [row["metrics"]["test_loss"]["value"] for row in found[:3]]
    assert losses[0] > losses[2]


def test_the_bench_measures_the_likelihood_of_a_target(tmp_path):
    """The ODE of the exact score of a Gaussian: bits/dim to 2e-3, from the command line."""
    from scoresde_bench.cli import main as bench

    asked = ["--target", "gaussian", "--evaluator", "log_likelihood", "--sde", "vp", "ve", "subvp", "--steps", "2"]
    assert bench([*asked, "--samples", "64", "--device", "cpu", "--out", str(tmp_path / "it")]) == 0
    found = rows(tmp_path / "it")
    assert [row["sde"] for row in found] == ["vp", "ve", "subvp"]
    for row in found:
        metric = row["metrics"]["log_likelihood_error"]
        assert abs(metric["value"]) < 2e-3
        assert (metric["unit"], metric["better"]) == ("bits/dim", "zero")
