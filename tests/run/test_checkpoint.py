"""Checkpoints: our folder format, and the import of published files."""

import contextlib
import hashlib
import json
import os
import stat
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from scoresde_core.errors import FileError
from scoresde_core.registry import load_registry
from scoresde_core.sampler import sample
from scoresde_plugins.song2021.published_checkpoint import read_published
from scoresde_run.commands.shell import main
from scoresde_run.machine import files
from scoresde_run.models import checkpoint
from scoresde_run.models.config import Config
from scoresde_run.models.model import plan_model

REGISTRY = load_registry()
PRESET = "ve_cifar10_ncsnpp_continuous"
SMALL = ["model.network.nf=8", "model.network.num_res_blocks=1", "model.network.ch_mult=[1,2]", "model.shape=[3,16,16]",
         "model.network.attn_resolutions=[8]", "sampling.sampler.steps=3"]  # fmt: skip


def small(*changes):
    return plan_model(REGISTRY.create("presets", PRESET).override([*SMALL, *changes]), REGISTRY)


def averages_of(network):
    """Something that is not the weights, for the parameters that are trained."""
    return {name: p.detach() * 0.5 + 0.01 for name, p in network.named_parameters() if p.requires_grad}


def samples_of(model):
    return sample(model.score(), model.plan.sampler, 2, seed=4).x


@pytest.fixture
def model():
    built = small().build(seed=1)
    with torch.no_grad():  # the zero-initialised layers would hide errors
        for parameter in built.network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)) * 0.05)
    return built


@pytest.fixture
def folder(model, tmp_path):
    network = model.network
    checkpoint.save(tmp_path / "ck", model.config, network.state_dict(), averages_of(network), step=12,
                    provenance={"run": "a"})  # fmt: skip
    return tmp_path / "ck"


class TestFormat:
    def test_a_round_trip_is_exact(self, model, folder):
        found = checkpoint.read(folder)
        assert (found.step, found.provenance, found.config) == (12, {"run": "a"}, model.config)
        raw, averaged = found.load(REGISTRY, ema=False), found.load(REGISTRY)
        expected = model.network.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in raw.network.state_dict().items())
        expected = {**expected, **averages_of(model.network)}
        assert all(torch.equal(value, expected[name]) for name, value in averaged.network.state_dict().items())
        assert torch.equal(samples_of(raw), samples_of(model))
        assert not torch.equal(samples_of(raw), samples_of(averaged))
        assert not raw.network.training

    def test_the_digest_names_the_weights_that_are_loaded(self, model, folder, tmp_path):
        network = model.network
        same = checkpoint.save(tmp_path / "same", model.config, network.state_dict(), step=99)
        found = checkpoint.read(folder)
        assert found.digest(ema=False) == same.digest()
        assert found.digest() != found.digest(ema=False)
        changed = {name: value + 1 for name, value in network.state_dict().items()}
        assert checkpoint.save(tmp_path / "other", model.config, changed).digest() != same.digest()

    def test_without_averages_the_weights_serve_unless_averages_are_asked_for(self, model, tmp_path):
        found = checkpoint.save(tmp_path / "ck", model.config, model.network.state_dict())
        assert torch.equal(samples_of(found.load(REGISTRY)), samples_of(model))
        with pytest.raises(FileError, match="has no averaged weights"):
            found.load(REGISTRY, ema=True)

    def test_the_files_are_what_the_index_says_and_anyone_may_read_them(self, folder):
        index = yaml.safe_load((folder / "model.yaml").read_text())
        assert (index["format"], index["version"]) == ("scoresde-checkpoint", 1)
        for name, digest in index["sha256"].items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        assert sorted(path.name for path in folder.iterdir()) == [
            "ema.safetensors",
            "model.yaml",
            "weights.safetensors",
        ]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~files._umask()
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o666 & ~files._umask()}

    def test_nothing_is_overwritten(self, model, folder):
        before = (folder / "model.yaml").read_text()
        with pytest.raises(FileError, match="exists: choose another"):
            checkpoint.save(folder, model.config, model.network.state_dict())
        assert (folder / "model.yaml").read_text() == before

    @pytest.mark.parametrize(
        "fault", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "stop"]
    )
    def test_a_write_that_fails_leaves_nothing_behind(self, model, tmp_path, monkeypatch, fault):
        def fails(*arguments, **more):
            raise fault

        monkeypatch.setattr(checkpoint.document, "dump", fails)
        with pytest.raises((FileError, KeyboardInterrupt)):
            checkpoint.save(tmp_path / "ck", model.config, model.network.state_dict())
        assert not list(tmp_path.iterdir())

    def test_a_place_that_is_not_there(self, model, tmp_path):
        with pytest.raises(FileError, match="make it first"):
            checkpoint.save(tmp_path / "no" / "ck", model.config, model.network.state_dict())

    def test_an_index_of_a_link_target_is_read(self, folder, tmp_path):
        os.symlink(folder, tmp_path / "latest")
        assert checkpoint.read(tmp_path / "latest").step == 12


class TestFind:
    """Checkpoints by folder, or by the name of a plugin's checkpoint."""

    @pytest.fixture
    def registry(self, folder, monkeypatch):
        """A registry with the checkpoint ``small``, shipped as data of a package."""
        package = folder.parent / "zoo"
        package.mkdir()
        (package / "__init__.py").touch()
        folder.rename(package / "ck")
        (folder.parent / "rows.yaml").write_text(
            "api: 1\ncheckpoints: {small: {target: 'zoo:ck/model.yaml', summary: a model, aliases: [tiny]}}\n"
        )
        monkeypatch.chdir(folder.parent)
        monkeypatch.setattr(sys, "path", list(sys.path))
        yield load_registry(local=["rows.yaml"])
        sys.modules.pop("zoo", None)

    @pytest.mark.parametrize("name", ["small", "tiny"])
    def test_by_name(self, registry, model, name):
        found = checkpoint.find(name, registry)
        assert (found.step, found.name, found.config) == (12, name, model.config)
        assert torch.equal(samples_of(found.load(registry)), samples_of(checkpoint.read(Path("zoo/ck")).load(registry)))

    def test_by_folder_even_where_a_name_is_the_same(self, registry, model):
        checkpoint.save("small", model.config, model.network.state_dict(), step=3)
        assert [checkpoint.find(place, registry).step for place in ("small", Path("small"), "zoo/ck")] == [3, 3, 12]
        assert checkpoint.find("small", registry).name == "small"

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            (
                "smal",
                "there is no such folder, and no checkpoint is called 'smal'. Did you mean 'small'",
            ),
            ("zoo/gone", "zoo/gone is not a checkpoint: there is no such folder"),
            ("zoo", "zoo is not a checkpoint: there is no model.yaml in it"),
        ],
    )
    def test_neither(self, registry, name, words):
        with pytest.raises(FileError, match=words):
            checkpoint.find(name, registry)

    def test_it_is_shown_as_a_preset_that_trains_the_like(self, registry, model, capsys):
        assert main(["show", "checkpoint", "small", "--registry", "rows.yaml"]) == 0
        text = capsys.readouterr().out
        assert "# step:    12" in text
        Path("again.yaml").write_text(text)
        assert Config.read(Path(), "again.yaml") == model.config
        assert main(["show", "checkpoint", "small", "--json", "--registry", "rows.yaml"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert (shown["step"], shown["run"], shown["config"]) == (12, "a", model.config.plain())

    def test_the_conformance_suite_opens_its_weights(self, registry, capsys):
        check = ["check", "checkpoints", "small", "--registry", "rows.yaml"]
        assert main(check) == 0
        flip(Path("zoo/ck"), "weights.safetensors")
        assert main(check) == 1
        assert "weights.safetensors is damaged" in capsys.readouterr().out


def edit(folder: Path, **changes):
    index = yaml.safe_load((folder / "model.yaml").read_text())
    for key, value in changes.items():
        index[key] = value
        if value is None:
            del index[key]
    (folder / "model.yaml").write_text(yaml.safe_dump(index))


def flip(folder: Path, name: str):
    data = bytearray((folder / name).read_bytes())
    data[-3] ^= 1
    (folder / name).write_bytes(data)


DAMAGE = {
    "newer": (lambda f: edit(f, version=2), "has version 2, this scoresde reads up to 1: upgrade"),
    "no format": (lambda f: edit(f, format="pickle"), "lacks 'format: scoresde-checkpoint'"),
    "no hashes": (lambda f: edit(f, sha256=None), "damaged: sha256 is missing"),
    "odd step": (lambda f: edit(f, step="many"), "damaged: step is missing or invalid"),
    "no config": (lambda f: edit(f, config=None), "damaged: config is missing"),
    "odd config": (lambda f: edit(f, config={"model": {}}), "model needs network, sde, shape"),
    "strange file": (lambda f: edit(f, sha256={"weights.safetensors": "0", "../x": "1"}), "damaged: sha256"),
    "cut index": (lambda f: (f / "model.yaml").write_text("format: [scoresde"), "cannot read"),
    "bytes": (lambda f: (f / "model.yaml").write_bytes(b"\xff\xfe\x00"), "cannot read"),
    "empty index": (lambda f: (f / "model.yaml").write_text(""), "lacks 'format"),
    "one bit": (lambda f: flip(f, "weights.safetensors"), "weights.safetensors is damaged"),
    "one bit of ema": (lambda f: flip(f, "ema.safetensors"), "ema.safetensors is damaged"),
    "cut weights": (lambda f: os.truncate(f / "weights.safetensors", 1000), "is damaged"),
    "no weights": (lambda f: (f / "weights.safetensors").unlink(), "cannot read the weights"),
    "no index": (lambda f: (f / "model.yaml").unlink(), "there is no model.yaml in it"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_one_clear_line(folder, damage, words):
    damage(folder)
    with pytest.raises(FileError) as caught:
        checkpoint.read(folder).load(REGISTRY)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileError, match="no such folder"):
        checkpoint.read(tmp_path / "nowhere")


def test_weights_of_another_network_are_named(model, tmp_path):
    state = dict(model.network.state_dict())
    state["surplus"] = state.pop("all_modules.1.weight")
    state["all_modules.1.bias"] = torch.zeros(5)
    found = checkpoint.save(tmp_path / "ck", model.config, state)
    with pytest.raises(FileError) as caught:
        found.load(REGISTRY)
    assert "1 missing, 1 unexpected, 1 wrong shape; the first is missing: all_modules.1.weight" in str(caught.value)


def published(network, layout: str):
    """``network`` as the published codes save theirs: names of DataParallel, averages as a list, sigmas in float64."""
    state = {f"module.{name}": value.clone() for name, value in network.state_dict().items()}
    state["module.sigmas"] = state["module.sigmas"].double()
    averages = averages_of(network)
    ema = {"decay": 0.999, "num_updates": 7, "shadow_params": list(averages.values())}
    adam = torch.optim.Adam(network.parameters()).state_dict()
    return {
        "score_sde": lambda: {"optimizer": adam, "model": state, "ema": ema, "step": 1300},
        "ncsnv2": lambda: [state, adam, 3, 1300, averages],
        "ncsn": lambda: [state, adam],
        "state dict": lambda: {name.removeprefix("module."): value for name, value in state.items()},
    }[layout]()


@pytest.fixture
def importer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(content, *more, preset=PRESET, changes=SMALL):
        if content is not None:
            torch.save(content, "file.pth")
        arguments = ["import-checkpoint", "file.pth", "--preset", preset, "--out", "ck", "--set", *changes, *more]
        code = main(arguments)
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


UNET = ("nf=32", "num_res_blocks=1", "ch_mult=[1,2]", "attn_resolutions=[8]")
GOLDEN = {
    "ncsnpp_ve_cifar10_continuous": (PRESET, UNET, [3, 16, 16]),
    "ncsnpp_ve_celebahq256_continuous": ("ve_celebahq_256_ncsnpp_continuous", UNET, [3, 16, 16]),
    "ddpmpp_vp_cifar10_continuous": ("vp_cifar10_ddpmpp_continuous", UNET, [3, 16, 16]),
    "ddpm_vp_cifar10": ("vp_ddpm_cifar10", UNET, [3, 16, 16]),
    "ncsnv2_ve_cifar10": ("ve_ncsnv2_cifar10", ("nf=16", "scales=20"), [3, 32, 32]),
    "ncsn_ve_mnist": ("ve_ncsn_cifar10", ("nf=16",), [1, 28, 28]),
}


class TestImport:
    @pytest.mark.parametrize(
        ("layout", "step", "averaged"),
        [("score_sde", 1300, True), ("ncsnv2", 1300, True), ("ncsn", 0, False), ("state dict", 0, False)],
        ids=["score_sde", "ncsnv2", "ncsn", "state dict"],
    )
    def test_every_layout_gives_the_same_samples(self, importer, model, layout, step, averaged):
        code, out, err = importer(published(model.network, layout))
        assert (code, err) == (0, "")
        assert f"step {step}" in out
        assert "converted from float64 to float32" in out
        found = checkpoint.read("ck")
        assert (found.step, found.provenance["preset"]) == (step, PRESET)
        assert found.provenance["sha256"] == hashlib.sha256(Path("file.pth").read_bytes()).hexdigest()
        assert torch.equal(samples_of(found.load(REGISTRY, ema=False)), samples_of(model))
        assert found.uses_ema() is averaged
        if averaged:
            model.network.load_state_dict(averages_of(model.network), strict=False)
            assert torch.equal(samples_of(found.load(REGISTRY)), samples_of(model))

    @pytest.mark.parametrize("name", GOLDEN)
    def test_a_published_network_gives_its_published_numbers(self, importer, shared, name):
        golden = torch.load(shared / "golden" / "networks" / f"{name}.pt", weights_only=True)
        preset, narrow, shape = GOLDEN[name]
        changes = [f"model.network.{change}" for change in narrow] + [f"model.shape={shape}"]
        wrapped = {f"module.{key}": value for key, value in golden["state_dict"].items()}
        code, _, err = importer({"model": wrapped, "step": 5}, preset=preset, changes=changes)
        assert (code, err) == (0, "")
        network = checkpoint.read("ck").load(REGISTRY).network
        with torch.no_grad():
            out = network(golden["x"], golden["labels"])
        assert (out - golden["output"]).norm() / golden["output"].norm() < 1e-5

    @pytest.mark.parametrize("prefix", ["net.", "model.", "module.", "model.net.module.", ""])
    def test_a_constant_prefix_is_found_and_told(self, importer, model, prefix):
        state = {prefix + name: value for name, value in model.network.state_dict().items()}
        lightning = {"state_dict": state, "epoch": 3, "global_step": 70, "pytorch-lightning_version": "2.0"}
        code, out, err = importer(lightning)
        assert (code, err) == (0, "")
        assert "state_dict, step 70" in out
        assert (f"prefix {prefix!r} dropped from {len(state)} names\n" in out) == bool(prefix)
        assert torch.equal(samples_of(checkpoint.read("ck").load(REGISTRY)), samples_of(model))

    def test_of_two_prefixes_the_one_that_fits_is_taken(self, importer, model):
        own = model.network.state_dict()
        state = {f"net.{name}": value for name, value in own.items()}
        part = {f"ema.{name}": value * 0 for name, value in list(own.items())[:-1]}
        code, out, _ = importer({**part, **state, "loss.weight": torch.ones(2)})
        assert code == 0
        assert f"prefix 'net.' dropped from {len(own)} names" in out
        assert f"{len(part) + 1} tensors without it left out, the first is ema." in out
        assert torch.equal(samples_of(checkpoint.read("ck").load(REGISTRY)), samples_of(model))

    def test_two_prefixes_that_fit_are_refused_until_one_is_named(self, importer, model, tmp_path):
        own = model.network.state_dict()
        both = {
            f"{prefix}.{name}": value * scale
            for prefix, scale in (("ema", 0.5), ("net", 1))
            for name, value in own.items()
        }
        code, _, err = importer(both)
        assert code == 3
        assert "the file holds the network 2 times, under 'ema.' and 'net.': say which by --prefix" in err
        assert not (tmp_path / "ck").exists()
        assert "no name in the file begins with 'nets.'" in importer(None, "--prefix", "nets.")[2]
        assert importer(None, "--prefix", "net.")[0] == 0
        assert torch.equal(samples_of(checkpoint.read("ck").load(REGISTRY)), samples_of(model))

    def test_what_does_not_fit_under_a_prefix_is_reported_without_it(self, importer, model):
        state = {f"net.{name}": value for name, value in model.network.state_dict().items()}
        state["net.all_modules.1.bias"] = torch.zeros(7)
        del state["net.all_modules.1.weight"]
        code, out, err = importer(state)
        assert code == 3
        assert out.splitlines() == [
            "missing: all_modules.1.weight",
            "wrong shape: all_modules.1.bias, (7,) in the file, (32,) in the network",
        ]
        assert "prefix 'net.' dropped" in err

    def test_averages_go_by_the_order_of_the_file(self, importer, model):
        """A file in another order than our network's, such as one from a class with its layers declared differently."""
        content = published(model.network, "score_sde")
        content["model"] = dict(reversed(content["model"].items()))
        content["ema"]["shadow_params"].reverse()
        assert importer(content)[0] == 0
        model.network.load_state_dict(averages_of(model.network), strict=False)
        assert torch.equal(samples_of(checkpoint.read("ck").load(REGISTRY)), samples_of(model))


def without(content, name):
    del content["model"][f"module.{name}"]


def replaced(content, name, value):
    content["model"][f"module.{name}"] = value


def shorter(content):
    content["ema"]["shadow_params"].pop()


def swapped(content):
    content["ema"]["shadow_params"][0] = torch.zeros(2, 2)


MISFITS = {
    "missing": (lambda c: without(c, "all_modules.1.bias"), "missing: all_modules.1.bias"),
    "unexpected": (lambda c: replaced(c, "extra", torch.zeros(1)), "unexpected: extra"),
    "wrong shape": (
        lambda c: replaced(c, "all_modules.1.bias", torch.zeros(7)),
        "wrong shape: all_modules.1.bias, (7,) in the file, (32,) in the network",
    ),
    "other noise scales": (
        lambda c: replaced(c, "sigmas", torch.logspace(2, -2, 1000)),
        "differs: sigmas, 100 to 0.01 in the file, 50 to 0.01 in the preset",
    ),
    "no real numbers": (
        lambda c: replaced(c, "all_modules.1.bias", torch.zeros(32, dtype=torch.complex64)),
        "wrong type: all_modules.1.bias, torch.complex64",
    ),
    "averages short": (shorter, "averaged weights for"),
    "averages misshapen": (swapped, "averages: wrong shape: "),
}


@pytest.mark.parametrize(("change", "line"), MISFITS.values(), ids=MISFITS)
def test_a_file_of_another_model_is_reported_and_writes_nothing(importer, model, tmp_path, change, line):
    content = published(model.network, "score_sde")
    change(content)
    code, out, err = importer(content)
    assert code == 3
    assert line in out
    assert err.count("\n") == 1
    assert f"does not fit the preset {PRESET}" in err
    assert not (tmp_path / "ck").exists()


class Evil:
    """Runs code if it is unpickled without restrictions."""

    def __reduce__(self):
        return (os.mkdir, ("pwned",))


def as_unread(content, network):
    """``content`` with the layers that the published code makes for an embedding and, without one, never calls."""
    state, shadow, trained = {}, [], iter(content["ema"]["shadow_params"])
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad} | {"sigmas"}
    for name, value in content["model"].items():
        state[name] = value
        shadow += [next(trained)] if name.removeprefix("module.") not in frozen else []
        block = name.removesuffix("Conv_0.bias")
        if name.endswith("Conv_0.bias") and f"{block}GroupNorm_1.weight" in content["model"]:
            extra = {"weight": torch.ones(len(value), 32), "bias": torch.ones(len(value))}
            state |= {f"{block}Dense_0.{part}": tensor for part, tensor in extra.items()}
            shadow += extra.values()
    return {**content, "model": state, "ema": {"shadow_params": shadow}}


class TestVariants:
    """Variants of the released files that people share."""

    def test_layers_that_an_unconditional_network_never_calls_are_left_out(self, importer):
        network = (built := small("model.network.conditional=false").build(seed=1)).network
        content = as_unread(published(network, "score_sde"), network)
        assert len(content["model"]) > len(network.state_dict())
        code, _, err = importer(content, "model.network.conditional=false")
        assert (code, err) == (0, "")
        assert torch.equal(samples_of(checkpoint.read("ck").load(REGISTRY, ema=False)), samples_of(built))
        network.load_state_dict(averages_of(network), strict=False)
        assert torch.equal(samples_of(checkpoint.read("ck").load(REGISTRY)), samples_of(built))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_and_the_table_of_noise_scales_is_ours_again(self, importer, model, dtype):
        content = published(model.network, "score_sde")
        content["model"] = {name: value.to(dtype) for name, value in content["model"].items()}
        assert importer(content)[0] == 0
        state = checkpoint.read("ck").load(REGISTRY, ema=False).network.state_dict()
        for name, value in model.network.state_dict().items():
            assert torch.equal(state[name], value if name == "sigmas" else value.to(dtype).float()), name

    @pytest.mark.parametrize(
        ("step", "found"),
        [(torch.tensor(5), 5), (7.0, 7), (float("nan"), 0), (float("inf"), 0), (torch.zeros(3), 0), ("12", 0)],
    )
    def test_a_step_of_any_kind(self, importer, model, step, found):
        assert importer({**published(model.network, "score_sde"), "step": step})[0] == 0
        assert checkpoint.read("ck").step == found

    def test_averages_that_are_none(self, importer, model):
        assert importer({**published(model.network, "score_sde"), "ema": None})[0] == 0
        assert not checkpoint.read("ck").uses_ema()


class TestBadFiles:
    def test_pickled_code_is_not_run(self, importer, model, tmp_path):
        code, _, err = importer({**published(model.network, "score_sde"), "extra": Evil()})
        assert (code, err.count("\n")) == (3, 1)
        assert "pickled posix.mkdir besides tensors" in err
        assert not (tmp_path / "pwned").exists()

    @pytest.mark.parametrize(
        "content",
        [{"a": 1}, [1, 2], 3, {"model": {"w": 3}}, {}, [], {"model": {"w": torch.ones(1)}, "ema": {"shadow": []}}],
        ids=["mapping", "list", "number", "no tensors", "empty mapping", "empty list", "strange averages"],
    )
    def test_some_other_file(self, importer, content):
        code, _, err = importer(content)
        assert (code, err.count("\n")) == (3, 1)
        assert any(words in err for words in ("none of the known layouts", "no state dict", "no list of tensors"))

    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
    @pytest.mark.parametrize("size", [0, 10, 5000, 60000], ids=["empty", "header", "names", "tensors"])
    def test_a_truncated_file(self, importer, model, size, zipped):
        torch.save(published(model.network, "score_sde"), "file.pth", _use_new_zipfile_serialization=zipped)
        os.truncate("file.pth", size)
        code, _, err = importer(None)
        assert (code, err.count("\n")) == (3, 1)
        assert "file.pth is damaged or not a PyTorch file" in err

    def test_any_byte_of_an_old_file_changed(self, tmp_path):
        """Neither format has a checksum of the names, so a reader must handle any content."""
        torch.save(
            {"model": {"module.w": torch.ones(2)}, "step": 1}, tmp_path / "f", _use_new_zipfile_serialization=False
        )
        whole = (tmp_path / "f").read_bytes()
        for place in range(len(whole)):
            (tmp_path / "g").write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
            with contextlib.suppress(FileError):
                read_published(tmp_path / "g")

    def test_text(self, importer):
        Path("file.pth").write_text("<html>quota exceeded</html>")
        code, _, err = importer(None)
        assert (code, err.count("\n")) == (3, 1)
        assert "damaged or not a PyTorch file" in err

    def test_no_file_no_preset_a_place_that_is_taken(self, importer, model, tmp_path):
        assert "cannot read file.pth: No such file" in importer(None)[2]
        assert "Did you mean" in importer(None, preset="ve_cifar10_ncsnpp_cont")[2]
        (tmp_path / "ck").mkdir()
        assert "ck exists" in importer(published(model.network, "score_sde"))[2]


def test_tensors_that_share_memory_are_written_whole(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"whole": whole, "part": whole[1:], "turned": whole.t()}
    checkpoint.write_tensors(tmp_path / "a.safetensors", tensors)
    found = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
