"""Folders of diffusers: in, out, and through the library, against the library itself with random weights."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from scoresde_core import Spec
from scoresde_core.errors import FileError, UsageError
from scoresde_core.registry import load_registry
from scoresde_plugins.formats import diffusers_folder
from scoresde_run.commands.shell import main
from scoresde_run.data import array_file
from scoresde_run.models import checkpoint
from scoresde_run.models.config import Config
from scoresde_run.models.model import plan_model

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")
REGISTRY = load_registry()
DDPM = dict(
    sample_size=16, block_out_channels=(32, 64, 64), layers_per_block=2, attention_head_dim=None, freq_shift=1,
    flip_sin_to_cos=False, downsample_padding=0, norm_eps=1e-6,
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip
"""google/ddpm-cifar10-32 and the others of Ho et al., but for their sizes."""
NCSNPP = dict(
    sample_size=16, block_out_channels=(64, 128, 128), layers_per_block=1, norm_num_groups=None, norm_eps=1e-6,
    attention_head_dim=None, time_embedding_type="fourier", mid_block_scale_factor=1.41421356237,
    down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
    up_block_types=("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"),
)  # fmt: skip
"""google/ncsnpp-church-256 and the others, but for their sizes."""
LABELS = {"ddpm": torch.tensor([0.0, 500.0, 999.0]), "ncsnpp": torch.tensor([0.011, 1.0, 900.0])}


def random(config, seed=0, kind="UNet2DModel"):
    torch.manual_seed(seed)
    model = getattr(diffusers, kind)(**config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.add_(0.05 * torch.randn_like(value) if name != "time_proj.weight" else 0)
    return model


def saved(folder, model, scheduler=None):
    model.save_pretrained(folder / "unet")
    fourier = getattr(model.config, "time_embedding_type", "") == "fourier"
    scheduler = scheduler or (diffusers.ScoreSdeVeScheduler() if fourier else diffusers.DDPMScheduler())
    scheduler.save_pretrained(folder / "scheduler")
    return folder


def imported(folder, out, *more):
    assert main(["import-checkpoint", str(folder), "--out", str(out), *more]) == 0
    return checkpoint.read(out).load(REGISTRY)


def images(model, n=3):
    return torch.randn(n, *model.shape, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def error(found, truth):
    return float((found - truth).norm() / truth.norm())


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("ddpm", DDPM),
        ("ddpm", DDPM | {"sample_size": (16, 32), "dropout": 0.1, "in_channels": 1, "out_channels": 1}),
        ("ddpm", DDPM | {"down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3}),
        ("ncsnpp", NCSNPP),
        ("ncsnpp", NCSNPP | {"center_input_sample": True, "layers_per_block": 2, "freq_shift": 1}),
    ],
    ids=["ddpm", "not square", "no attention", "ncsnpp", "ncsnpp of [0, 1]"],
)
def test_into_our_networks_and_back(tmp_path, capsys, kind, config):
    theirs = random(config)
    ours = imported(saved(tmp_path / "a", theirs), tmp_path / "ck")
    assert ours.config.model.network.name == kind
    out = capsys.readouterr().out
    count = sum(p.numel() for p in theirs.parameters()) + (1000 if "sigmas" in ours.network.state_dict() else 0)
    assert f"{len(ours.network.state_dict())} tensors with {count:,} numbers" in out
    x, labels = images(ours), LABELS[kind]
    with torch.no_grad():
        truth = theirs(x, labels).sample
        assert error(ours.network(x, labels), truth) < 1e-5
        assert (
            main(["export", "--checkpoint", str(tmp_path / "ck"), "--format", "diffusers", "--out", f"{tmp_path}/b"])
            == 0
        )
        again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "b")
        assert torch.equal(again.unet(x, labels).sample, truth)
    assert type(again.scheduler) is (diffusers.DDPMScheduler if kind == "ddpm" else diffusers.ScoreSdeVeScheduler)


def test_a_pipeline_in_one_folder_with_former_names(tmp_path):
    theirs = random(DDPM)
    folder = saved(tmp_path / "a", theirs)
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    for new, old in former.items():
        state = {name.replace(f".{new}.", f".{old}."): value.clone() for name, value in state.items()}
    torch.save(state, folder / "diffusion_pytorch_model.bin")
    (folder / "unet" / "config.json").rename(folder / "config.json")
    (folder / "scheduler" / "scheduler_config.json").rename(folder / "scheduler_config.json")
    shutil.rmtree(folder / "unet")
    ours, x = imported(folder, tmp_path / "ck"), torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        assert error(ours.network(x, LABELS["ddpm"]), theirs(x, LABELS["ddpm"]).sample) < 1e-5


@pytest.mark.parametrize(
    ("network", "sde"),
    [
        ({"name": "ddpm"}, "vp"),
        ({"name": "ddpm", "label": "index", "parameterisation": "v"}, "table[betas=squaredcos]"),
        ({"name": "ddpm", "label": "index", "up_attention": "block"}, "vp"),
        ({"name": "ncsnpp", "parameterisation": "score", "label": "sigma", "progressive": "output_skip",
          "progressive_input": "input_skip"}, "ve[sigma_max=380.0]"),
    ],
)  # fmt: skip
def test_out_of_our_networks_and_back(tmp_path, network, sde):
    sizes = {"nf": 128 if network["name"] == "ncsnpp" else 32, "ch_mult": [1, 2], "num_res_blocks": 1,
             "attn_resolutions": [8]}  # fmt: skip
    config = Config.from_plain({"model": {"network": network | sizes, "sde": sde, "shape": [3, 16, 16]}}, "here")
    model = plan_model(config, REGISTRY).build(2)
    with torch.no_grad():
        for name, value in model.network.named_parameters():
            value.add_(0.05 * torch.randn(value.shape) if name != "all_modules.0.W" else 0)
    checkpoint.save(tmp_path / "ck", config, model.network.state_dict())
    assert main(["export", "--checkpoint", f"{tmp_path}/ck", "--format", "diffusers", "--out", f"{tmp_path}/a"]) == 0
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "a")
    x, labels = images(model), LABELS[network["name"]]
    again = imported(tmp_path / "a", tmp_path / "again")
    with torch.no_grad():
        truth = model.network(x, labels)
        assert error(pipeline.unet(x, labels).sample, truth) < 1e-5
        assert error(again.network(x, labels), truth) < 1e-6
    t = torch.tensor([1.0, 200, 500, 800, 999], dtype=torch.float64) / 999
    level = torch.stack([model.sde.discrete_level(t, 1000).alpha, again.sde.alpha(t)])
    if network["name"] == "ddpm":
        level = level if network.get("label") == "index" else torch.stack([model.sde.alpha(t), level[1]])
        products = pipeline.scheduler.alphas_cumprod.double()[(t * 999).round().long()]
        torch.testing.assert_close(level[0].square(), products, rtol=2e-6, atol=1e-12)
        torch.testing.assert_close(level[1].square(), products, rtol=1e-12, atol=0)
        assert pipeline.scheduler.config.prediction_type == {"v": "v_prediction"}.get(
            network.get("parameterisation"), "epsilon"
        )
    else:
        assert (again.sde.sigma_min, again.sde.sigma_max, again.sde.t_min) == (0.01, 380.0, 1e-5)


SCHEDULERS = {
    "DDPM": lambda: diffusers.DDPMScheduler(),
    "ends": lambda: diffusers.DDIMScheduler(beta_start=2e-4, beta_end=0.01, num_train_timesteps=500),
    "scaled": lambda: diffusers.PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    "cosine": lambda: diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
    "listed": lambda: diffusers.DDPMScheduler(trained_betas=torch.linspace(1e-3, 0.1, 50).tolist()),
    "zero snr": lambda: diffusers.DDIMScheduler(rescale_betas_zero_snr=True, beta_schedule="scaled_linear"),
    "v": lambda: diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction"),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_alphas_are_those_of_the_library(name):
    scheduler = SCHEDULERS[name]()
    found = diffusers_folder.process_of(json.loads(scheduler.to_json_string()))
    process, told = found["sde"], found["network"]
    sde = REGISTRY.create("sdes", Spec(process.pop("name"), process))
    truth = scheduler.alphas_cumprod.double()
    t = torch.arange(len(truth), dtype=torch.float64) / (len(truth) - 1)
    torch.testing.assert_close(sde.alpha(t).square(), truth, rtol=1e-12, atol=0)
    torch.testing.assert_close(sde.discrete_level(t, len(truth)).sigma.square(), 1 - truth, rtol=1e-11, atol=0)
    assert told["parameterisation"] == ("v" if name == "v" else "noise")
    assert told.get("scales") == (None if len(truth) == 1000 else len(truth))


def test_noise_scales_are_those_of_the_library():
    scheduler = diffusers.ScoreSdeVeScheduler(num_train_timesteps=100, sigma_max=380.0, snr=0.1)
    found = diffusers_folder.process_of(json.loads(scheduler.to_json_string()))
    process, told = found["sde"], found["network"]
    sde = REGISTRY.create("sdes", Spec(process.pop("name"), process))
    sigma = sde.sigma(torch.linspace(0, 1, 100, dtype=torch.float64))
    torch.testing.assert_close(sigma, scheduler.discrete_sigmas.double(), rtol=1e-6, atol=0)
    assert told == {"parameterisation": "score", "label": "sigma"}
    corrector = "langevin[snr=0.1,n_steps=1]"
    assert found["sampler"] == f"pc[predictor=reverse_diffusion,corrector={corrector},steps=100]"


LIBRARY = {
    "other U-Net": ("UNet2DModel", DDPM | {"norm_eps": 1e-5, "attention_head_dim": 8}),
    "classes": ("UNet2DModel", DDPM | {"num_class_embeds": 5}),
    "condition": ("UNet2DConditionModel", dict(
        sample_size=16, in_channels=3, out_channels=3, block_out_channels=(32, 32), mid_block_type="UNetMidBlock2D",
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D",) * 2, layers_per_block=1)),
    "DiT": ("DiTTransformer2DModel", dict(
        sample_size=8, in_channels=4, out_channels=8, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        num_embeds_ada_norm=10, patch_size=2, norm_num_groups=2)),
}  # fmt: skip


@pytest.mark.parametrize("name", LIBRARY)
def test_through_the_library(tmp_path, capsys, name):
    kind, config = LIBRARY[name]
    theirs = random(config, kind=kind)
    folder = saved(tmp_path / "a", theirs)
    ours = imported(folder, tmp_path / "ck")
    assert "it runs through diffusers, not our own network: it " in capsys.readouterr().out
    shutil.rmtree(folder / "scheduler")
    spec = Spec("diffusers", {"path": str(folder)})
    x, labels, classes = images(ours), LABELS["ddpm"], torch.tensor([1, 4, 0])
    told = {"class_labels": classes} if name in ("classes", "DiT") else {}
    known = {"class": classes} if told else {}
    assert ours.plan.network.takes(ours.shape) == ({"class": 10 if name == "DiT" else 5} if told else {})
    with torch.no_grad():
        if name == "condition":
            told = {"encoder_hidden_states": None}
        truth = theirs(x, timestep=labels, **told).sample[:, : x.shape[1]]
        for network in (ours.network, REGISTRY.create("networks", spec).build(ours.shape).eval()):
            assert torch.equal(network(x, labels, **known), truth)
        if name == "DiT":
            none = theirs(x, timestep=labels, class_labels=torch.full((3,), 10)).sample[:, :4]
            assert torch.equal(ours.network(x, labels, **{"class": torch.full((3,), -1)}), none)
    assert main(["sample", "--checkpoint", f"{tmp_path}/ck", "--n", "1", "--steps", "2", "--out", f"{tmp_path}/s",
                 *(["--known", "class=1"] if name == "classes" else [])]) == 0  # fmt: skip


def test_named_on_the_command_line(tmp_path, capsys):
    """A folder says its shape, its process and what its output means; its samples are those of the imported model."""
    folder = saved(tmp_path / "a", random(LIBRARY["other U-Net"][1]), SCHEDULERS["v"]())
    network = f"diffusers[path={folder}]"
    how = ["--n", "2", "--sampler", "pc[predictor=ddim,steps=3]", "--device", "cpu"]
    imported(folder, tmp_path / "ck")
    assert main(["sample", "--checkpoint", f"{tmp_path}/ck", *how, "--out", f"{tmp_path}/one"]) == 0
    assert main(["sample", "--network", network, *how, "--out", f"{tmp_path}/two"]) == 0
    one, two = (array_file.read(tmp_path / name / "samples.npz") for name in ("one", "two"))
    assert one.shape == (2, 16, 16, 3)
    assert (one == two).all()
    assert main(["sample", "--network", network, "--sde", "subvp", *how, "--out", f"{tmp_path}/three"]) == 0
    assert (array_file.read(tmp_path / "three" / "samples.npz") != one).any()
    shutil.rmtree(folder / "scheduler")
    capsys.readouterr()
    assert main(["sample", "--network", network, *how, "--out", f"{tmp_path}/four"]) == 2
    assert "diffusers does not tell its forward process: give --sde, such as --sde vp" in capsys.readouterr().err


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    network = REGISTRY.create("networks", Spec("diffusers", {"config": json.dumps({"_class_name": "UNet2DModel"})}))
    with pytest.raises(UsageError, match=r"this network needs the library: pip install 'scoresde\[diffusers\]'"):
        network.build((3, 8, 8))


VE = {"parameterisation": "score", "label": "sigma", "progressive": "output_skip"}


def edit(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def shrink(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = {name: value.clone() for name, value in load_file(path).items()}
    state["conv_in.weight"] = state["conv_in.weight"][:, :2].contiguous()
    state["more.weight"] = state.pop("conv_out.bias")
    save_file(state, path)


def cut(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


UNET, SCHEDULE = "unet/config.json", "scheduler/scheduler_config.json"
DAMAGED = "its sample_size, widths or types of blocks are damaged"
BAD = {
    "no configuration": (lambda f: (f / UNET).unlink(), "has no unet/config.json, transformer/config.json or"),
    "no scheduler": (lambda f: (f / SCHEDULE).unlink(), "has no scheduler/scheduler_config.json: save the whole"),
    "no weights": (lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(), "pipeline again"),
    "no json": (lambda f: (f / UNET).write_text("{"), "cannot read"),
    "a list": (lambda f: (f / UNET).write_text("[]"), "as JSON: it must be a mapping"),
    "other class": (lambda f: edit(f, UNET, _class_name="UNet1DModel"), "a UNet1DModel is none of UNet2DModel"),
    "no size": (lambda f: edit(f, UNET, sample_size=None), DAMAGED),
    "odd widths": (lambda f: edit(f, UNET, block_out_channels="many"), DAMAGED),
    "other law": (lambda f: edit(f, SCHEDULE, beta_schedule="sigmoid"), "one of linear, scaled_linear, squaredcos"),
    "other meaning": (lambda f: edit(f, SCHEDULE, prediction_type="flow"), "one of epsilon, sample, v_prediction"),
    "text for a number": (lambda f: edit(f, SCHEDULE, beta_start="0.1"), "first must be"),
    "wrong sizes": (shrink, "1 wrong shape, 1 missing, 1 unexpected; the first is wrong shape: all_modules.2.weight"),
    "cut": (cut, "as safetensors"),
    "layers without end": (lambda f: edit(f, UNET, layers_per_block=2**40), "layers, more than there are tensors"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_folder_is_one_line(tmp_path, capsys, name):
    harm, words = BAD[name]
    folder = saved(tmp_path / "a", random(DDPM))
    harm(folder)
    assert main(["import-checkpoint", str(folder), "--out", str(tmp_path / "ck")]) in (2, 3)
    err = capsys.readouterr().err
    assert (words in err, err.count("\n"), (tmp_path / "ck").exists()) == (True, 1, False), err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "ncsnpp", "nf": 128, **VE}, "progressive_input=residual, and diffusers has only input_skip"),
        ({"name": "ddpm", "nf": 32, "nonlinearity": "elu"}, "nonlinearity=elu, and diffusers has only swish"),
        ({"name": "unet", "nf": 8}, "the network is unet for events of shape [3, 16, 16], not ddpm or ncsnpp"),
        ({"name": "ddpm", "nf": 32, "label": "t"}, "label t: export as scoresde"),
    ],
)
def test_what_diffusers_has_not_is_refused(tmp_path, capsys, changes, words):
    network = {"ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [8], **changes}
    sde = "ve" if network["name"] == "ncsnpp" else "vp"
    config = Config.from_plain({"model": {"network": network, "sde": sde, "shape": [3, 16, 16]}}, "here")
    checkpoint.save(tmp_path / "ck", config, plan_model(config, REGISTRY).build().network.state_dict())
    assert main(["export", "--checkpoint", f"{tmp_path}/ck", "--format", "diffusers", "--out", f"{tmp_path}/a"]) in (
        2,
        3,
    )
    err = capsys.readouterr().err
    assert words in err, err
    assert err.count("\n") == 1
    assert not (tmp_path / "a").exists()


class TestHub:
    def test_it_is_asked_for_the_files_alone(self, tmp_path, monkeypatch):
        hub = pytest.importorskip("huggingface_hub")
        asked = []
        monkeypatch.setattr(hub, "snapshot_download", lambda name, **how: asked.append((name, how)) or str(tmp_path))
        assert diffusers_folder.fetched("hub:google/ddpm-cifar10-32") == tmp_path
        patterns = ["*.json", *(f"*diffusion_pytorch_model.{end}" for end in ("safetensors", "bin"))]
        assert asked == [("google/ddpm-cifar10-32", {"allow_patterns": patterns})]

    def test_without_network(self, monkeypatch):
        hub = pytest.importorskip("huggingface_hub")

        def fails(*arguments, **more):
            raise ConnectionError("no route\nto host")

        monkeypatch.setattr(hub, "snapshot_download", fails)
        with pytest.raises(
            FileError, match=r"cannot download hub:a/b \(ConnectionError: no route\): download its files"
        ):
            diffusers_folder.fetched("hub:a/b")

    def test_without_the_library(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(UsageError, match=r"needs huggingface_hub: pip install 'scoresde\[diffusers\]'"):
            diffusers_folder.fetched("hub:a/b")
