"""Units: one scale for data, models, files and pictures."""

import json
import math
import warnings
from pathlib import Path
from types import SimpleNamespace

import attrs
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scoresde import (
    Batches,
    Dataset,
    Draws,
    Evidence,
    ExactScore,
    Preprocessing,
    Processes,
    create,
    load_registry,
    sample,
)
from scoresde_bench.cli import main as bench
from scoresde_core.components import parse
from scoresde_core.errors import FileError, UsageError
from scoresde_plugins.conditions.label import ClassCondition
from scoresde_plugins.evaluators.frechet import FrechetDistance
from scoresde_plugins.evaluators.likelihood import LogLikelihoodError
from scoresde_plugins.likelihood.bits_per_dim import measure
from scoresde_plugins.likelihood.likelihood import FlowDensity
from scoresde_plugins.targets.gaussian import GaussianTarget
from scoresde_run.commands.shell import main
from scoresde_run.data.batches import mirrored
from scoresde_run.data.scale import mismatch, moments
from scoresde_run.data.units import Units
from scoresde_run.models import checkpoint
from scoresde_run.models.config import Config
from scoresde_run.models.model import find_dataset, plan_model
from scoresde_run.results.results import read_rows
from scoresde_run.training.trainer import Trainer, plan_training

REGISTRY = load_registry()
QUICK = ["training.batch_size=16", "training.warmup=0", "training.iterations=4", "training.log_every=4",
         "training.evaluate_every=null", "training.resume_every=4", "training.snapshot_every=4",
         "model.network=mlp[width=16,depth=1,parameterisation=denoised]", "sampling.sampler.steps=3", "sampling.n=4",
         "data.random_flip=false"]  # fmt: skip
SCALED = Units(False, levels=256, shift=(0.1, -0.2, 0.3), scale=(0.5, 2.0, 1.5))
ALL = [Units(), Units(True, levels=256), Units(False, levels=256), Units(False), Units(False, levels=65536),
       Units(shift=(1000.0,), scale=(200.0,)), SCALED, attrs.evolve(SCALED, centered=True)]  # fmt: skip


def train(folder: Path, *changes: str, preset: str = "moons_vp") -> Path:
    command = ["train", preset, *QUICK, *changes, "--out", str(folder), "--device", "cpu", "--log-level", "error"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the data's")
        assert main(command) == 0
    return folder


def recorded(folder: Path) -> dict:
    return yaml.safe_load((folder / "config.yaml").read_text())["model"]


def samples(folder: Path) -> dict:
    return dict(np.load(folder / "samples.npz"))


class TestUnits:
    @pytest.mark.parametrize("units", ALL, ids=str)
    def test_data_come_back(self, units):
        data = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
        back = units.decode(units.encode(data))
        assert (back - data).abs().max() < 1e-4 * max(1, *units.shift)
        assert (units.from_file(units.to_file(data)) - data).abs().max() < 1e-6

    @pytest.mark.parametrize("units", ALL, ids=str)
    def test_the_volume_is_that_of_the_jacobian(self, units):
        x = torch.zeros(3, 2, 2, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda x: units.decode(x.unsqueeze(0))[0].flatten(), x)
        volume = float(torch.linalg.slogdet(jacobian.reshape(12, 12)).logabsdet)
        assert units.log_volume((3, 2, 2)) == pytest.approx(volume, abs=1e-12)

    @pytest.mark.parametrize("other", ALL, ids=str)
    @pytest.mark.parametrize("units", ALL, ids=str)
    def test_a_model_of_other_units_sees_the_same_data(self, units, other):
        pair = units.onto(other)
        assert (pair is None) == (len(units.scale) > 1 or len(other.scale) > 1)
        if pair is not None:
            data = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(1, 3, 2, 2)
            a, b = pair
            assert torch.allclose(a * units.encode(data) + b, other.encode(data), atol=1e-12)

    @pytest.mark.parametrize(("levels", "dtype"), [(256, torch.uint8), (65536, torch.int32), (4096, torch.int32)])
    @pytest.mark.parametrize("centered", [True, False])
    def test_grey_levels_come_back(self, centered, levels, dtype):
        units = Units(centered, levels=levels, shift=(0.2,), scale=(0.5,))
        stored = torch.arange(0, levels, max(1, levels // 256)).to(dtype).reshape(1, 1, 16, -1)
        stored[..., -1] = levels - 1
        found = units.images(units.encode(stored))
        assert found.dtype == dtype
        assert torch.equal(found, stored)
        data = units.decode(units.encode(stored))
        assert (float(data.min()), float(data.max())) == pytest.approx((-1, 1), abs=1e-6)

    def test_images_of_8_bits_are_that_to_a_model_of_16(self):
        white = torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)
        assert (Units(levels=65536).encode(white) == 1).all()

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            (dict(levels=1), "levels"),
            (dict(scale=(0.0,)), "scale"),
            (dict(scale=(1.0, -1.0)), "scale"),
            (dict(shift=()), "shift"),
        ],
    )
    def test_what_is_no_unit(self, wrong, words):
        with pytest.raises(ValueError, match=words):
            Units(**wrong)

    def test_a_scale_has_a_number_for_each_channel(self):
        changes = ["model.shape=[2]", "model.scale=[1.0,2.0,3.0]"]
        with pytest.raises(UsageError, match=r"scale has 3 numbers, events of shape \[2\] need 1 or 2"):
            plan_model(REGISTRY.create("presets", "moons_vp").override(changes), REGISTRY)


class TestLikelihood:
    """The density is that of the data, for any units of the model."""

    MEAN, STD = 300.0, 40.0
    TARGET = GaussianTarget((2,), mean=MEAN, std=STD)

    def seen(self, units):
        """The score of the target, as a model in ``units`` has it."""
        (a, b) = Units().onto(units)
        return ExactScore(GaussianTarget((2,), mean=a * self.MEAN + b, std=a * self.STD), create("sdes", "vp"))

    @pytest.mark.parametrize(
        "units", [Units(shift=(290.0,), scale=(50.0,)), Units(shift=(0.0,), scale=(400.0,))], ids=str
    )
    def test_bits_of_floats(self, units):
        x = self.TARGET.sample(6, seed=1).double()
        density = FlowDensity(trace="exact", rtol=1e-7, atol=1e-7)
        found = measure(
            density, self.seen(units), x, units=units,
            exact=self.TARGET.log_prob, dtype=torch.float64,
        )  # fmt: skip
        truth = -self.TARGET.log_prob(x) / (2 * math.log(2))
        assert torch.allclose(found.truth[0], truth, atol=1e-9)
        assert torch.allclose(found.values[0], truth, atol=0.02)  # the flow ends near the prior, and not at it
        apart = measure(density, self.seen(units), units.encode(x), dtype=torch.float64)
        assert torch.allclose(found.values, apart.values + math.log2(units.scale[0]), atol=1e-9)

    def test_bits_of_images_do_not_depend_on_the_units(self):
        """Of one law on [-1, 1], by models in the units of every channel, with the same noise of the dequantisation."""
        grey = torch.randint(0, 256, (3, 3, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

        class Law(FlowDensity):
            """The model's density, independent in every number."""

            def measure(self, model, x, seed=0, first=0):
                data = model.units.decode(x.double())
                nats = -0.5 * (data / 0.6).square().flatten(1).sum(1) - 12 * math.log(0.6 * math.sqrt(2 * math.pi))
                found = attrs.evolve(TestLikelihood.found, log_prob=nats + model.units.log_volume((3, 2, 2)))
                return found

        seen = [SimpleNamespace(sde=create("sdes", "vp"), units=units) for units in ALL if units.levels == 256]
        values = [measure(Law(), model, grey, units=model.units).values for model in seen]
        assert len(values) == 4
        for other in values[1:]:
            assert torch.allclose(other, values[0], atol=1e-5)

    from scoresde_plugins.likelihood.likelihood import LogDensities

    found = LogDensities(torch.zeros(3), torch.zeros(3))

    @pytest.mark.parametrize("units", [Units(shift=(290.0,), scale=(50.0,)), None], ids=["scaled", "not said"])
    def test_evaluators_ask_the_model_about_what_it_sees(self, units):
        model = ExactScore(self.TARGET, create("sdes", "vp")) if units is None else self.seen(units)
        evidence = Evidence(self.TARGET.sample(40).double(), target=self.TARGET, model=model, units=units)
        (metric,) = LogLikelihoodError(samples=20).evaluate(evidence)
        assert abs(metric.value) < (0.05 if units else 50)


def evaluated(run: Path, folder: Path, *more: str) -> dict:
    assert main(["evaluate", str(run), *more, "--device", "cpu", "--out", str(folder)]) == 0
    (row,) = read_rows(folder / "results.jsonl").values()
    return {name: metric["value"] for name, metric in row["metrics"].items()}


@pytest.fixture(
    scope="module", params=["mixture2d", "gaussian[shape=[1,2,2],mean=3.0,std=0.7]"], ids=["points", "maps"]
)
def runs(request, tmp_path_factory):
    """Two runs on one target, and the target."""
    folder, target = tmp_path_factory.mktemp("runs"), request.param
    shape = "[2]" if target == "mixture2d" else "[1,2,2]"
    data = [f"data.dataset=exact[target={target},count=64,test_count=16]", f"model.shape={shape}"]
    made = [train(folder / word, *data, f"model.centered={word}") for word in ("true", "false")]
    return [*made, target]


class TestFloatsAndCentered:
    """``centered`` concerns images; it must have no effect on floats."""

    EVALUATORS = ("sliced_wasserstein", "nll_gap", "moments")

    def test_evaluate(self, runs, tmp_path):
        *made, target = runs
        asked = ["--evaluator", *self.EVALUATORS, "--target", target, "--samples", "40", "--loss"]
        asked += ["--likelihood", "--events", "2", "--repeats", "1", "--tolerance", "1e-1"]
        centred, unit = (evaluated(run, tmp_path / run.name, *asked) for run in made)
        assert len(centred) == 5
        assert centred == unit

    def test_the_bench(self, runs, tmp_path, monkeypatch):
        *made, target = runs
        monkeypatch.chdir(tmp_path)
        asked = ["--target", target, "--evaluator", *self.EVALUATORS, "likelihood_bound[samples=4,times=100]"]
        asked += ["--samples", "40", "--steps", "3", "--predictor", "ddim", "--device", "cpu", "--out", "out"]
        assert bench(["--checkpoint", *map(str, made), *asked]) == 0
        centred, unit = (row["metrics"] for row in read_rows(Path("out/results.jsonl")).values())
        assert len(centred) == 4
        assert {name: m["value"] for name, m in centred.items()} == {name: m["value"] for name, m in unit.items()}

    def test_samples_latents_and_pictures(self, runs, tmp_path):
        *made, _ = runs
        for run in made:
            for command, more in (
                ("sample", ["--n", "4"]),
                ("encode", ["--images", "3", "--rtol", "1e-2", "--atol", "1e-2"]),
            ):
                out = tmp_path / f"{command}-{run.name}"
                assert main([command, "--checkpoint", str(run), *more, "--device", "cpu", "--out", str(out)]) == 0
        for name in ("samples.npz", "latents.npz"):
            command = "sample" if name == "samples.npz" else "encode"
            first, second = (dict(np.load(tmp_path / f"{command}-{run.name}" / name)) for run in made)
            assert first.keys() == second.keys()
            for key in first:
                np.testing.assert_array_equal(first[key], second[key])
        centred, unit = ([path.read_bytes() for path in sorted((run / "samples").glob("*.png"))] for run in made)
        assert centred == unit


class TestFloatEvents:
    """Items of a data set of floats come out as floats, whatever their shape."""

    @pytest.mark.parametrize("channels", [1, 2, 3])
    def test_samples_of_maps_are_not_cut_off(self, tmp_path, channels, capsys):
        target = f"gaussian[shape=[{channels},4,4],mean=20.0,std=5.0]"
        command = [
            "sample",
            "--target",
            target,
            "--n",
            "6",
            "--steps",
            "20",
            "--device",
            "cpu",
            "--out",
            str(tmp_path / "out"),
        ]
        assert main(command) == 0
        arrays = samples(tmp_path / "out")
        assert list(arrays) == ["floats"]
        assert (arrays["floats"].shape, arrays["floats"].dtype) == ((6, channels, 4, 4), np.float32)
        assert arrays["floats"].mean() > 5
        record = yaml.safe_load((tmp_path / "out" / "sampling.yaml").read_text())
        low, high = arrays["floats"].min(), arrays["floats"].max()
        words = f"floats, scaled: black is {low:.4g}, white {high:.4g}"
        assert record["picture"] == words
        assert words in capsys.readouterr().out
        with Image.open(tmp_path / "out" / "samples.png") as picture:
            assert picture.text == {"Description": words}
            tile = np.asarray(picture).reshape(*picture.size[::-1], -1)[:4, :4]
        shown = (arrays["floats"][0] - low) / (high - low) * 255
        shown = shown.mean(0, keepdims=True) if channels == 2 else shown
        assert np.abs(tile - np.rint(shown).transpose(1, 2, 0)).max() <= 1

    def test_fields_in_an_npz_file_are_trained_on_and_sampled(self, tmp_path):
        """Two channels, as complex data have."""
        rows = np.random.default_rng(0).normal(7, 2, (40, 2, 4, 4))
        np.savez(tmp_path / "maps.npz", images=rows)
        run = train(tmp_path / "run", f"data.dataset=npz[path={tmp_path}/maps.npz]", "model.shape=[2,4,4]")
        assert recorded(run)["levels"] is None
        assert (
            main(["sample", "--checkpoint", str(run), "--n", "2", "--device", "cpu", "--out", str(tmp_path / "out")])
            == 0
        )
        assert samples(tmp_path / "out")["floats"].shape == (2, 2, 4, 4)

    def test_grey_levels_are_no_floats(self, tmp_path, capsys):
        np.savez(tmp_path / "grey.npz", images=np.zeros((3, 2, 5, 5), np.uint8))
        config = "format: 1\nmodel: {network: 'mlp[width=4]', sde: vp, shape: [2, 5, 5], levels: null}\n"
        (tmp_path / "maps.yaml").write_text(config)
        for data in (f"{tmp_path}/grey.npz", f"npz[path={tmp_path}/grey.npz,test_share=0.5]"):
            command = ["likelihood", "--preset", str(tmp_path / "maps.yaml"), "--dataset", data]
            assert main([*command, "--device", "cpu", "--out", str(tmp_path / "out")]) == 2
            assert "holds grey levels, but the model's data are floats" in capsys.readouterr().err

    def test_floats_far_from_images_have_no_8_bit_features(self):
        @attrs.frozen
        class Reads8Bits(type(create("extractors", "identity"))):
            images = True

        metric = FrechetDistance(features=Reads8Bits())
        for std, words in ((0.4, None), (40.0, "reads images on [-1, 1], and these are floats from")):
            target = GaussianTarget((1, 2, 2), std=std)
            reason = metric.skip(Evidence(target.sample(20), target=target))
            assert (reason is None) if words is None else words in reason

    def test_images_of_16_bits(self, tmp_path):
        images = np.random.default_rng(0).integers(0, 65536, (40, 4, 4), dtype=np.uint16)
        np.savez(tmp_path / "deep.npz", images=images)
        data = create("datasets", f"npz[path={tmp_path}/deep.npz]")
        assert (data.levels, data.load().dtype) == (65536, torch.int32)
        run = train(
            tmp_path / "run",
            f"data.dataset=npz[path={tmp_path}/deep.npz]",
            "model.shape=[1,4,4]",
            "model.centered=false",
        )
        assert recorded(run)["levels"] == 65536
        assert (
            main(
                [
                    "sample",
                    "--checkpoint",
                    str(run),
                    "--n",
                    "2",
                    "--keep-floats",
                    "--device",
                    "cpu",
                    "--out",
                    str(tmp_path / "out"),
                ]
            )
            == 0
        )
        arrays = samples(tmp_path / "out")
        assert arrays["samples"].dtype == np.uint16
        expected = np.clip(np.rint(arrays["floats"].astype(float) * 65535), 0, 65535).transpose(0, 2, 3, 1)
        assert np.abs(arrays["samples"] - expected).max() <= 1


class TestScale:
    """Data far from unit scale: a warning, or rescaling and back."""

    @pytest.fixture
    def table(self, tmp_path):
        """Two columns of different size; 90 rows are for training."""
        rows = np.random.default_rng(0).normal([1000.0, -3.0], [200.0, 0.01], (100, 2))
        np.savez(tmp_path / "table.npz", images=rows)
        return rows, f"data.dataset=npz[path={tmp_path}/table.npz]"

    @staticmethod
    def kept(rows):
        """The training split."""
        return rows[np.arange(len(rows)) % 10 != 9]

    def test_standardised_columns_are_recorded_and_undone(self, table, tmp_path):
        rows, data = table
        run = train(tmp_path / "run", data, "data.standardise=true")
        for model in (
            recorded(run),
            yaml.safe_load(next(run.glob("models/*/model.yaml")).read_text())["config"]["model"],
        ):
            assert model["levels"] is None
            np.testing.assert_allclose(model["shift"], self.kept(rows).mean(0), rtol=1e-6)
            np.testing.assert_allclose(model["scale"], self.kept(rows).std(0), rtol=1e-4)
        command = ["sample", "--checkpoint", str(run), "--n", "500", "--device", "cpu", "--out", str(tmp_path / "out")]
        assert main(command) == 0
        found, model = samples(tmp_path / "out")["floats"], checkpoint.read(run).load(REGISTRY)
        x = sample(model.score(), model.plan.sampler, 500).x.double().numpy()
        np.testing.assert_allclose(found, x * model.units.scale + model.units.shift, rtol=1e-12)

    def test_a_run_goes_on_with_the_scale_that_it_began_with(self, table, tmp_path):
        """A resumed run keeps its units even if its data change; a new one finds its own, from a copied config too."""
        rows, data = table
        run = train(tmp_path / "run", data, "data.standardise=true")
        before = recorded(run)
        np.savez(tmp_path / "table.npz", images=rows * 3)
        train(run, data, "data.standardise=true", "training.iterations=8")
        assert recorded(run) == before
        assert len(list(run.glob("models/*"))) == 2
        other = train(tmp_path / "other", preset=str(run / "config.yaml"))
        np.testing.assert_allclose(recorded(other)["scale"], 3 * np.array(before["scale"]), rtol=1e-6)
        assert main(["evaluate", str(run), "--loss", "--device", "cpu", "--out", str(tmp_path / "out")]) == 0

    def test_a_scale_that_is_given(self, table, tmp_path):
        _, data = table
        run = train(tmp_path / "run", data, "data.shift=[1000,-3]", "data.scale=[200,0.01]")
        assert (recorded(run)["shift"], recorded(run)["scale"]) == ([1000.0, -3.0], [200.0, 0.01])

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            (["data.standardise=true", "data.scale=2"], "standardise computes shift and scale"),
            (["data.scale=[1,2,3]"], "scale has 3 numbers, events of shape [2] need 1 or 2"),
            (["data.scale=0"], "scale must be above 0, got 0"),
            (["model.scale=[3.0]"], "model.scale is recorded by training, and has no effect on it: set data.scale"),
            (
                ["model.levels=256"],
                "model.levels is recorded by training, and has no effect on it: the data set states it",
            ),
        ],
    )
    def test_what_cannot_be_scaled(self, table, tmp_path, changes, words, capsys):
        command = ["train", "moons_vp", *QUICK, table[1], *changes, "--device", "cpu", "--out", str(tmp_path / "run")]
        assert main(command) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    def test_a_constant_column_is_named(self, tmp_path):
        np.savez(tmp_path / "flat.npz", images=np.stack([np.arange(20.0), np.ones(20)], 1))
        changes = [*QUICK, f"data.dataset=npz[path={tmp_path}/flat.npz]", "data.standardise=true"]
        with pytest.raises(UsageError, match="number 1, counted from 0, is constant"):
            plan_training(REGISTRY.create("presets", "moons_vp").override(changes), REGISTRY)

    @pytest.mark.parametrize("standardise", [False, True])
    def test_the_warning_names_the_scale_and_the_remedy(self, table, standardise):
        _, data = table
        changes = [*QUICK, data, f"data.standardise={str(standardise).lower()}"]
        plan = plan_training(REGISTRY.create("presets", "moons_vp").override(changes), REGISTRY)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            Trainer(plan, Processes(torch.device("cpu")))
        found = [str(warning.message) for warning in caught if "data's" in str(warning.message)]
        assert len(found) == (not standardise)
        if found:
            assert "root mean square is 1023 (channel or column 0)" in found[0] or "root mean square is 10" in found[0]
            assert "small compared with 152.2: set data.standardise=true, or data.shift and data.scale" in found[0]

    @pytest.mark.parametrize(
        ("mean", "std", "sde", "words"),
        [
            (0.0, 1.0, "vp", None),
            (0.0, 200.0, "vp", "root mean square is 2"),
            (200.0, 1.0, "vp", "root mean square is 2"),
            (0.0, 200.0, "ve[sigma_max=500]", None),
            (300.0, 1.0, "ve[prior_mean=[300.0],sigma_max=10.0]", None),
            (0.0, 0.001, "vp", "standard deviation is 0.0"),
        ],
    )
    def test_what_an_sde_reaches(self, mean, std, sde, words):
        events = mean + std * torch.randn(500, 1, generator=torch.Generator().manual_seed(0))
        found = mismatch(events, (1,), Units(), create("sdes", sde))
        assert (found is None) if words is None else words in found

    def test_images_are_not_looked_at_where_their_range_answers(self):
        class Untouched(list):
            def __getitem__(self, index):
                raise AssertionError

        events = Untouched([0] * 10)
        assert mismatch(events, (3, 2, 2), Units(levels=256), create("sdes", "vp")) is None
        with pytest.raises(AssertionError):
            mismatch(events, (3, 2, 2), Units(levels=256), create("sdes", "ve[sigma_max=0.5]"))

    def test_moments_of_channels_in_one_pass(self, monkeypatch):
        """Of channels far from 0, in parts, against two passes in float64."""
        monkeypatch.setattr("scoresde_run.data.scale._CHUNK", 7)
        x = 1e6 + torch.randn(50, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        mean, variance = moments([*x], Units(), range(50))
        by_channel = x.movedim(1, 0).flatten(1)
        assert torch.allclose(mean, by_channel.mean(1), rtol=1e-14)
        assert torch.allclose(variance, by_channel.var(1, correction=0), rtol=1e-9)

    def test_standardised_images_come_out_as_images(self, tmp_path):
        dark = np.random.default_rng(0).integers(0, 40, (60, 6, 6, 3), dtype=np.uint8)
        np.savez(tmp_path / "dark.npz", images=dark)
        changes = [f"data.dataset=npz[path={tmp_path}/dark.npz]", "data.standardise=true", "model.shape=[3,6,6]"]
        run = train(tmp_path / "run", *changes)
        plan = plan_training(Config.read(run, "config.yaml"), REGISTRY)
        x = next(Batches(plan.dataset, 54, preprocessing=plan.preprocessing).once()).x
        assert x.mean((0, 2, 3)).abs().max() < 1e-5
        assert (x.std((0, 2, 3)) - 1).abs().max() < 1e-2
        assert torch.equal(plan.preprocessing.to_images(x), plan.dataset.load())
        command = ["sample", "--checkpoint", str(run), "--device", "cpu", "--n", "4"]
        assert main([*command, "--out", str(tmp_path / "out")]) == 0
        assert samples(tmp_path / "out")["samples"].dtype == np.uint8
        given = ["--condition", "inpaint[mask=left]", "--observe", f"{tmp_path}/dark.npz"]
        assert main([*command, *given, "--out", str(tmp_path / "given")]) == 0
        np.testing.assert_array_equal(samples(tmp_path / "given")["samples"][:, :, :3], dark[:4, :, :3])

    def test_sums_of_channels_are_refused_where_each_has_a_scale(self, tmp_path, capsys):
        config = "format: 1\nmodel: {network: 'mlp[width=4]', sde: vp, shape: [3, 4, 4], scale: [1.0, 2.0, 3.0]}\n"
        (tmp_path / "scaled.yaml").write_text(config)
        np.savez(tmp_path / "a.npz", images=np.zeros((1, 4, 4, 3), np.uint8))
        for condition in ("colorize", "smcdiff[condition=colorize]"):
            command = ["sample", "--preset", str(tmp_path / "scaled.yaml"), "--condition", condition]
            assert main([*command, "--observe", f"{tmp_path}/a.npz", "--out", str(tmp_path / "out")]) == 2
            assert "the model scales each channel separately" in capsys.readouterr().err

    @pytest.mark.parametrize("precise", [True, False], ids=["float64", "float32"])
    def test_digits_that_float32_has_not(self, tmp_path, precise):
        """Seconds since 1970 within a minute are one number to float32."""
        offset = 1.7e9 if precise else 0.0
        rows = offset + np.random.default_rng(0).normal(0, 10, (30, 1))
        np.savez(tmp_path / "times.npz", images=rows)
        data = create("datasets", f"npz[path={tmp_path}/times.npz,test={tmp_path}/times.npz]")
        assert data.load().dtype == (torch.float64 if precise else torch.float32)
        units = Units(shift=(offset,), scale=(10.0,))
        x = Preprocessing(shift=units.shift, scale=units.scale)(data.load())
        np.testing.assert_allclose(x.double().numpy(), (rows - offset) / 10, atol=1e-6)
        np.testing.assert_allclose(units.decode(x).numpy(), rows, atol=1e-4)

    def test_guides_see_the_numbers_of_the_data(self):
        """The posterior of a target's components, of states of a model that has scaled its data."""
        target = create("targets", "mixture2d[components=4,radius=2]")
        units, level = Units(shift=(5.0,), scale=(3.0,)), create("sdes", "vp").level(torch.tensor(0.3))
        condition = ClassCondition(target=target, units=units)
        data, noise = target.sample(8), torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
        x = level.alpha * units.encode(data) + level.sigma * noise
        found = condition.observe(x).classifier.log_probabilities(x, level)
        same = attrs.evolve(level, sigma=3.0 * level.sigma)
        expected = target.log_responsibilities(level.alpha * data + same.sigma * noise, same)
        assert torch.allclose(found, expected, atol=1e-4)
        apart = attrs.evolve(units, scale=(3.0, 1.0))
        assert "scales channels or columns separately" in ClassCondition(target=target, units=apart).skip((2,))


class TestOlderFiles:
    """Configurations without these keys keep their meaning."""

    @staticmethod
    def units(*changes, preset="moons_vp"):
        return plan_model(REGISTRY.create("presets", preset).override(changes), REGISTRY).units

    @pytest.mark.parametrize(
        ("changes", "levels"),
        [
            (["model.shape=[1,28,28]", "data.dataset=mnist"], 256),
            (["model.shape=[1,28,28]", "data.dataset=null"], 256),
            (["model.shape=[1,28,28]", "data.dataset=elsewhere"], 256),
            (["model.shape=[2,28,28]", "data.dataset=elsewhere"], None),
            (["model.shape=[1,28,28]", "data.dataset=npz[path=gone.npz]"], 256),
            (["model.shape=[1,28,28]", "data.dataset=exact[target=mnist_mfa]"], None),
            (["model.shape=[2]", "data.dataset=exact[target=mixture2d]"], None),
            (["model.shape=[2]", "data.dataset=npz[path=gone.npz]"], None),
            (["model.shape=[2]", "data.dataset=null"], None),
        ],
    )
    @pytest.mark.parametrize("centered", [True, False])
    def test_the_data_set_says_what_is_not_recorded(self, changes, levels, centered):
        found = self.units(*changes, f"model.centered={str(centered).lower()}")
        assert found == Units(centered, levels=levels)

    def test_shipped_checkpoints(self):
        for name in ("mnist_vp", "mnist_classifier"):
            plan = plan_model(checkpoint.find(name, REGISTRY).config, REGISTRY, outputs=None)
            assert (plan.config.model.levels, plan.units) == ("auto", Units(True, levels=256))

    def test_a_run_without_the_record_goes_on(self, tmp_path):
        """Runs of earlier versions have configurations and states without these keys."""
        data = "data.dataset=exact[target=mixture2d,count=64]"
        run = train(tmp_path / "run", data)
        text = (run / "config.yaml").read_text()
        lines = [line for line in text.splitlines() if line.split(":")[0].strip() not in
                 ("levels", "shift", "scale", "standardise")]  # fmt: skip
        assert len(lines) == len(text.splitlines()) - 6
        (run / "config.yaml").write_text("\n".join(lines))
        train(run, data, "training.iterations=8")
        assert recorded(run)["levels"] is None

    def test_a_data_set_of_a_plugin_says_it_by_its_events(self, tmp_path, monkeypatch):
        (tmp_path / "plain_sets.py").write_text(
            "import attrs, torch\n"
            "from scoresde import Dataset\n"
            "@attrs.frozen\n"
            "class Maps(Dataset):\n"
            "    shape = (1, 4, 4)\n"
            "    def load(self, split='train'):\n"
            "        return torch.randn(20, 1, 4, 4)\n"
            "@attrs.frozen\n"
            "class Deep(Maps):\n"
            "    def load(self, split='train'):\n"
            "        return torch.randint(0, 4096, (20, 1, 4, 4), dtype=torch.int32)\n"
        )
        (tmp_path / "mine.yaml").write_text(
            "api: 1\ndatasets:\n"
            "  maps: {target: 'plain_sets:Maps', summary: maps}\n"
            "  deep: {target: 'plain_sets:Deep', summary: images of 12 bits}\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        registry = load_registry(local=[tmp_path / "mine.yaml"])
        for name, levels in (("maps", None), ("deep", 65536)):
            changes = [*QUICK, f"data.dataset={name}", "model.shape=[1,4,4]"]
            plan = plan_training(registry.create("presets", "moons_vp").override(changes), registry)
            assert plan.config.model.levels == plan.preprocessing.levels == levels
            # Where nothing is recorded an event is read.
            assert plan_model(registry.create("presets", "moons_vp").override(changes), registry).units.levels == levels


@attrs.frozen
class Known(Dataset):
    """Images with a depth map, and whatever else is known of them."""

    more: dict = attrs.field(factory=dict)
    declared: dict = attrs.field(factory=lambda: {"labels": False})
    shape = (1, 3, 5)
    levels = 256

    @property
    def mirrors(self):
        return self.declared

    def load(self, split="train"):
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (32, 1, 3, 5), generator=generator, dtype=torch.uint8)

    def known(self, split="train"):
        depth = self.load().float()
        spatial = {"depth": depth, "mask": depth[:, 0] > 100, "two": torch.cat([depth, -depth], 1)}
        return {"labels": torch.arange(32), **spatial, **self.more}


class TestMirrors:
    FLIP = Preprocessing(flip=True, levels=256)

    def batch(self, data, *needs, **options):
        return next(Batches(data, 32, preprocessing=self.FLIP, needs=needs, **options).stream())

    @pytest.mark.parametrize("resident", [True, False])
    def test_what_is_known_of_an_image_is_mirrored_with_it(self, resident):
        data = Known()
        found = self.batch(data, "labels", "depth", "mask", "two", resident=resident, workers=0)
        grey = self.FLIP.to_images(found.x).float()
        stored = data.load()[found.known["labels"]].float()
        assert 5 < int((grey != stored).flatten(1).any(1).sum()) < 27
        assert torch.equal(found.known["depth"], grey)
        assert torch.equal(found.known["mask"], grey[:, 0] > 100)
        assert torch.equal(found.known["two"], torch.cat([grey, -grey], 1))

    def test_a_data_set_says_what_stays(self):
        found = self.batch(Known(declared={"labels": False, "depth": False}), "labels", "depth")
        assert torch.equal(found.known["depth"], Known().load()[found.known["labels"]].float())

    def test_what_nobody_says_is_refused(self):
        data = Known(more={"pose": torch.zeros(32, 4)})
        with pytest.raises(
            UsageError,
            match=r"does not say whether pose \(4,\) is mirrored .*: set data.random_flip=false",
        ):
            self.batch(data, "pose")
        assert "pose" in next(Batches(data, 4, needs=("pose",)).stream()).known
        assert "pose" in self.batch(attrs.evolve(data, declared={"pose": True}), "pose").known

    def test_the_same_rows_whatever_the_shape(self):
        draws, values = Draws(0, 3, 9), torch.arange(5.0).expand(9, 5)
        flipped = mirrored(values, draws)[:, 0] == 4
        for shape in ((9, 1, 5), (9, 2, 3, 5)):
            assert torch.equal(mirrored(torch.arange(5.0).expand(shape), draws).flatten(1)[:, 0] == 4, flipped)

    def test_resized_images_leave_no_known_pixels_behind(self):
        with pytest.raises(UsageError, match=r"resized changes the images of .* but not their depth \(1, 3, 5\)"):
            create("datasets", "resized[size=4]", data=Known()).known()


def archive(folder: Path, index, numbers=range(4)) -> Path:
    """As the tools of StyleGAN and EDM write it: folders of a thousand (here of two) images, and an index."""
    for number in numbers:
        path = folder / f"{number // 2:05d}" / f"img{number:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    if index is not None:
        (folder / "dataset.json").write_text(index if isinstance(index, str) else json.dumps({"labels": index}))
    return folder


INDEX = [[f"{k // 2:05d}/img{k:08d}.png", 7 - k] for k in range(4)]


class TestArchives:
    @pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
    def test_labels_are_those_of_the_index(self, tmp_path, zipped):
        place = archive(tmp_path / "images", [*reversed(INDEX), ["gone.png", 3]])
        if zipped:
            import shutil

            place = shutil.make_archive(str(tmp_path / "packed"), "zip", place)
        data = create("datasets", f"image_folder[path={place},size=8,test={place}]")
        assert data.known()["labels"].tolist() == [7, 6, 5, 4]
        assert data.known()["labels"].dtype == torch.int64
        assert data.load()[:, 0, 0, 0].tolist() == [0, 1, 2, 3]

    def test_the_splits_share_the_index(self, tmp_path):
        data = create("datasets", f"image_folder[path={archive(tmp_path, INDEX)},size=8,test_share=0.5]")
        assert [data.known(split)["labels"].tolist() for split in ("train", "test")] == [[7, 5], [6, 4]]

    def test_an_archive_without_classes_has_none(self, tmp_path):
        place = archive(tmp_path, '{"labels": null}')
        assert create("datasets", f"image_folder[path={place}]").known() == {}

    def test_chunks_are_no_classes_in_silence(self, tmp_path):
        place = archive(tmp_path, None)
        with pytest.raises(FileError, match="folders 00000 to 00001, which the tools of StyleGAN and EDM number"):
            create("datasets", f"image_folder[path={place}]").known()
        data = create("datasets", f"image_folder[path={place},classes=folders,test={place}]")
        assert data.known()["labels"].tolist() == [0, 0, 1, 1]

    @pytest.mark.parametrize(
        ("index", "words"),
        [
            (INDEX[1:], "has no label for 00000/img00000000.png (1 of 4 lack one)"),
            ([[name, [0.5, 0.5]] for name, _ in INDEX], "classes must be integers from 0"),
            ([[name, -1] for name, _ in INDEX], "has the label -1"),
            ("{", "cannot read the dataset.json"),
            ("[]", "cannot read the dataset.json"),
            ('{"labels": [3]}', "cannot read the dataset.json"),
        ],
    )
    def test_what_is_no_index(self, tmp_path, index, words):
        with pytest.raises(FileError) as caught:
            create("datasets", f"image_folder[path={archive(tmp_path, index)}]").known()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


class TestRectangles:
    @pytest.fixture
    def pictures(self, tmp_path):
        """A ramp from left to right, 20 pixels high and 60 wide."""
        ramp = np.broadcast_to(np.arange(60, dtype=np.uint8) * 4, (20, 60))
        for name in "ab":
            Image.fromarray(ramp).save(tmp_path / f"{name}.png")
        return tmp_path

    def test_a_folder_is_brought_to_height_and_width(self, pictures):
        data = create("datasets", f"image_folder[path={pictures},size=[10,20],grey=true,test={pictures}]")
        assert data.shape == (1, 10, 20)
        found = data.load()[0, 0].float()
        # The largest central part twice as wide as high is 40 of the 60 columns, each two of which become one.
        assert (found[5, 2:-2] - (torch.arange(20) * 8 + 42)[2:-2]).abs().max() <= 1

    @pytest.mark.parametrize("data", ["image_folder[path={0}]", "ffhq[path={0}]", "image_folder[path={0},size=[4,6]]"])
    def test_it_is_brought_to_a_model_that_is_not_square(self, pictures, data):
        spec = parse(data.format(pictures))
        shape = (3, 8, 12)
        assert find_dataset(spec, shape, REGISTRY).shape == shape

    def test_other_proportions_are_not_distorted_unasked(self, pictures):
        data = f"image_folder[path={pictures},size=[4,4]]"
        with pytest.raises(UsageError) as caught:
            find_dataset(parse(data), (3, 8, 12), REGISTRY)
        words = str(caught.value)
        assert "has events of shape (3, 4, 4), the model (3, 8, 12): set model.shape=[3,4,4], or data.dataset=" in words
        hint = words.partition("data.dataset='")[2].partition("'")[0]
        assert find_dataset(parse(hint), (3, 8, 12), REGISTRY).shape == (3, 8, 12)

    @pytest.mark.parametrize("size", ["[8]", "[8,0]", "0", "[8,9,10]", "true", "2.5"])
    def test_what_is_no_size(self, size):
        with pytest.raises(UsageError, match="size"):
            create("datasets", f"image_folder[path=here,size={size}]")
