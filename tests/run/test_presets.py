"""Presets: the published numbers, building and running each preset, and the rules of their files."""

import json
import math
import re
import subprocess
import sys

import pytest
import torch
from scoresde_core.components import Spec
from scoresde_core.errors import FileError, ManifestError, UnknownName, UsageError
from scoresde_core.loss import Draws
from scoresde_core.manifest import parse
from scoresde_core.registry import load_registry
from scoresde_core.sampler import sample
from scoresde_core.score import level_of
from scoresde_run.commands.shell import main
from scoresde_run.models.config import Config, merge
from scoresde_run.models.model import plan_loss, plan_model

REGISTRY = load_registry()
NAMES = [entry.row.name for entry in REGISTRY.entries("presets")]
CLASSIFIERS = ["mnist_classifier", "cifar10_noise_classifier"]

DDPM, DDPMPP, DDPMPP_DEEP, DDPM_256 = 35.22, 61.80, 106.63, 111.57
NCSNPP, NCSNPP_DEEP, NCSNPP_FOURIER, NCSNPP_DEEP_FOURIER, NCSNPP_256, NCSNPP_1024 = (
    62.69, 107.52, 62.76, 107.59, 65.57, 105.79
)  # fmt: skip

# Millions of parameters of the published networks, the frozen Fourier frequencies counted.
PARAMETERS = {
    **{f"{sde}_cifar10_ddpmpp_continuous": DDPMPP for sde in ("vp", "subvp")},
    **{f"{sde}_cifar10_ddpmpp_deep_continuous": DDPMPP_DEEP for sde in ("vp", "subvp")},
    **{f"{sde}_cifar10_ncsnpp_continuous": NCSNPP for sde in ("vp", "subvp")},
    **{f"{sde}_cifar10_ncsnpp_deep_continuous": NCSNPP_DEEP for sde in ("vp", "subvp")},
    **dict.fromkeys(("subvp_cifar10_ddpm_continuous", "vp_ddpm_cifar10", "vp_ddpm_cifar10_continuous"), DDPM),
    **dict.fromkeys(("vp_ddpm_bedroom", "vp_ddpm_celebahq", "vp_ddpm_church"), DDPM_256),
    **{f"ve_{data}_ncsnpp_continuous": NCSNPP_256 for data in ("bedroom", "celebahq_256", "church", "ffhq_256")},
    **{f"ve_{data}_ncsnpp_continuous": NCSNPP_1024 for data in ("celebahq", "ffhq")},
    **{f"scoreflow_{s}_{d}_ddpmpp_continuous": DDPMPP for s in ("vp", "subvp") for d in ("cifar10", "imagenet32")},
    **{
        f"scoreflow_{s}_{d}_ddpmpp_deep_continuous": DDPMPP_DEEP
        for s in ("vp", "subvp")
        for d in ("cifar10", "imagenet32")
    },
    "vp_cifar10_ddpmpp": DDPMPP,
    "vp_cifar10_ncsnpp": NCSNPP,
    "ve_cifar10_ddpm": DDPM,
    "ve_cifar10_ncsnpp": NCSNPP,
    "ve_celeba_ncsnpp": NCSNPP,
    "ve_cifar10_ncsnpp_continuous": NCSNPP_FOURIER,
    "ve_cifar10_ncsnpp_deep_continuous": NCSNPP_DEEP_FOURIER,
    "ve_ncsnv2_bedroom": 83.45,
    "ve_ncsnv2_celeba": 29.69,
    "ve_ncsnv2_cifar10": 29.69,
}

# Narrow and shallow, at the fewest pixels that every level still halves.
NARROW = {
    "ncsnpp": ["nf=4", "num_res_blocks=1"],
    "ddpm": ["nf=32", "num_res_blocks=1"],
    "ncsn": ["nf=4"],
    "ncsnv2": ["nf=4"],
    "mlp": ["width=8"],
    "classifier": ["blocks_per_group=1", "multiplier=1", "embedding=8"],
}
SMALL = {1024: 128, 256: 64, 128: 32, 64: 16, 32: 16, 28: 28}


def preset(name: str, *changes: str) -> Config:
    config = REGISTRY.create("presets", name)
    return config.override(changes)


def reduced(name: str) -> Config:
    config = preset(name)
    changes = [f"model.network.{change}" for change in NARROW[config.model.network.name]]
    if len(config.model.shape) == 3:
        channels, side = config.model.shape[0], SMALL[config.model.shape[1]]
        changes.append(f"model.shape=[{channels},{side},{side}]")
    changes.append("sampling.sampler.steps=1")
    if config.sampling.sampler.name == "ode":
        changes.append("sampling.sampler.method=euler")
    if isinstance(config.sampling.sampler.params.get("corrector"), Spec):
        changes.append("sampling.sampler.corrector.n_steps=1")
    return config.override(changes)


class TestNumbers:
    def test_all_published_presets_are_there(self):
        families = [name.split("_")[0] for name in NAMES]
        assert [families.count(f) for f in ("subvp", "vp", "ve", "scoreflow", "xdiffusion")] == [5, 12, 22, 8, 3]
        assert {"mnist_vp", "mnist_subvp", "mnist_ve", "cifar10_quick"} <= set(NAMES)
        assert {"mnist_classifier", "cifar10_noise_classifier", "lesson_one_scale", "lesson_many_scales"} <= set(NAMES)

    def test_published_samplers_step_evenly_in_time(self):
        """No published configuration names a grid, and all must use that of the published code."""
        for name in set(NAMES) - {"mnist_ouve_denoise"}:  # which nobody has published
            sampler = REGISTRY.create("samplers", preset(name).sampling.sampler)
            assert sampler.grid == REGISTRY.create("grids", "uniform"), name

    @pytest.mark.parametrize("name", PARAMETERS)
    def test_the_network_has_the_published_number_of_parameters(self, name):
        with torch.device("meta"):
            network = plan_model(preset(name), REGISTRY).build().network
        assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == PARAMETERS[name]


class TestRun:
    @pytest.mark.parametrize("name", [name for name in NAMES if name not in CLASSIFIERS])
    def test_forward_loss_and_a_sampling_step(self, name):
        plan = plan_model(reduced(name), REGISTRY)
        model = plan.build(seed=0)
        score = model.score()
        generator = torch.Generator().manual_seed(0)
        x, noise = (torch.randn(2, *plan.shape, generator=generator) for _ in range(2))
        t = torch.tensor([0.3, 0.9])
        perturbed = plan.sde.perturb(x, t, noise)
        loss = (score.noise(perturbed, level_of(plan.sde, t, x)) - noise).square().mean()
        loss.backward()
        slopes = [p.grad for p in model.network.parameters() if p.grad is not None]
        assert loss.isfinite()
        assert slopes
        assert all(slope.isfinite().all() for slope in slopes)
        assert any(slope.abs().max() > 0 for slope in slopes)
        score = score.given(**dict.fromkeys(plan.sde.needs, x[:1]))
        drawn = sample(score, plan.sampler, 1)
        assert drawn.x.shape == (1, *plan.shape)
        assert drawn.x.isfinite().all()
        assert drawn.nfe >= 1

    @pytest.mark.parametrize("name", CLASSIFIERS)
    def test_forward_and_loss_of_a_classifier(self, name):
        """An untrained classifier is about as good as a guess; every weight has a gradient."""
        plan = plan_model(reduced(name), REGISTRY, outputs=("logits",))
        model, loss = plan.build(seed=0), plan_loss(plan, REGISTRY)
        x = torch.rand(8, *plan.shape, generator=torch.Generator().manual_seed(0))
        value = loss.per_sample(model.view(), x, Draws(0, 0, 8), labels=torch.arange(8)).mean()
        value.backward()
        assert abs(value.item() - math.log(10)) < 0.5
        assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in model.network.parameters())
        with pytest.raises(UsageError, match="gives logits, which is no score"):
            plan_model(reduced(name), REGISTRY)

    def test_random_weights_depend_on_the_seed_alone(self):
        plan = plan_model(reduced("mnist_vp"), REGISTRY)
        torch.manual_seed(7)
        before = torch.get_rng_state()
        first, second, other = (plan.build(seed).network.state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert not all(torch.equal(first[name], other[name]) for name in first)
        assert torch.equal(torch.get_rng_state(), before)


class TestModel:
    def test_the_network_is_told_the_range_of_the_data_and_of_the_noise(self):
        network = plan_model(preset("ve_celeba_ncsnpp"), REGISTRY).network
        assert (network.centered, network.sigma_max) == (False, 90.0)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ("model.network.centered=true", "centered=True but the rest of the model has centered=False"),
            ("model.network.sigma_max=50", "sigma_max=50.0 but the rest of the model has sigma_max=90.0"),
            ("model.network=classifier", "gives logits, which is no score"),
            ("model.network=ncsmpp", "Did you mean 'ncsnpp'"),
            ("sampling.sampler.predictor=ddin", "Did you mean 'ddim'"),
        ],
    )
    def test_what_contradicts_itself_is_refused(self, change, words):
        with pytest.raises(UsageError, match=re.escape(words)):
            plan_model(preset("ve_celeba_ncsnpp", change), REGISTRY)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ("model.shape=[1,28,28]", "28x28 do not fit 4 levels"),
            ("model.network.attn_resolutions=[16,7]", "no level has 7; the levels of 32x32 events have 32, 16, 8, 4"),
            ("model.network.nf=36", "144 channels cannot be split into 32 groups"),
        ],
    )
    def test_what_the_network_cannot_be_built_for(self, change, words):
        plan = plan_model(preset("vp_cifar10_ddpmpp", change), REGISTRY)
        with pytest.raises(UsageError, match=words) as caught:
            plan.build()
        assert "\n" not in str(caught.value)


MINIMAL = "format: 1\nmodel: {network: mlp, sde: vp, shape: [2]}\n"


class TestFiles:
    @pytest.fixture
    def read(self, tmp_path):
        def read(text, **others):
            for name, content in {"it": text, **others}.items():
                (tmp_path / f"{name}.yaml").write_text(content)
            return Config.read(tmp_path, "it.yaml")

        return read

    @pytest.mark.parametrize("name", NAMES)
    def test_written_and_read_back_it_is_the_same(self, name, read):
        assert read(preset(name).to_yaml()) == preset(name)

    def test_the_file_gives_the_differences(self, read):
        base = MINIMAL + "training: {batch_size: 7, learning_rate: 2e-4}\nquirks: [one]\n"
        config = read("format: 1\ninherits: base.yaml\ntraining: {batch_size: 8}\nquirks: [two]\n", base=base)
        assert (config.training.batch_size, config.training.learning_rate) == (8, 2e-4)
        assert config.quirks == ("one", "two")
        assert read("format: 1\ninherits: base.yaml\n", base=base).quirks == ("one",)

    @pytest.mark.parametrize("odd", ["3", "one", "null"])
    def test_quirks_that_are_no_list_are_named_in_either_file(self, read, odd):
        quirks = f"quirks: {odd}\n"
        for text, base in (("quirks: [two]\n", MINIMAL + quirks), (quirks, MINIMAL + "quirks: [one]\n")):
            with pytest.raises(FileError, match=r"quirks must be tuple\[str, ...\], got"):
                read(f"format: 1\ninherits: base.yaml\n{text}", base=base)

    def test_components_merge_under_one_name_and_are_replaced_under_another(self):
        base = {"sde": {"name": "ve", "sigma_min": 0.01, "sigma_max": 50.0}}
        assert merge(base, {"sde": {"sigma_max": 90.0}})["sde"] == {"name": "ve", "sigma_min": 0.01, "sigma_max": 90.0}
        assert merge(base, {"sde": {"name": "vp"}})["sde"] == {"name": "vp"}
        assert merge(base, {"sde": "vp"})["sde"] == "vp"

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("format: 2\n", "has format 2, this version reads 1: upgrade"),
            ("model: {}\n", "'format' must be 1, got None"),
            ("format: 1\n", "the configuration needs model"),
            ("format: 1\nmodel: {network: mlp, sde: vp}\n", "model needs shape"),
            (MINIMAL + "trainning: {}\n", "Did you mean 'training'"),
            (MINIMAL + "training: {batchsize: 3}\n", "Did you mean 'batch_size'"),
            (MINIMAL + "training: {batch_size: 0}\n", "batch_size"),
            (MINIMAL + "training: {ema: 1.5}\n", "ema"),
            (MINIMAL + "training: {loss: 3}\n", "training: loss must be Spec, got 3"),
            (MINIMAL + "training: 3\n", "training must be"),
            (MINIMAL + "3: 4\n", "the configuration has no parameter 3"),
            (MINIMAL + "sampling: {sampler: {steps: 3}}\n", "or a mapping with 'name'"),
            (MINIMAL + "sampling: {}\nsampling: {}\n", "given twice"),
            ("format: 1\ninherits: gone.yaml\n", "cannot read the preset gone.yaml"),
            ("format: 1\ninherits: ../it.yaml\n", "a file in the same folder"),
            ("[1, 2]\n", "must be a mapping"),
            ("a: [\n", "not valid YAML"),
        ],
    )
    def test_a_wrong_file_is_one_clear_line(self, read, text, words):
        with pytest.raises(FileError, match=re.escape(words)) as caught:
            read(text)
        assert "\n" not in str(caught.value)

    def test_one_level_of_inheritance_is_all(self, read):
        with pytest.raises(FileError, match="one level"):
            read("format: 1\ninherits: a.yaml\n", a="format: 1\ninherits: b.yaml\n", b=MINIMAL)


class TestOverrides:
    @pytest.mark.parametrize(
        ("change", "found"),
        [
            ("training.batch_size=64", lambda c: c.training.batch_size == 64),
            ("training.learning_rate=1e-3", lambda c: c.training.learning_rate == 1e-3),
            ("training.ema=null", lambda c: c.training.ema is None),
            ("model.shape=[1,8,8]", lambda c: c.model.shape == (1, 8, 8)),
            ("model.network.nf=32", lambda c: c.model.network.params["nf"] == 32 and c.model.network.name == "ncsnpp"),
            ("sampling.sampler=ode[rtol=1e-3]", lambda c: c.sampling.sampler == Spec("ode", {"rtol": 1e-3})),
            (
                "sampling.sampler.predictor=ddim[eta=1.0]",
                lambda c: c.sampling.sampler.params["predictor"] == "ddim[eta=1.0]",
            ),
            (
                "sampling.sampler.predictor.eta=0.5",
                lambda c: c.sampling.sampler.params["predictor"].params == {"eta": 0.5},
            ),
        ],
    )
    def test_a_key_is_set(self, change, found):
        assert found(preset("mnist_vp", change))
        assert preset("mnist_vp", change) == preset("mnist_vp", change, change)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ("training.batch=64", "Did you mean 'batch_size'"),
            ("trainig.batch_size=64", "Did you mean 'training'"),
            ("training.batch_size", "write section.key=value"),
            ("training.batch_size=many", "batch_size must be int, got 'many'"),
            ("training.batch_size.x=1", "is 64 and has no keys"),
            ("model=3", "model must be ModelConfig, got 3"),
        ],
    )
    def test_a_wrong_key_is_one_clear_line(self, change, words):
        with pytest.raises(UsageError, match=re.escape(words)):
            preset("mnist_vp", change)


class TestRegistry:
    @pytest.mark.parametrize("package", [True, False], ids=["package", "plain folder"])
    def test_a_third_party_registers_one_by_a_row(self, tmp_path, monkeypatch, package):
        (tmp_path / "their_presets" / "sub").mkdir(parents=True)
        if package:
            (tmp_path / "their_presets" / "__init__.py").write_text("")
        (tmp_path / "their_presets" / "sub" / "points.yaml").write_text(MINIMAL)
        rows = (
            "api: 1\npresets:\n  points: {target: 'their_presets:sub/points.yaml', summary: points, aliases: [dots]}\n"
            "  near: {target: 'their_presets.sub:points.yaml'}\n"
        )
        (tmp_path / "theirs.yaml").write_text(rows + "  gone: {target: 'their_presets:gone.yaml'}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        registry = load_registry(local=[tmp_path / "theirs.yaml"])
        assert registry.create("preset", "near") == registry.create("preset", "points")
        plan = plan_model(registry.create("preset", "dots"), registry)
        assert plan.build().network(torch.zeros(3, 2), torch.zeros(3)).shape == (3, 2)
        with pytest.raises(FileError, match=r"gone\.yaml"):
            registry.create("presets", "gone")
        with pytest.raises(UnknownName, match="Did you mean 'points'"):
            registry.create("presets", "point")
        with pytest.raises(UsageError, match="takes no parameters in brackets"):
            registry.create("presets", "points[nf=3]")

    @pytest.mark.parametrize("target", ["a.b:C", "a.b", "a:../b.yaml", "a:/b.yaml", "a:b.txt"])
    def test_a_target_that_is_no_file_of_a_package_is_refused(self, target):
        with pytest.raises(ManifestError, match=r"folder/file\.yaml"):
            parse(f"api: 1\npresets: {{x: {{target: '{target}'}}}}", "here")

    def test_a_class_is_not_a_file(self):
        with pytest.raises(ManifestError, match=r"package\.module:Class"):
            parse("api: 1\nsdes: {x: {target: 'a:b.yaml'}}", "here")


class TestCommands:
    def test_the_list_is_that_of_the_kind(self, capsys):
        assert main(["presets", "--json"]) == 0
        assert [row["name"] for row in json.loads(capsys.readouterr().out)] == NAMES
        assert main(["presets"]) == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == NAMES

    def test_what_is_shown_is_a_preset(self, capsys, tmp_path):
        assert main(["show", "presets", "ve_ncsnv2_bedroom"]) == 0
        out = capsys.readouterr().out
        (tmp_path / "copy.yaml").write_text(out)
        assert Config.read(tmp_path, "copy.yaml") == preset("ve_ncsnv2_bedroom")
        assert "misspells training.continuous" in out

    def test_shown_as_json(self, capsys):
        assert main(["show", "preset", "mnist_ve", "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert Config.from_plain(record["config"], "json") == preset("mnist_ve")

    def test_neither_imports_torch(self):
        code = (
            "import sys; from scoresde_run.commands.shell import main; "
            "main(['presets']); main(['show', 'preset', 'mnist_vp']); "
            "sys.exit(int('torch' in sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
