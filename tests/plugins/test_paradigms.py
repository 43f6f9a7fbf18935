"""Picard sweeps end at the steps in turn, in fewer calls of the model, and count both."""

import pytest
import torch
from scoresde_core import ExactScore, UsageError, create, sample
from scoresde_core.noise import Noise

TARGET = create("targets", "mixture2d")
DETERMINISTIC = ("ddim", "heun", "dpm_solver_2")
STOCHASTIC = ("ddim[eta=1]", "reverse_diffusion", "euler_maruyama", "ancestral_sampling")


def model(sde="vp"):
    return ExactScore(TARGET, create("sdes", sde))


@pytest.mark.parametrize("sde", ["vp", "ve", "rectified_flow"])
@pytest.mark.parametrize("predictor", [*DETERMINISTIC, *STOCHASTIC])
def test_without_tolerance_it_is_the_steps_in_turn(predictor, sde):
    how = f"predictor={predictor},steps=12"
    try:
        expected = sample(model(sde), create("samplers", f"pc[{how}]"), 16, dtype=torch.float64)
    except UsageError:
        with pytest.raises(UsageError):
            sample(model(sde), create("samplers", f"paradigms[{how}]"), 16)
        return
    for window in (1, 6) if sde == "vp" else (6,):
        sampler = create("samplers", f"paradigms[{how},window={window},tolerance=0]")
        found = sample(model(sde), sampler, 16, dtype=torch.float64)
        torch.testing.assert_close(found.x, expected.x, rtol=0, atol=1e-9)
        assert found.calls <= expected.calls
        assert found.nfe >= expected.nfe
        if window == 1:
            assert (found.calls, found.nfe) == (expected.calls, expected.nfe)


def test_the_error_falls_with_the_tolerance_and_the_calls_grow():
    expected = sample(model(), create("samplers", "pc[predictor=ddim,steps=100]"), 64)
    errors, calls = [], []
    for tolerance in (0.1, 0.01, 0.001):
        found = sample(
            model(), create("samplers", f"paradigms[predictor=ddim,steps=100,window=32,tolerance={tolerance}]"), 64
        )
        errors.append(float((found.x - expected.x).square().mean().sqrt()))
        calls.append(found.calls)
    assert 0.05 > errors[0] > 4 * errors[1] > 16 * errors[2]
    assert calls[0] < calls[1] < calls[2] < expected.calls / 2


@pytest.mark.parametrize("tolerance", [0.02, 0.1, 0.5])
def test_a_window_moves_on_past_states_that_change_by_less_than_a_share_of_the_noise(tolerance):
    """Algorithm 1 by hand for the first-order step of the flow, which is y + (s' - s) eps for y = x / alpha."""
    score, window, steps = model("ve"), 5, 14
    times = create("grids", "logsnr").times(score.sde, steps)
    sigmas = [score.sde.float_level(float(t)).sigma for t in times[:-1]]
    x = score.sde.prior.from_noise(Noise(0, (2,), 6, dtype=torch.float64).draw("prior", "prior"))
    guess, k, expected = [x] * (window + 1), 0, []
    while k < steps - 1:
        levels = range(k, min(k + window, steps - 1))
        noises = [score.noise(guess[j - k], score.sde.float_level(float(times[j]))) for j in levels]
        moves = [(sigmas[j + 1] - sigmas[j]) * noise for j, noise in zip(levels, noises, strict=True)]
        new = [guess[0] + sum(moves[:n], torch.zeros(())) for n in range(len(moves) + 1)]
        passed = 1
        for j in range(2, len(new)):
            change = (new[j] - guess[j]).square().mean(1).sqrt().max()
            if change > tolerance * sigmas[k + j - 1]:
                break
            passed = j
        k += passed
        expected.append(k)
        guess = new[passed:] + [new[-1]] * window
    seen = []
    how = f"predictor=ddim,grid=logsnr,steps={steps},window={window},tolerance={tolerance}"
    create("samplers", f"paradigms[{how}]").run(
        x, score, Noise(0, (2,), 6, dtype=torch.float64), lambda done, total, _: seen.append(done)
    )
    assert seen == expected
    assert len(expected) < steps - 1


def test_every_row_of_every_sweep_is_counted():
    """A window of all 9 steps before the last: sweeps of 9 rows a sample less those that are settled, and the last."""
    watched = model()
    seen = []
    evaluate = watched.evaluate
    watched.evaluate = lambda x, level: seen.append(len(x)) or evaluate(x, level)
    sampler = create("samplers", "paradigms[predictor=ddim,steps=10,window=9]")
    found = sample(watched, sampler, 8)
    assert seen[0] == 9 * 8
    assert seen[-1] == 8
    assert (found.nfe, found.calls) == (sum(seen) / 8, len(seen))


def test_samples_know_their_own_classes():
    """Rows of a sweep are those of their samples."""
    known = model().given(**{"class": torch.arange(8) % 4})
    how = "predictor=ddim,steps=20"
    expected = sample(known, create("samplers", f"pc[{how}]"), 8).x
    found = sample(known, create("samplers", f"paradigms[{how},tolerance=0]"), 8).x
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_what_is_lost_ends_and_stays_lost():
    x = Noise(0, (2,), 4).draw("prior", "prior")
    x[1] = torch.nan
    sampler = create("samplers", "paradigms[predictor=ddim,steps=10]")
    found = sampler.run(x, model(), Noise(0, (2,), 4))
    assert found.isnan().any(1).tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("text", "words"),
    [("predictor=dpmpp_2m", "needs those before it"), ("predictor=none", "take another"), ("window=0", "window")],
)
def test_what_cannot_work_says_why(text, words):
    with pytest.raises(UsageError, match=words):
        sample(model(), create("samplers", f"paradigms[{text}]"), 4)
