"""Checkpoints of the JAX code: published numbers, the numbers of layers, and files that are damaged or another's."""

import contextlib
import gzip
import json
import random
import resource
import sys
from pathlib import Path

import flax_files
import numpy as np
import pytest
import torch
from scoresde_core.errors import FileError
from scoresde_core.registry import load_registry
from scoresde_core.score import level_of
from scoresde_plugins.dequantizers.variational import flow_of
from scoresde_plugins.networks.unet import DDPM, NCSNpp
from scoresde_plugins.song2021 import flax_checkpoint as flax
from scoresde_run.commands.shell import main
from scoresde_run.models import checkpoint
from scoresde_run.models.model import plan_model

pytest.importorskip("msgpack")
REGISTRY = load_registry()
GOLDEN = {
    "flow_ddpmpp_vp": "scoreflow_vp_cifar10_ddpmpp_continuous",
    "sde_ddpm_vp_discrete": "vp_ddpm_cifar10",
    "sde_ncsnpp_ve_continuous": "ve_cifar10_ncsnpp_continuous",
}
PRESET = "ve_cifar10_ncsnpp_continuous"
SMALL = ["model.network.nf=8", "model.network.num_res_blocks=1", "model.network.ch_mult=[1,2]", "model.shape=[3,8,8]",
         "model.network.attn_resolutions=[4]"]  # fmt: skip


@pytest.fixture
def golden(shared):
    if not (shared / "golden" / "jax").is_dir():
        pytest.skip("no golden/jax in the shared folder")
    return shared / "golden" / "jax"


@pytest.fixture
def importer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(data, *more, preset=PRESET, changes=SMALL):
        Path("checkpoint_12").write_bytes(data)
        known = ["--preset", preset] if preset else []
        changed = ["--set", *changes, *more] if changes or more else []
        code = main(["import-checkpoint", "checkpoint_12", *known, "--out", "ck", *changed])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def flat(tree, path=""):
    """The leaves of a tree by path."""
    found = {}
    for name, value in tree.items():
        found |= flat(value, f"{path}{name}/") if isinstance(value, dict) else {path + name: value}
    return found


def written(network, seed=0):
    """Random parameters for ``network`` by flax path, in flax's layout."""
    generator, tops, found = torch.Generator().manual_seed(seed), flax._tops(network), {}
    for name, value in network.named_parameters():
        shape = {4: lambda s: (s[2], s[3], s[1], s[0]), 2: lambda s: s[::-1], 1: lambda s: s}[value.ndim](value.shape)
        path = flax._path(name, tops)
        shape = tuple(value.shape) if path.endswith("/W") else shape
        found[path] = torch.randn(shape, generator=generator)
    return found


def small(*changes):
    return plan_model(REGISTRY.create("presets", PRESET).override([*SMALL, *changes]), REGISTRY).build().network


@pytest.mark.parametrize("name", GOLDEN)
class TestPublished:
    def test_the_network_gives_the_published_numbers(self, golden, importer, name):
        """Raw output to 1e-5 of the largest; score likewise, but for 5e-4 at the smallest time (README there)."""
        data = gzip.decompress((golden / name / "checkpoint_12.gz").read_bytes())
        model = json.loads((golden / name / "config.json").read_text())["config"]["model"]
        fields = ("nf", "ch_mult", "num_res_blocks", "attn_resolutions")
        changes = [f"model.network.{field}={json.dumps(model[field])}".replace(" ", "") for field in fields]
        code, out, err = importer(data, preset=GOLDEN[name], changes=[*changes, "model.shape=[3,8,8]"])
        assert (code, err) == (0, "")
        assert "step 600001: " in out
        numbers = np.load(golden / name / "io.npz")
        x, label, t = (torch.from_numpy(numbers[key]) for key in ("x", "labels", "t"))
        x = x.permute(0, 3, 1, 2)
        for weights in ("ema", "params"):
            loaded = checkpoint.read("ck").load(REGISTRY, ema=weights == "ema")
            with torch.no_grad():
                found = {"output": loaded.network(x, label)}
                found["score"] = loaded.score().evaluate(x, level_of(loaded.sde, t, x))
            for what, bounds in (("output", [1e-5] * 3), ("score", [5e-4, 1e-5, 1e-5])):
                expected = torch.from_numpy(numbers[f"{what}_{weights}"]).permute(0, 3, 1, 2)
                error = (found[what] - expected).flatten(1).abs().amax(1) / expected.flatten(1).abs().amax(1)
                assert bool((error < torch.tensor(bounds)).all()), (what, weights, error)

    def test_the_order_of_a_file_means_nothing(self, golden, tmp_path, name):
        import msgpack

        data = gzip.decompress((golden / name / "checkpoint_12.gz").read_bytes())
        (tmp_path / "a").write_bytes(data)

        def shuffled(value):
            return {k: shuffled(value[k]) for k in reversed(value)} if isinstance(value, dict) else value

        (tmp_path / "b").write_bytes(msgpack.packb(shuffled(msgpack.unpackb(data))))
        first, second = flax.read(tmp_path / "a"), flax.read(tmp_path / "b")
        assert list(first.weights) != list(second.weights)
        for one, other in ((first.weights, second.weights), (first.ema, second.ema)):
            assert all(torch.equal(value, other[path]) for path, value in one.items())


PYRAMIDS = {
    # Both skips beside ddpm blocks: filters of the pyramids have numbers, and no parameters.
    "skips": (
        NCSNpp(resblock_type="ddpm", progressive="output_skip", progressive_input="input_skip", label="sigma",
               parameterisation="score", nf=8, ch_mult=(1, 2, 2), num_res_blocks=1, attn_resolutions=()),
        ["GaussianFourierProjection_0", "Dense_0", "Dense_1", "Conv_0",
         "ResnetBlockDDPMpp_0", "Downsample_0", "Combine_0",  # the pyramid's is Downsample_1
         "ResnetBlockDDPMpp_1", "Downsample_2", "Combine_1",
         "ResnetBlockDDPMpp_2", "ResnetBlockDDPMpp_3", "AttnBlockpp_0", "ResnetBlockDDPMpp_4",
         "ResnetBlockDDPMpp_5", "ResnetBlockDDPMpp_6", "GroupNorm_0", "Conv_1", "Upsample_0",
         "ResnetBlockDDPMpp_7", "ResnetBlockDDPMpp_8", "GroupNorm_1", "Conv_2", "Upsample_2",
         "ResnetBlockDDPMpp_9", "ResnetBlockDDPMpp_10", "GroupNorm_2", "Conv_3"],
    ),
    # Both residual: the layers of pyramid and main path share a counter.
    "residual": (
        NCSNpp(resblock_type="ddpm", progressive="residual", progressive_input="residual", nf=8, ch_mult=(1, 2),
               num_res_blocks=1, attn_resolutions=()),
        ["Dense_0", "Dense_1", "Conv_0", "ResnetBlockDDPMpp_0", "Downsample_0", "Downsample_1", "ResnetBlockDDPMpp_1",
         "ResnetBlockDDPMpp_2", "AttnBlockpp_0", "ResnetBlockDDPMpp_3",
         "ResnetBlockDDPMpp_4", "ResnetBlockDDPMpp_5", "GroupNorm_0", "Conv_1", "Upsample_0",
         "ResnetBlockDDPMpp_6", "ResnetBlockDDPMpp_7", "Upsample_1", "GroupNorm_1", "Conv_2"],
    ),
    "ddpm": (
        DDPM(nf=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(), conditional=False),
        ["Conv_0", "ResnetBlockDDPM_0", "Downsample_0", "ResnetBlockDDPM_1", "ResnetBlockDDPM_2", "AttnBlock_0",
         "ResnetBlockDDPM_3", "ResnetBlockDDPM_4", "ResnetBlockDDPM_5", "Upsample_0", "ResnetBlockDDPM_6",
         "ResnetBlockDDPM_7", "GroupNorm_0", "Conv_1"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spec", "names"), PYRAMIDS.values(), ids=PYRAMIDS)
def test_layers_are_numbered_by_class_in_the_order_of_the_calls(spec, names):
    assert flax._tops(spec.build((3, 8, 8))) == names


def test_leaves_are_named_and_laid_out_as_published(importer):
    network = small("model.network.resblock_type=ddpm")
    weights = written(network)
    code, *_ = importer(flax_files.encoded(flax_files.state(weights, weights)), "model.network.resblock_type=ddpm")
    assert code == 0
    state = checkpoint.read("ck").load(REGISTRY).network.state_dict()
    top = {name: f"all_modules.{place}" for place, name in enumerate(flax._tops(network))}
    block, conv = top["ResnetBlockDDPMpp_1"], top["Downsample_1"]
    for path, name, axes in (
        ("Conv_0/kernel", f"{top['Conv_0']}.weight", (3, 2, 0, 1)),
        ("Downsample_1/Conv2d_0/weight", f"{conv}.Conv2d_0.weight", (3, 2, 0, 1)),
        ("Dense_1/kernel", f"{top['Dense_1']}.weight", (1, 0)),
        ("ResnetBlockDDPMpp_1/NIN_0/W", f"{block}.NIN_0.W", (0, 1)),
        ("ResnetBlockDDPMpp_1/GroupNorm_1/scale", f"{block}.GroupNorm_1.weight", (0,)),
        ("ResnetBlockDDPMpp_1/GroupNorm_1/bias", f"{block}.GroupNorm_1.bias", (0,)),
        ("GaussianFourierProjection_0/W", f"{top['GaussianFourierProjection_0']}.W", (0,)),
    ):
        assert torch.equal(state[name], weights[path].permute(*axes)), path


def test_averages_have_their_own_frozen_frequencies_and_any_flax(importer):
    """A float32 average of a constant is not quite it; flax of today has norms of shape (C,); a step may be an int."""
    network = small()
    weights, ema = written(network), written(network, seed=1)
    old = {path: value[None, None, None] if "GroupNorm" in path else value for path, value in weights.items()}
    code, out, _ = importer(flax_files.encoded(flax_files.state(old, ema, step=77)))
    assert code == 0
    assert "step 77" in out
    for averaged, expected in ((False, weights), (True, ema)):
        state = checkpoint.read("ck").load(REGISTRY, ema=averaged).network.state_dict()
        assert torch.equal(state["all_modules.0.W"], expected["GaussianFourierProjection_0/W"])
        assert torch.equal(state["all_modules.4.GroupNorm_0.weight"],
                           expected["ResnetBlockBigGANpp_0/GroupNorm_0/scale"])  # fmt: skip
        assert torch.equal(state["sigmas"], network.sigmas)


def test_fourier_features_of_log_time_are_those_of_score_sde(importer):
    """score_sde takes the logarithm of the label, 999 t, and ScoreFlow does not."""
    fourier = ["model.sde=vp", "model.network.label=time", "model.network.parameterisation=noise",
               "model.network.embedding_type=fourier"]  # fmt: skip
    x, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2, 0.7])
    models = {}
    for label in ("time", "log_time"):
        config = REGISTRY.create("presets", PRESET).override([*SMALL, *fourier, f"model.network.label={label}"])
        models[label] = plan_model(config, REGISTRY).build(seed=0)
    network, level = models["time"].network, level_of(models["time"].sde, t, x)
    for label, fed in (("time", 999 * t), ("log_time", (999 * t).log())):
        found = models[label].score().evaluate(x, level)
        torch.testing.assert_close(found, network(x, fed) / -level.sigma)
    weights = written(network)
    data = flax_files.encoded(flax_files.state(weights, weights))
    note = "for score_sde's set model.network.label=log_time"
    assert note in importer(data, *fourier)[1]
    Path("ck").rename("other")
    assert note not in importer(data, *fourier, "model.network.label=log_time")[1]


def without(path):
    def change(weights):
        del weights[path]

    return change


MISFITS = {
    "missing": (without("Conv_0/kernel"), "missing: all_modules.3.weight"),
    "unexpected": (lambda w: w.update({"Conv_9/bias": torch.zeros(2)}), "unexpected: Conv_9/bias"),
    "wrong shape": (lambda w: w.update({"Conv_0/bias": torch.zeros(7)}), "wrong shape: all_modules.3.bias, (7,)"),
    "no numbers": (lambda w: w.update({"Conv_0/bias": torch.zeros(8, dtype=torch.int32)}), "wrong type: "),
    "several rows": (lambda w: w.update({"GroupNorm_0/scale": torch.ones(2, 4)}), "wrong shape: "),
    "other blocks": (
        lambda w: w.update({"ResnetBlockDDPMpp_0/NIN_0/b": w.pop("ResnetBlockBigGANpp_0/Conv_0/bias")}),
        "unexpected: ResnetBlockDDPMpp_0/NIN_0/b",
    ),
}


@pytest.mark.parametrize("part", ["target", "ema"])
@pytest.mark.parametrize(("change", "line"), MISFITS.values(), ids=MISFITS)
def test_another_network_is_reported_and_nothing_is_written(importer, part, change, line):
    both = {"target": written(small()), "ema": written(small())}
    if part == "ema" and line == "wrong type: ":
        return  # averages take the type of the weights
    change(both[part])
    code, out, err = importer(flax_files.encoded(flax_files.state(**both)))
    assert (code, err.count("\n")) == (3, 1)
    assert line in out
    assert not Path("ck").exists()


DEQUANTISERS = {"deq_cifar10": 1e-5, "deq_imagenet32": 3e-5}


@pytest.mark.parametrize(("name", "bound"), DEQUANTISERS.items(), ids=DEQUANTISERS)
class TestDequantisers:
    """ScoreFlow's own dequantisers, whose sizes the file has; heads are not among them."""

    def imported(self, golden, importer, name):
        data = gzip.decompress((golden / name / "checkpoint_12.gz").read_bytes())
        code, out, err = importer(data, preset=None, changes=["model.network.heads=2"])
        assert (code, err) == (0, "")
        assert "step 300001: " in out
        assert "scoresde likelihood --dequantizer 'variational[checkpoint=ck]'" in out
        return np.load(golden / name / "io.npz")

    def test_noise_and_its_density_are_the_published_ones(self, golden, importer, name, bound):
        """u absolutely, but for the 2^-16 that it keeps from 0 and 1; -log q(u | v) relatively."""
        numbers = self.imported(golden, importer, name)
        levels, eps = (torch.from_numpy(numbers[key]).permute(0, 3, 1, 2) for key in ("levels", "eps"))
        folder = checkpoint.read("ck")
        plain, averaged = folder.states()
        assert set(plain) == set(averaged)
        for which, state in (("params", plain), ("ema", averaged)):
            module = flow_of(folder.config)
            module.load_state_dict(state)
            with torch.no_grad():
                u, log_q = module(levels, eps)
            expected = torch.from_numpy(numbers[f"u_{which}"]).permute(0, 3, 1, 2).clamp(2**-16, 1 - 2**-16)
            assert float((u - expected).abs().max()) < bound
            assert float((-log_q / torch.from_numpy(numbers[f"sldj_{which}"]) - 1).abs().max()) < bound

    def test_it_serves_as_variational_dequantizer_with_its_averages(self, golden, importer, name, bound):
        numbers = self.imported(golden, importer, name)
        levels, eps = (torch.from_numpy(numbers[key]).permute(0, 3, 1, 2) for key in ("levels", "eps"))
        filled, log_q = REGISTRY.create("dequantizers", "variational[checkpoint=ck]").dequantize(levels, lambda: eps)
        expected = levels + torch.from_numpy(numbers["u_ema"]).permute(0, 3, 1, 2)
        assert float((filled - expected).abs().max()) < bound + 2**-15
        torch.testing.assert_close(-log_q.float(), torch.from_numpy(numbers["sldj_ema"]), rtol=bound, atol=0)

    def test_the_likelihood_takes_it(self, golden, importer, name, bound, capsys):
        self.imported(golden, importer, name)
        np.savez("images.npz", images=np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8))
        words = ["likelihood", "--target", "gaussian[shape=[3,8,8]]", "--dataset",
                 "npz[path=images.npz,test_share=0.5]", "--device", "cpu", "--dequantizer",
                 "variational[checkpoint=ck]", "--out", "bits", "--rtol", "0.1"]  # fmt: skip
        assert main(words) == 0
        assert "bits/dim" in capsys.readouterr().out

    def test_log_density_by_automatic_differentiation(self, golden, importer, name, bound):
        """log q(u) = log N(eps) - log |det du/deps|, whatever is published."""
        numbers = self.imported(golden, importer, name)
        folder = checkpoint.read("ck")
        module = flow_of(folder.config)
        module.load_state_dict(folder.states()[0])
        module = module.double()
        levels, eps = (torch.from_numpy(numbers[key][:1]).permute(0, 3, 1, 2) for key in ("levels", "eps"))
        eps = eps.double() * 0.3  # where nothing saturates
        jacobian = torch.autograd.functional.jacobian(lambda e: module(levels, e)[0].flatten(), eps).reshape(192, 192)
        normal = torch.distributions.Normal(0, 1).log_prob(eps).sum()
        with torch.no_grad():
            u, log_q = module(levels, eps)
        assert float(u.min()) > 2**-16
        assert float(u.max()) < 1 - 2**-16
        torch.testing.assert_close(log_q[0], normal - torch.linalg.slogdet(jacobian).logabsdet)

    def test_what_does_not_fit_is_reported(self, golden, importer, name, bound):
        import msgpack

        data = gzip.decompress((golden / name / "checkpoint_12.gz").read_bytes())
        assert "leave --preset out" in importer(data, changes=[])[2]
        assert (
            "filters must be a multiple of heads" in importer(data, preset=None, changes=["model.network.heads=3"])[2]
        )
        content = msgpack.unpackb(data)
        for part in (content["params_ema"], content["optimizer"]["target"]):
            part["params"]["Norm_9"] = part["params"].pop("Norm_1")
        code, out, err = importer(msgpack.packb(content), preset=None, changes=[])
        assert (code, err.count("\n")) == (3, 1)
        assert "unexpected: params/Norm_9/norm0_g" in out
        for gone in ("Norm_0", "MixLogisticAttnCoupling_0"):
            content = msgpack.unpackb(data)
            for part in (content["params_ema"], content["optimizer"]["target"]):
                del part["params"][gone]
            code, _, err = importer(msgpack.packb(content), preset=None, changes=[])
            assert (code, err.count("\n")) == (3, 1)
            assert "is no dequantiser of ScoreFlow" in err


def test_a_network_needs_a_preset(importer):
    code, _, err = importer(tree(), preset=None, changes=[])
    assert code == 2
    assert "add --preset NAME" in err


def tree(**changes):
    weights = {"Conv_0/bias": torch.zeros(2)}
    return flax_files.encoded(flax_files.state(weights, weights, **changes))


def lying(shape=(2,), dtype="float32", content=b"\0" * 8, code=1):
    data = flax_files.encoded([list(shape), dtype, content])
    return tree().replace(flax_files.encoded(np.zeros(2, np.float32)), flax_files.extension(code, data), 1)


DEEP = {}
for _ in range(40):
    DEEP = {"a": DEEP}
REFUSED = {
    "ncsnv2": (tree(optimizer={"target": {"RefineBlock_2": {"Conv_0": {"bias": np.zeros(2, np.float32)}}}}),
               "score_sde's JAX NCSN or NCSNv2, another network"),
    "no averages": (tree(params_ema={}), "no train state of score_sde or score_flow"),
    "no weights": (tree(optimizer={"state": {}}), "no train state"),
    "another tree": (flax_files.encoded({"params": {"kernel": np.zeros(2, np.float32)}}), "no train state"),
    "no step": (tree(step="twelve"), "no train state"),
    "several steps": (tree(step=np.zeros(3, np.int32)), "cannot read"),
    "statistics": (tree(model_state={"batch_stats": {"mean": 1.0}}), "model_state/batch_stats/mean has no place"),
    "a text": (tree(params_ema={"Conv_0": {"bias": "text"}}), "Conv_0/bias has no place"),
    "chunks": (tree(params_ema={"Conv_0": {"__msgpack_chunked_array__": True}}), "small arrays"),
    "a list": (tree(params_ema={"Conv_0": [1, 2]}), "cannot read"),
    "deep": (tree(params_ema=DEEP), "few levels"),
    "deep beside": (tree(rng=DEEP), None),
    "complex": (lying(code=2), "an object of kind 2"),
    "objects": (lying(dtype="object"), "type 'object'"),
    "a function": (lying(dtype="load"), "type 'load'"),
    "too few bytes": (lying(shape=(2, 2**40)), "has 8 bytes"),
    "negative": (lying(shape=(-2, -1)), "shape [-2, -1]"),
    "no shape": (lying(shape=("a",)), "shape"),
    "empty": (lying(shape=(0, 2**60), content=b""), "shape"),
    "more after it": (tree() + b"\0", "1 bytes follow its end"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_such_file_is_one_line(importer, data, words):
    code, out, err = importer(data)
    assert (code, err.count("\n")) == (3, 1), err
    if words is not None:
        assert words in err
        assert out == ""
    assert not Path("ck").exists()


@pytest.mark.parametrize("share", [0.001, 0.3, 0.6, 0.999])
def test_a_file_cut_short(importer, share):
    data = tree()
    code, _, err = importer(data[: 1 + int(share * (len(data) - 1))])
    assert (code, err.count("\n")) == (3, 1)
    assert "it ends in the middle" in err


def test_without_msgpack_the_extra_is_named(importer, monkeypatch):
    monkeypatch.setitem(sys.modules, "msgpack", None)
    code, _, err = importer(tree())
    assert code == 3
    assert "pip install 'scoresde[jax]'" in err


def test_a_network_of_another_kind_is_refused(importer):
    code, _, err = importer(tree(), preset="moons_vp", changes=["model.network.width=8"])
    assert code == 3
    assert "for ncsnpp or ddpm alone" in err


def test_adams_moments_are_passed_over_and_damage_takes_little_memory(tmp_path):
    """48 damaged files of 8 MB, most of it one array: none needs four times its size, none ends in anything else."""
    weights = {"Conv_0/kernel": torch.zeros(2**20), "Conv_1/kernel": torch.zeros(2**20)}
    whole = flax_files.encoded(flax_files.state(weights, {"Conv_0/bias": torch.zeros(2)}))
    path, draw = tmp_path / "f", random.Random(0)
    path.write_bytes(whole)
    assert not any("param_states" in name for name in flax.read(path).weights)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(48):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 6)):
            place = draw.choice([draw.randrange(len(data)), draw.randrange(300), -draw.randrange(1, 900)])
            data[place] = draw.choice([0, 0xC9, 0xC6, 0xDD, 0xDF, 0xDB, 0xFF, draw.randrange(256)])
        path.write_bytes(data[: draw.choice([len(data), draw.randrange(len(data))])])
        with contextlib.suppress(FileError):
            flax.read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4 * len(whole) / 1024
