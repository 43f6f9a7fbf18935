"""Pickles of EDM: stand-in classes that pickle as theirs do, against a forward pass written from the paper."""

import math
import os
import pickle
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from scoresde_core import level_of
from scoresde_core.registry import load_registry
from scoresde_run.commands.shell import main
from scoresde_run.models import checkpoint

REGISTRY = load_registry()
NF, SIDE, CLASSES = 16, 16, 5


class Persistent:
    """An object that pickles with its class's name and source, as EDM's do."""

    def __init__(self, kind, parameters=(), modules=(), buffers=(), **state):
        self.kind, self.state = kind, {
            "_parameters": dict(parameters), "_buffers": dict(buffers), "_modules": dict(modules),
            "_non_persistent_buffers_set": set(), "training": False, **state,
        }  # fmt: skip

    def __reduce__(self):
        source = "raise SystemExit('run')"
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": self.kind, "state": self.state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


@pytest.fixture
def theirs(monkeypatch):
    """The module whose function such pickles name."""
    module = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("run")

    _reconstruct_persistent_obj.__module__ = module.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, module.__name__, module)


def weights(fourier, encoder, decoder, out, classes, seed=0):
    """Random tensors of a SongUNet with widths NF and 2 NF, one block a level, and attention on the coarse level."""
    torch.manual_seed(seed)
    found, noise = {}, NF * (2 if fourier else 1)

    def layer(name, *shape):
        found[f"{name}.weight"] = torch.randn(shape) / math.sqrt(math.prod(shape[1:]))
        found[f"{name}.bias"] = 0.1 * torch.randn(shape[0])

    def norm(name, c):
        found[f"{name}.weight"], found[f"{name}.bias"] = 1 + 0.1 * torch.randn(c), 0.1 * torch.randn(c)

    def block(name, c, k, resized=False, attention=False):
        norm(f"{name}.norm0", c), layer(f"{name}.conv0", k, c, 3, 3), layer(f"{name}.affine", k, 4 * NF)
        norm(f"{name}.norm1", k), layer(f"{name}.conv1", k, k, 3, 3)
        if c != k or resized:
            layer(f"{name}.skip", k, c, 1, 1)
        if attention:
            norm(f"{name}.norm2", k), layer(f"{name}.qkv", 3 * k, k, 1, 1), layer(f"{name}.proj", k, k, 1, 1)

    if fourier:
        found["map_noise.freqs"] = torch.randn(NF)
    if classes:
        layer("map_label", noise, classes)
    found["map_augment.weight"] = torch.randn(noise, 9)
    layer("map_layer0", 4 * NF, noise), layer("map_layer1", 4 * NF, 4 * NF)
    layer("enc.16x16_conv", NF, 3, 3, 3), block("enc.16x16_block0", NF, NF), block("enc.8x8_down", NF, NF, True)
    if encoder != "standard":
        size = 1 if encoder == "skip" else 3
        layer(f"enc.8x8_aux_{encoder}", NF, 3, size, size)
    block("enc.8x8_block0", NF, 2 * NF, attention=True)
    block("dec.8x8_in0", 2 * NF, 2 * NF, attention=True), block("dec.8x8_in1", 2 * NF, 2 * NF)
    block("dec.8x8_block0", 4 * NF, 2 * NF), block("dec.8x8_block1", 3 * NF, 2 * NF, attention=True)
    block("dec.16x16_up", 2 * NF, 2 * NF, True), block("dec.16x16_block0", 3 * NF, NF)
    block("dec.16x16_block1", 2 * NF, NF)
    for r, c in (("16x16", NF), *([("8x8", 2 * NF)] if decoder == "skip" else [])):
        norm(f"dec.{r}_aux_norm", c), layer(f"dec.{r}_aux_conv", out, c, 3, 3)
    return found


def resized(x, taps, way):
    """The image filtered by the outer product of the taps, at half or twice the size."""
    k = torch.tensor(taps, dtype=x.dtype)
    k, pad, c = torch.outer(k, k) / k.sum() ** 2, (len(taps) - 1) // 2, x.shape[1]
    k = k.expand(c, 1, -1, -1)
    if way == "down":
        return F.conv2d(x, k, stride=2, padding=pad, groups=c)
    return F.conv_transpose2d(x, 4 * k, stride=2, padding=pad, groups=c)


def forward(w, x, noise, classes, taps, fourier, encoder, decoder):
    """F(x, noise) of a SongUNet with the tensors ``w``."""

    def conv(name, h):
        weight = w[f"{name}.weight"]
        return F.conv2d(h, weight, w[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def linear(name, h):
        return F.linear(h, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name, h):
        return F.group_norm(h, min(32, h.shape[1] // 4), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def block(name, x, way=None):
        h = F.silu(norm(f"{name}.norm0", x))
        h, x = (resized(h, taps, way), resized(x, taps, way)) if way else (h, x)
        h = conv(f"{name}.conv0", h) + linear(f"{name}.affine", emb)[:, :, None, None]
        h = conv(f"{name}.conv1", F.silu(norm(f"{name}.norm1", h)))
        x = (h + (conv(f"{name}.skip", x) if f"{name}.skip.weight" in w else x)) * math.sqrt(0.5)
        if f"{name}.qkv.weight" not in w:
            return x
        q, k, v = conv(f"{name}.qkv", norm(f"{name}.norm2", x)).flatten(2).unflatten(1, (-1, 3)).unbind(2)
        mixed = torch.einsum("ncq,nck->nqk", q, k / math.sqrt(k.shape[1])).softmax(2)
        return (conv(f"{name}.proj", torch.einsum("nqk,nck->ncq", mixed, v).view_as(x)) + x) * math.sqrt(0.5)

    if fourier:
        angle = noise[:, None] * 2 * math.pi * w["map_noise.freqs"]
    else:
        angle = noise[:, None] * 10_000 ** -(torch.arange(NF // 2) / (NF // 2 - 1))
    emb = torch.cat([angle.sin(), angle.cos()], 1)
    if classes is not None:
        emb = emb + linear("map_label", F.one_hot(classes, CLASSES) * math.sqrt(CLASSES))
    emb = F.silu(linear("map_layer1", F.silu(linear("map_layer0", emb))))
    image, h = x, conv("enc.16x16_conv", x)
    kept = [h, h := block("enc.16x16_block0", h)]
    h = block("enc.8x8_down", h, "down")
    if encoder == "skip":
        h = h + conv("enc.8x8_aux_skip", resized(image, taps, "down"))
    if encoder == "residual":  # the filter after the convolution, on an image with zeros around
        wide = F.conv2d(image, w["enc.8x8_aux_residual.weight"], padding=1 + (len(taps) - 1) // 2)
        k = torch.tensor(taps)
        k = (torch.outer(k, k) / k.sum() ** 2).expand(NF, 1, -1, -1)
        h = (h + F.conv2d(wide, k, stride=2, groups=NF) + w["enc.8x8_aux_residual.bias"][:, None, None]) / math.sqrt(2)
    kept += [h, h := block("enc.8x8_block0", h)]
    h = block("dec.8x8_in1", block("dec.8x8_in0", h))
    for k in range(2):
        h = block(f"dec.8x8_block{k}", torch.cat([h, kept.pop()], 1))
    low = conv("dec.8x8_aux_conv", F.silu(norm("dec.8x8_aux_norm", h))) if decoder == "skip" else None
    h = block("dec.16x16_up", h, "up")
    for k in range(2):
        h = block(f"dec.16x16_block{k}", torch.cat([h, kept.pop()], 1))
    out = conv("dec.16x16_aux_conv", F.silu(norm("dec.16x16_aux_norm", h)))
    return out if low is None else out + resized(low, taps, "up")


def stored(path, kind, w, how, top=None):
    """A pickle of the averages of a network with the tensors ``w``."""
    tree = {}
    for name, value in w.items():
        *inner, leaf = name.split(".")
        node = tree
        for word in inner:
            node = node.setdefault(word, {})
        node[leaf] = value

    def module(node, name="Conv2d", **state):
        leaves = {key: torch.nn.Parameter(value) for key, value in node.items() if isinstance(value, torch.Tensor)}
        inner = {key: module(value) for key, value in node.items() if isinstance(value, dict)}
        return Persistent(name, leaves, inner, {"resample_filter": torch.ones(1, 1, 2, 2)}, **state)

    net = module(tree, "SongUNet")
    state = {"C_1": 0.001, "C_2": 0.008, "M": 1000, "sigma_data": 0.5, "beta_d": 19.9, "beta_min": 0.1, **(top or {})}
    outer = Persistent(kind, modules={"model": net}, img_channels=3, img_resolution=SIDE, _init_kwargs=how, **state)
    path.write_bytes(pickle.dumps({"ema": outer, "loss_fn": Persistent("EDMLoss"), "dataset_kwargs": {"size": 3}}))


CASES = {
    "DDPM++": ("EDMPrecond", {}, [1, 1], False, "standard", "standard", 0),
    "classes": ("EDMPrecond", {}, [1, 1], False, "standard", "standard", CLASSES),
    "NCSN++": ("EDMPrecond", {}, [1, 3, 3, 1], True, "residual", "standard", 0),
    "VP": ("VPPrecond", {}, [1, 1], False, "standard", "standard", 0),
    "VE": ("VEPrecond", {}, [1, 3, 3, 1], True, "residual", "standard", 0),
    "iDDPM, skips": ("iDDPMPrecond", {}, [1, 3, 3, 1], False, "skip", "skip", 0),
}


def arguments(taps, fourier, encoder, decoder):
    return {
        "model_type": "SongUNet", "model_channels": NF, "channel_mult": [1, 2], "num_blocks": 1,
        "attn_resolutions": [8], "embedding_type": "fourier" if fourier else "positional", "encoder_type": encoder,
        "decoder_type": decoder, "resample_filter": taps, "channel_mult_noise": 2 if fourier else 1, "augment_dim": 9,
    }  # fmt: skip


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_the_formulas(tmp_path, name):
    kind, top, taps, fourier, encoder, decoder, classes = CASES[name]
    w = weights(fourier, encoder, decoder, 6 if kind == "iDDPMPrecond" else 3, classes)
    stored(tmp_path / "a.pkl", kind, w, arguments(taps, fourier, encoder, decoder), top)
    assert main(["import-checkpoint", str(tmp_path / "a.pkl"), "--out", str(tmp_path / "ck")]) == 0
    model = checkpoint.read(tmp_path / "ck").load(REGISTRY)
    told = torch.tensor([1, 4, 0]) if classes else None
    view = model.score(cond={"class": told} if classes else None)
    t = torch.tensor([100.0, 400, 800], dtype=torch.float64) / 999
    alpha, sigma = (each(t).float().view(-1, 1, 1, 1) for each in (model.sde.alpha, model.sde.sigma))
    s, x = sigma / alpha, torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    x = x * (1 + s)
    noise = {
        "EDMPrecond": s.log() / 4, "VPPrecond": 999 * t.view(-1, 1, 1, 1), "VEPrecond": (s / 2).log(),
        "iDDPMPrecond": 999 * t.view(-1, 1, 1, 1),
    }[kind].flatten().float()  # fmt: skip
    scale = {"EDMPrecond": (s**2 + 0.25).rsqrt(), "VEPrecond": torch.ones_like(s)}.get(kind, (s**2 + 1).rsqrt())
    with torch.no_grad():
        raw = forward(w, scale * x, noise, told, taps, fourier, encoder, decoder)[:, :3]
        if kind == "EDMPrecond":
            truth = 0.25 / (s**2 + 0.25) * x + s * 0.5 * (s**2 + 0.25).rsqrt() * raw
        else:
            truth = x + (s if kind == "VEPrecond" else -s) * raw
        found = view.denoised(alpha * x, level_of(model.sde, t, x))
    assert float((found - truth).norm() / truth.norm()) < 1e-5


class Runs:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: {"ema": Runs()}, "it wants to run posix.system, and nothing is run"),
        (lambda: {"ema": Persistent("EDMPrecond", modules={"model": Persistent("DhariwalUNet")})}, "of a DhariwalUNet"),
        (lambda: {"ema": Persistent("OtherPrecond", modules={"model": Persistent("SongUNet")})}, "a OtherPrecond"),
        (lambda: {"G": 1}, "cannot read"),
        (lambda: [1], "cannot read"),
    ],
)
def test_anything_else_is_refused_in_one_line(tmp_path, monkeypatch, capsys, content, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content()))
    assert main(["import-checkpoint", "a.pkl", "--out", "ck"]) == 3
    err = capsys.readouterr().err
    assert (words in err, err.count("\n"), (tmp_path / "ran").exists(), (tmp_path / "ck").exists()) == (
        True, 1, False, False
    ), err  # fmt: skip


@pytest.mark.usefixtures("theirs")
def test_damage_is_one_line_or_another_model(tmp_path, capsys):
    _, _, *how, _ = CASES["DDPM++"]
    stored(tmp_path / "a.pkl", "EDMPrecond", weights(how[1], how[2], how[3], 3, 0), arguments(*how))
    whole, place = (tmp_path / "a.pkl").read_bytes(), torch.Generator().manual_seed(0)
    for seed in range(40):
        data = bytearray(whole)
        for at in torch.randint(len(data) if seed % 2 else 600, (3,), generator=place).tolist():
            data[at] = (data[at] + 1 + seed) % 256
        (tmp_path / "b.pkl").write_bytes(data[: len(data) // 2] if seed % 5 == 0 else data)
        code = main(["import-checkpoint", str(tmp_path / "b.pkl"), "--out", str(tmp_path / f"ck{seed}")])
        err = capsys.readouterr().err
        assert code in (0, 2, 3), (seed, err)
        assert err.count("\n") == (code != 0), (seed, err)


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize("code", [pickle.BINBYTES8, pickle.BINUNICODE8, pickle.BYTEARRAY8, pickle.FRAME])
def test_a_wild_length_reserves_no_memory(tmp_path, capsys, code):
    (tmp_path / "a.pkl").write_bytes(pickle.PROTO + b"\x05" + code + (2**44).to_bytes(8, "little") + b"ema")
    assert main(["import-checkpoint", str(tmp_path / "a.pkl"), "--out", str(tmp_path / "ck")]) == 3
    assert "cannot read" in capsys.readouterr().err
