"""The warm start: the exact flow of a Gaussian against its closed form, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from scoresde_core import ExactScore, Noise, create, sample, skip
from scoresde_core.errors import UsageError
from scoresde_plugins.few_steps.warm_start import WarmStartSampler
from scoresde_run.commands.shell import main

LAWS = ((0.5, 0.2), (-1.0, 1.5))
TARGET = "gaussian[shape=[2],mean=[0.5,-1.0],std=[0.2,1.5]]"


def model(sde, target=TARGET):
    return ExactScore(create("targets", target).to("cpu", torch.float64), create("sdes", sde))


class Still(create("samplers", "pc").__class__):
    """Returns the state where it starts, and keeps the process that it is given."""

    def run(self, x, model, noise, observe=None):
        object.__setattr__(self, "seen", model.sde)
        return x


@pytest.mark.parametrize(("sde", "until"), [("vp", 0.4), ("vp", 0.05), ("ve", 0.5), ("subvp", 0.3)])
def test_the_sampler_takes_over_at_the_exact_state(sde, until):
    still = Still()
    score = model(sde)
    found = sample(score, WarmStartSampler(create("targets", TARGET), until, still), 32, seed=2, dtype=torch.float64)
    process = score.sde
    x = process.prior.from_noise(Noise(2, (2,), 32, dtype=torch.float64).draw("prior", "prior"))
    first, last = (process.float_level(t) for t in (1.0, until))
    for k, (mean, std) in enumerate(LAWS):
        spread = [math.sqrt(level.alpha**2 * std**2 + level.sigma**2) for level in (first, last)]
        expected = last.alpha * mean + spread[1] / spread[0] * (x[:, k] - first.alpha * mean)
        torch.testing.assert_close(found.x[:, k], expected, atol=1e-3 * last.sigma, rtol=1e-4)
    assert (still.seen.t_max, still.seen.t_min) == (until, process.t_min)
    assert process.t_max == 1
    assert found.nfe == 0  # the exact flow is not the model's


@pytest.mark.parametrize("sde", ["vp", "cosine", "cld"])
def test_with_the_models_own_law_it_is_the_flow_all_the_way(sde):
    """Five steps from a small time are as good as many from the start; the model takes part in these five alone."""
    text = f"warm_start[target='{TARGET}',until=0.02,sampler=pc[predictor=dpmpp_2m,grid=logsnr,steps=5]]"
    found = sample(model(sde), create("samplers", text), 16, dtype=torch.float64)
    truth = sample(
        model(sde), create("samplers", "pc[predictor=dpmpp_2m,grid=logsnr,steps=500]"), 16, dtype=torch.float64
    )
    few = sample(model(sde), create("samplers", "pc[predictor=dpmpp_2m,grid=logsnr,steps=5]"), 16, dtype=torch.float64)
    assert found.nfe == 5
    assert float((found.x - truth.x).abs().mean()) < 0.05 * float((few.x - truth.x).abs().mean())


@pytest.mark.parametrize("until", [0.001, 1.0, 1.5, 0.0, -1.0])
def test_a_time_outside_of_the_process_is_refused(until):
    sampler = create("samplers", f"warm_start[target={TARGET},until={until},sampler=pc]")
    assert f"got {until:g}" in skip(sampler, create("sdes", "vp"), (2,))


def test_another_shape_or_a_known_class_is_refused():
    sampler = create("samplers", "warm_start[target=mnist_mfa,until=0.4,sampler=pc[steps=5]]")
    with pytest.raises(UsageError, match=r"\(1, 28, 28\), the model of shape \(2,\)"):
        sample(model("vp"), sampler, 2)
    digits = model("vp", "mnist_mfa")
    with pytest.raises(UsageError, match="not of the class"):
        sample(digits.given(**{"class": torch.tensor([3])}), sampler, 2)


def test_what_the_sampler_refuses_is_refused():
    sde = create("sdes", "vp")
    sampler = create("samplers", f"warm_start[target={TARGET},until=0.4,sampler=pc[predictor=none]]")
    assert "move nothing" in skip(sampler, sde, (2,))
    nonlinear = create("sdes", "double_well")
    sampler = create("samplers", f"warm_start[target={TARGET},until=0.4,sampler=ode]")
    assert "no exact score" in skip(sampler, nonlinear, (2,))


def test_the_options_of_sample_make_the_sampler(tmp_path, capsys):
    steps, command = "pc[predictor=ddim,steps=3]", ["sample", "--target", TARGET, "--n", "4", "--sampler"]
    ways = {
        "sampler": [f"warm_start[target={TARGET},until=0.4,sampler={steps}]"],
        "options": [steps, "--warm-start", TARGET, "--until", "0.4"],
        "default": [steps, "--warm-start", TARGET],
    }
    for name, words in ways.items():
        assert main([*command, *words, "--out", str(tmp_path / name)]) == 0
    found = {name: np.load(tmp_path / name / "samples.npz")["floats"] for name in ways}
    assert np.array_equal(found["sampler"], found["options"])
    assert "until=0.3" in (tmp_path / "default" / "sampling.yaml").read_text()
    assert main([*command, steps, "--until", "0.4", "--out", str(tmp_path / "none")]) == 2
    assert "--until ends a warm start: give --warm-start X as well" in capsys.readouterr().err
