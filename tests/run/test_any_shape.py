"""Events of any shape, by the commands of the README: train, resume, sample, evaluate, likelihood, export."""

from pathlib import Path

import numpy as np
import pytest
from runs import rows_in
from safetensors.numpy import load_file
from scoresde_run.commands.shell import main

UNET = "unet[nf=8,ch_mult=[1,2],num_res_blocks=1,attn_resolutions=[],dropout=0,parameterisation=v]"
MLP = "mlp[width=16,depth=1,parameterisation=v]"
SAMPLER = "pc[predictor=ddim,steps=2]"
KINDS = {
    "grey": ("mnist_vp", (1, 64, 48), "u1", UNET),
    "signals": ("moons_vp", (1, 256), "f4", UNET),
    "volumes": ("moons_vp", (1, 16, 16, 16), "f4", UNET),
    "tables": ("moons_vp", (7,), "f8", MLP),
    "uint16": ("mnist_vp", (1, 16, 24), "u2", UNET),
}


def events(shape, dtype):
    """Forty events: uniform grey levels, or normal floats."""
    generator = np.random.default_rng(0)
    if dtype[0] == "f":
        return generator.normal(3, 2, (40, *shape)).astype(dtype)
    return generator.integers(0, np.iinfo(dtype).max, (40, *shape[1:])).astype(dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_every_command(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preset, shape, dtype, network = KINDS[kind]
    values = events(shape, dtype)
    np.save(data := f"{kind}.npy", values)

    def train(folder, iterations):
        return main(["train", preset, f"data.dataset=array[path={data}]", f"model.shape={list(shape)}",
                     f"model.network={network}", "data.standardise=true", "training.batch_size=8",
                     "training.resume_every=2", f"sampling.sampler={SAMPLER}", "sampling.n=2",
                     f"training.iterations={iterations}", "--out", folder])  # fmt: skip

    def last(folder):
        return load_file(f"{folder}/models/step_000000004/weights.safetensors")

    assert [train("run", 2), train("run", 4), train("whole", 4)] == [0, 0, 0]
    resumed, whole = last("run"), last("whole")
    assert all((resumed[name] == whole[name]).all() for name in whole)

    assert main(["export", "--checkpoint", "run", "--out", "shipped"]) == 0
    drawn = []
    for source in ("run", "shipped"):
        draw = ["sample", "--checkpoint", source, "--sampler", SAMPLER, "--n", "3", "--out", f"of_{source}"]
        assert main(draw) == 0
        with np.load(f"of_{source}/samples.npz") as file:
            drawn.append(file["samples" if dtype[0] == "u" else "floats"])
    assert (drawn[0] == drawn[1]).all()
    # Grey levels are stored with channels last, as tools of pictures read them; floats as they came.
    assert drawn[0].shape == ((3, *shape[1:], 1) if dtype[0] == "u" else (3, *shape))
    assert drawn[0].dtype == np.dtype(dtype) or dtype[0] == "f"
    # So short a training leaves the samples near the mean of the data, in their units.
    assert abs(drawn[0].mean(dtype=float) - values.mean(dtype=float)) < values.std(dtype=float)

    reference = f"sliced_wasserstein[reference=array[path={data}]]"
    assert main(["evaluate", "run", "--loss", "--samples", "4", "--sampler", SAMPLER, "--evaluator", reference,
                 "--out", "measured"]) == 0  # fmt: skip
    assert [row["status"] for row in rows_in(Path("measured"))] == ["done"]

    bits = []
    for weights in ("run", "shipped"):
        assert main(["likelihood", "--checkpoint", weights, "--images", "2", "--rtol", "1e-2", "--atol", "1e-2",
                     "--out", f"bits_of_{weights}"]) == 0  # fmt: skip
        with np.load(f"bits_of_{weights}/likelihood.npz") as file:
            bits.append(file["bits_per_dim"][0])
    assert (bits[0] == bits[1]).all()
    # v is nearly 0, so the law of the model is normal, with the moments of the data: its cross-entropy is that entropy.
    entropy = np.log2(values.std(dtype=float)) + 0.5 * np.log2(2 * np.pi * np.e)
    assert bits[0] == pytest.approx(entropy, abs=0.35)
