"""SDEdit: samples that start from noised events have the posterior that follows, for every sampler."""

import math

import pytest
import torch
from scoresde import ExactScore, create, default_registry, sample
from scoresde_core.errors import UsageError
from scoresde_run.commands.shell import main
from scoresde_run.sampling.start import start_from

GAUSSIAN = create("targets", "gaussian[shape=[2],std=0.5]").to("cpu", torch.float64)
SAMPLERS = ["ode[method=rk4,steps=40]", "adaptive_sde[rel_tol=0.01,abs_tol=0.01]",
            *(f"pc[predictor={e.row.name},steps=200]" for e in default_registry().entries("predictors")
              if e.owner == "scoresde" and e.row.name != "none")]  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("sde", ["vp", "rectified_flow", "per_channel"])
def test_samples_have_the_posterior_of_the_noised_event(sde, sampler):
    """For an event m and data N(0, s^2): x_t0 ~ N(alpha m, sigma^2), of which samples have the posterior.

    Its mean is k alpha m, k = alpha s^2 / (alpha^2 s^2 + sigma^2); its variance k^2 sigma^2 and that of x_0 given
    x_t0. Flows keep the quantile: k = s / sqrt(alpha^2 s^2 + sigma^2), and no second variance.
    """
    process = create("sdes", sde)
    model = ExactScore(GAUSSIAN, process)
    loop = create("samplers", sampler)
    if sde == "per_channel" and (process.form not in loop.serves or loop.skip_model(model)):
        pytest.skip("serves one alpha and sigma alone")
    event, n, t = torch.tensor([[2.0, -1.0]], dtype=torch.float64), 2000, 0.4
    started, latent = start_from(model, event.expand(n, 2).clone(), t, seed=5)
    x = sample(started, loop, n, latent=latent, seed=6, dtype=torch.float64).x
    level = process.level_at(t, event)
    alpha, sigma = (torch.as_tensor(v, dtype=torch.float64).reshape(-1).expand(2) for v in (level.alpha, level.sigma))
    var = (0.5 * alpha) ** 2 + sigma**2
    stochastic = any(name in sampler for name in STOCHASTIC)
    gain = 0.25 * alpha / var if stochastic else 0.5 / var.sqrt()
    error = 4 * 0.5 / math.sqrt(n) + 0.01
    torch.testing.assert_close(x.mean(0), gain * alpha * event[0], atol=error, rtol=0.03)
    spread = (gain * sigma).square() + (0.25 * sigma.square() / var if stochastic else 0)
    torch.testing.assert_close(x.std(0), spread.sqrt(), atol=error, rtol=0.03)


STOCHASTIC = (
    "reverse_diffusion",
    "euler_maruyama",
    "ancestral",
    "2m_sde",
    "3m_sde",
    "sa_solver",
    "seeds",
    "adaptive_sde",
)


def test_a_start_near_the_data_keeps_the_event():
    model, x = ExactScore(GAUSSIAN, create("sdes", "vp")), torch.randn(20, 2, dtype=torch.float64) * 0.5

    def distance(t):
        started, latent = start_from(model, x, t)
        loop = create("samplers", "pc[predictor=ddim,steps=20]")
        return float((sample(started, loop, 20, latent=latent, dtype=torch.float64).x - x).norm())

    assert distance(0.02) < 0.5 < distance(0.3) < distance(1.0)


def test_times_and_processes_that_cannot_start_are_refused():
    model = ExactScore(GAUSSIAN, create("sdes", "vp"))
    x = torch.zeros(2, 2, dtype=torch.float64)
    for t in (0.0, 1.5):
        with pytest.raises(UsageError, match=r"a time above 0\.001 and at most 1, got"):
            start_from(model, x, t)
    with pytest.raises(UsageError, match="CriticallyDampedSDE has the form blocks"):
        start_from(ExactScore(GAUSSIAN, create("sdes", "cld")), x, 0.5)


def test_the_command_starts_from_events(tmp_path, capsys):
    words = ["sample", "--target", "mixture2d", "--n", "4", "--device", "cpu", "--steps", "10"]
    started = ["--start-from", "exact[target=mixture2d]", "--t-start", "0.1", "--index", "3"]
    assert main([*words, "--out", str(tmp_path / "a"), *started]) == 0
    assert main([*words, "--out", str(tmp_path / "b"), "--t-start", "0.1"]) == 2
    assert "--t-start needs events to start from: give --start-from X" in capsys.readouterr().err
    import numpy as np

    found = torch.from_numpy(np.load(tmp_path / "a" / "samples.npz")["floats"])
    event = create("datasets", "exact[target=mixture2d]").load("test")[3]
    assert float((found - event).norm(dim=1).max()) < 1.5


def test_events_that_changed_are_another_request(tmp_path, capsys):
    """The same command after success is done; with other events in the file it does not answer with the old ones."""
    import numpy as np

    words = [
        "sample",
        "--target",
        "mixture2d",
        "--n",
        "2",
        "--device",
        "cpu",
        "--steps",
        "5",
        "--out",
        str(tmp_path / "o"),
    ]
    words += ["--start-from", str(tmp_path / "x.npz")]
    codes = []
    for value in (0.1, 0.1, 0.5):
        np.savez(tmp_path / "x.npz", floats=np.full((2, 2), value, np.float32))
        codes.append(main(words))
    assert codes[:2] == [0, 0]
    assert codes[2] != 0, capsys.readouterr()
