"""``scoresde export``: one set of weights, in as many bits as asked."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from scoresde_core.errors import UsageError
from scoresde_core.registry import load_registry
from scoresde_plugins.commands.export import shortened
from scoresde_run.commands.shell import main
from scoresde_run.models import checkpoint
from scoresde_run.models.model import plan_model

REGISTRY = load_registry()
SMALL = [
    "model.network.nf=8",
    "model.network.ch_mult=[1,2]",
    "model.shape=[1,8,8]",
    "model.network.attn_resolutions=[4]",
]


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A VE model, with a table of noise scales and Fourier frequencies, and its averages, in ``run``."""
    monkeypatch.chdir(tmp_path)
    model = plan_model(REGISTRY.create("presets", "mnist_ve").override(SMALL), REGISTRY).build(seed=2)
    generator = torch.Generator().manual_seed(6)
    trained = {name: p for name, p in model.network.named_parameters() if p.requires_grad}
    averages = {name: torch.randn(p.shape, generator=generator) for name, p in trained.items()}
    return checkpoint.save("run", model.config, model.network.state_dict(), averages, step=9, provenance={"by": "me"})


def export(*arguments):
    return main(["export", "--checkpoint", "run", "--out", "out", *arguments])


def weights_of(found, ema=None):
    return found.load(REGISTRY, ema).network.state_dict()


@pytest.mark.parametrize(
    ("arguments", "ema"), [((), True), (("--weights", "ema"), True), (("--weights", "raw"), False)]
)
def test_float32_is_exact_and_is_all_there_is(stored, arguments, ema):
    assert export(*arguments) == 0
    found = checkpoint.read("out")
    assert (found.step, found.config, found.provenance["by"]) == (9, stored.config, "me")
    expected, got = weights_of(stored, ema), weights_of(found)
    assert list(got) == list(expected)
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    assert sorted(path.name for path in Path("out").iterdir()) == ["model.yaml", "weights.safetensors"]
    assert not found.uses_ema()


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_averages_are_known_as_such_when_exported_again(stored, weights):
    assert export("--weights", weights) == 0
    assert main(["export", "--checkpoint", "out", "--dtype", "float16", "--out", "again"]) == 0
    assert checkpoint.read("again").provenance["exported"]["weights"] == weights


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_matrices_are_rounded_nothing_else_is_and_the_model_is_in_float32(stored, name):
    dtype = getattr(torch, name)
    assert export("--dtype", name) == 0
    parameters = {name: p for name, p in stored.load(REGISTRY).network.named_parameters() if p.ndim > 1}
    expected, got = weights_of(stored), weights_of(checkpoint.read("out"))
    for key, value in expected.items():
        rounded = value.to(dtype).float() if key in parameters else value
        assert (got[key].dtype, torch.equal(got[key], rounded)) == (value.dtype, True), key
    assert not set(expected) <= set(parameters)
    kept = load_file("out/weights.safetensors")
    assert {kept[key].dtype for key in parameters} == {dtype}
    numbers = sum(p.numel() for p in parameters.values())
    buffers = sum(t.numel() * t.element_size() for key, t in kept.items() if key not in parameters)
    size = Path("out/weights.safetensors").stat().st_size
    assert 2 * numbers + buffers <= size <= 2 * numbers + buffers + 120 * len(kept) + 200


@pytest.mark.parametrize(("name", "least"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_what_a_network_answers_is_rounded_no_more_than_its_weights(stored, name, least):
    """A Fourier frequency of 16 turns, rounded like a weight, would turn by a radian at the ends of the scales."""
    network = stored.load(REGISTRY).network
    x, sigma = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.logspace(-2, 1.6, 8)
    with torch.no_grad():
        truth = network(x, sigma)
        network.load_state_dict(shortened(network, getattr(torch, name)))
        assert (network(x, sigma) - truth).norm() / truth.norm() < 5 * least


def test_an_export_is_a_checkpoint_like_any_other(stored, capsys):
    assert export("--dtype", "float16") == 0
    assert "wrote out: scoresde sample --checkpoint out" in capsys.readouterr().out
    sampling = ["--sampler", "pc[predictor=ddim,steps=2]", "--n", "1"]
    assert main(["sample", "--checkpoint", "out", *sampling, "--out", "samples"]) == 0
    assert main(["export", "--checkpoint", "out", "--out", "again"]) == 0
    expected, got = weights_of(checkpoint.read("out")), weights_of(checkpoint.read("again"))
    assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_of_a_classifier_is_one_for_a_condition(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--checkpoint", "mnist_classifier", "--out", "out"]) == 0
    assert "wrote out: the condition class[checkpoint=out]" in capsys.readouterr().out
    shipped, again = checkpoint.find("mnist_classifier", REGISTRY), checkpoint.read("out")
    expected, got = (c.load(REGISTRY, outputs=None).network.state_dict() for c in (shipped, again))
    assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_what_float16_cannot_hold_is_refused_and_bfloat16_can(stored):
    network = stored.load(REGISTRY).network
    with torch.no_grad():
        network.get_parameter("all_modules.1.weight").view(-1)[0] = -1e5
    with pytest.raises(
        UsageError, match=r"has a weight of 1e\+05, beyond torch.float16: export as float32 or bfloat16"
    ):
        shortened(network, torch.float16)
    assert all(value.isfinite().all() for value in shortened(network, torch.bfloat16).values())


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--checkpoint", "run", "--out", "run"], 3, "run exists: choose another --out"),
        (["--checkpoint", "mnist_vq", "--out", "out"], 3, "Did you mean 'mnist_vp'"),
        (["--checkpoint", "run", "--out", "out", "--dtype", "int8"], 2, "invalid choice: 'int8'"),
        (["--checkpoint", "run", "--out", "no/out"], 3, "make it first"),
    ],
    ids=["exists", "no checkpoint", "dtype", "no place"],
)
def test_refused_in_one_line_with_nothing_written(capsys, arguments, code, words):
    before = sorted(path.name for path in Path().iterdir())
    assert main(["export", *arguments]) == code
    assert words in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == before


def test_no_averages_to_export(capsys, stored):
    assert export("--weights", "raw") == 0
    assert main(["export", "--checkpoint", "out", "--weights", "ema", "--out", "more"]) == 3
    assert "has no averaged weights" in capsys.readouterr().err
