"""Holds posterior methods to azula, deepinv and diffusers (pip install azula einops tqdm deepinv diffusers).

    python tests/long/posterior_beside_libraries.py

A row has a method, a library, what is compared with the same score and noise, and the largest difference; deepinv
takes float32. The problem is a mixture in the plane with two measurements, or its first coordinate, under noise 0.3.
"""

import math
import tempfile
from importlib.metadata import version
from itertools import pairwise
from unittest.mock import patch

import azula.guidance as azula
import deepinv
import numpy as np
import torch
from azula import denoise, noise
from azula.linalg.covariance import IsotropicCovariance
from deepinv.sampling import noisy_datafidelity
from diffusers import RePaintScheduler
from scoresde import ConditionedSampler, ExactScore, Grid, Level, Noise, Schedule, create
from scoresde_core import Step
from scoresde_plugins.posterior.method import Look, _Settled
from scoresde_plugins.posterior.smcdiff import Particles
from scoresde_plugins.posterior.tds import _Twisted
from scoresde_plugins.song2021.samplers import PredictorCorrectorSampler

R, F64 = 0.3, torch.float64
TARGET = create("targets", "mixture2d[layout=grid,components=4,radius=1.5,std=0.4,weights=[0.4,0.1,0.1,0.4]]")
VP, VE = create("sdes", "vp"), create("sdes", "ve[sigma_min=0.01,sigma_max=10]")
MATRIX = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=F64)
MASK = f"linear[operator=mask,noise={R}]"
TIMES = torch.tensor([0.05, 0.3, 0.7], dtype=F64)
LOOP = torch.linspace(1, 0.02, 51, dtype=F64)
ANCESTRAL = "ddim[eta=1]"


class Levels(noise.Schedule):
    def __call__(self, t):
        return VP.alpha(t), VP.sigma(t)


class Denoiser(denoise.Denoiser):
    """The exact E[x_0 | x_t] for azula."""

    schedule = Levels()

    def forward(self, x, t):
        return denoise.DiracPosterior(mean=expected(x, Level(float(t), *map(float, self.schedule(t)))))


def expected(x, level):
    return (x + level.sigma**2 * TARGET.score(x, level)) / level.alpha


def picture(x, sigma, *_, **__):
    """E[x_0 | x_0 + sigma z] of pictures (n, 1, 1, 2), for deepinv."""
    sigma = float(torch.as_tensor(sigma).flatten()[0])
    return expected(x.reshape(-1, 2).to(F64), Level(0.5, 1.0, sigma)).reshape(x.shape).to(x.dtype)


def observed(text, y):
    """What the method ``text`` knows of ``y`` by its condition."""
    method = create("conditions", text)
    return method.given(method.condition.given(y, (2,)))


class Problem:
    """The matrix as a condition, and y (5, 2) of five states."""

    def __init__(self, folder):
        np.save(f"{folder}/m.npy", MATRIX.numpy())
        self.matrix = f"linear[operator=matrix[path={folder}/m.npy],noise={R},smallest=1e-9]"
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(5, 2, generator=generator, dtype=F64)
        self.y = torch.tensor([[0.4, -0.2]], dtype=F64).expand(5, 2)
        self.z = torch.randn(500, 1, 2, generator=generator, dtype=F64)


def measure(x):
    return x @ MATRIX.T


def first(x):
    return x[:, :1]


def ours(observation, x, t):
    """The denoised state of a guided score."""
    level = VP.float_level(float(t))
    return (x + level.sigma**2 * observation.guide(ExactScore(TARGET, VP)).score(x, level)) / level.alpha


def gap(pairs):
    return max(float((a - b).abs().max()) for a, b in pairs)


class Queue:
    """Gives rows of fixed noise in turn, in place of a generator."""

    def __init__(self, z):
        self.rows = iter(z)

    def __call__(self, *_, **__):
        return next(self.rows).clone()


def loop(predictor, p):
    """The states of ``predictor`` along LOOP from the last row of noise."""
    x, states, queue, schedule = p.z[-1], [], Queue(p.z), Schedule(VP, LOOP)
    for k in range(len(LOOP) - 1):
        x = predictor.advance(x, schedule[k], ExactScore(TARGET, VP), queue, ())[0]
        states.append(x)
    return states


class Times(Grid):
    def __init__(self, times):
        self.all = torch.tensor(times, dtype=F64)

    def times(self, sde, steps):
        return self.all


class Rows(Noise):
    """The first draw imposes what is known of the start, which both sides are given; later ones are rows in turn."""

    def __init__(self, rows):
        super().__init__(0, (2,), 1, dtype=F64)
        self.queue = Queue(rows)

    def draw(self, step, purpose, draw=0):
        return self.queue()


def repaint(times, start, rows, p, rounds, jump):
    """The states after each step of a whole run from ``start``."""
    exact, states = create("conditions", "linear[operator=mask]").given(first(p.y[:1]), (2,)), []
    steps, high = len(times) - 1, VP.float_level(1.0)
    pc = PredictorCorrectorSampler(create("predictors", ANCESTRAL), grid=Times(times), steps=steps)
    noise = Rows([(start - high.alpha * p.y[:1]) / high.sigma, *rows])
    sampler = ConditionedSampler(pc, exact, rounds, jump)
    sampler.run(start, ExactScore(TARGET, VP), noise, lambda done, total, x: states.append(x.clone()))
    return states


def their_loop(sampler, p):
    x, states, queue = p.z[-1], [], Queue(p.z)
    with patch("torch.randn_like", queue):
        for k in range(len(LOOP) - 1):
            x = sampler.step(x, LOOP[k], LOOP[k + 1])
            states.append(x)
    return states


def with_azula(p):
    cov = IsotropicCovariance(torch.tensor(R**2, dtype=F64))
    rows = {
        "mmps, 2 iterations": (
            azula.MMPSDenoiser(Denoiser(), p.y, measure, cov, solver="cg", iterations=2),
            observed(f"mmps[condition={p.matrix},iterations=2]", p.y),
        ),
        "diffpir": (
            azula.DiffPIRDenoiser(Denoiser(), p.y, measure, R**2, lmbda=3.0, solver="cg", iterations=2),
            observed(f"diffpir[condition={p.matrix},weight=3]", p.y),
        ),
        "tmpd, mask": (
            azula.TMPDenoiser(Denoiser(), first(p.y), first, R**2),
            observed(f"tmpd[condition={MASK}]", first(p.y)),
        ),
        "tmpd, matrix": (
            azula.TMPDenoiser(Denoiser(), p.y, measure, R**2),
            observed(f"tmpd[condition={p.matrix}]", p.y),
        ),
    }
    for name, (theirs, mine) in rows.items():
        yield name, "denoised states", gap((theirs(p.x, t).mean, ours(mine, p.x, t)) for t in TIMES)
    dps = _Settled(observed(f"dps[condition={p.matrix},scale=0.1]", p.y[:1]), create("predictors", ANCESTRAL))
    theirs = their_loop(azula.DPSSampler(Denoiser(), p.y[:1], measure, zeta=0.1), p)
    yield "dps", "states of 50 steps", gap(zip(loop(dps, p), theirs, strict=True))
    yield "pigdm", "move of a step over alpha' alpha^2", pgdm(p)
    known = torch.tensor([True, False])
    theirs = their_loop(azula.RePaintSampler(Denoiser(), p.y[:1], known, iterations=3, eta=1.0), Interleaved(p))
    mine = repaint([*LOOP.tolist(), 0.0], p.z[-1], p.z, p, 3, 1)[2:150:3]
    yield "repaint", "states of 50 steps, 3 rounds", gap(zip(mine, theirs, strict=True))
    yield from tds(p)


class Interleaved(Problem):
    """The noise of azula's RePaint: also after the last round, where it is not used."""

    def __init__(self, p):
        self.x, self.y = p.x, p.y
        rows, spare = iter(p.z), torch.zeros(1, 2, dtype=F64)
        takes = [row for _ in range(50) for row in [*(next(rows) for _ in range(8)), spare]][:450]
        self.z = torch.stack([*takes, p.z[-1]])


def pgdm(p):
    """azula adds alpha' alpha J^T A^+ (y - A D) after a DDIM step; a score has it as alpha times our shift, r = 0."""
    mine = observed(f"pigdm[condition={p.matrix.replace(f'noise={R}', 'noise=0')}]", p.y)
    inverse = torch.linalg.pinv(MATRIX)
    sampler = azula.PGDMSampler(Denoiser(), p.y, measure, lambda y: y @ inverse.T, eta=0.0)
    pairs = []
    for t in TIMES:
        s, level, ahead = t - 0.02, VP.float_level(float(t)), VP.float_level(float(t) - 0.02)
        d = expected(p.x, level)
        plain = ahead.alpha * d + ahead.sigma / level.sigma * (p.x - level.alpha * d)
        move = (sampler.step(p.x, t, s) - plain) / (ahead.alpha * level.alpha**2)
        pairs.append((move, ours(mine, p.x, t) - d))
    return gap(pairs)


def tds(p):
    """Moves and weights of 5 particles along 50 steps. azula moves by more: its twist is told to move as ours does."""
    mine, inner = observed(f"tds[condition={MASK}]", first(p.y)), create("predictors", ANCESTRAL)
    run, schedule = Particles(Noise(0, (2,), 5, dtype=F64), 1, 0.0), Schedule(VP, LOOP)
    step, ratio = None, []

    def twist(d, s):
        log = -0.5 * (0.4 - d[:, :1]) ** 2 / (R**2 + s**2 / (1 + s**2))
        a, b, c, e = step.now.alpha, step.now.sigma, step.next.alpha, step.next.sigma
        ratio.append((c / a) * (b / e) ** 2)
        return log.detach() + (log - log.detach()) / ratio[-1]

    sampler, carry, x, other, off = azula.TDSSampler(Denoiser(), twist), {}, p.x, p.x, 0.0
    for k in range(len(LOOP) - 1):
        step, z = schedule[k], p.z[5 * k : 5 * k + 5, 0]
        x = _Twisted(mine, run, R**2, inner).advance(x, step, ExactScore(TARGET, VP), z.clone, ())[0]
        with (
            patch("torch.multinomial", lambda w, n, **_: torch.arange(n)),
            patch("torch.distributions.Normal.sample", lambda self, z=z: self.loc + self.scale * z),
        ):
            other = sampler.step(other, LOOP[k], LOOP[k + 1], carry)
        off = max(off, float((x - other).abs().max()), float((carry["log_w"] + run.owed).abs().max()))
    yield "tds", "states and weights of 50 steps, moves as ours", off
    print(f"(unscaled, azula's moves of tds are {min(ratio):.2f} to {max(ratio):.2f} times as long)")


class Plane(deepinv.physics.Inpainting):
    """The first of two pixels under noise."""

    def __init__(self):
        known = torch.tensor([[[1.0, 0.0]]])
        super().__init__((1, 1, 2), mask=known, noise_model=deepinv.physics.GaussianNoise(R))


def with_deepinv(p):
    physics, y, x = Plane(), torch.tensor([[[[0.4, 0.0]]]]).expand(5, 1, 1, 2), p.x.float().reshape(5, 1, 1, 2)
    for name, text, fidelity in (
        ("dps", f"dps[condition={MASK}]", noisy_datafidelity.DPSDataFidelity(picture)),
        ("pigdm", f"pigdm[condition={MASK}]", noisy_datafidelity.PiGDMDataFidelity(picture)),
        ("mmps", f"mmps[condition={MASK}]", noisy_datafidelity.MomentMatchingDataFidelity(picture)),
    ):
        pairs = []
        for sigma in (0.1, 0.5, 2.0):
            level, mine = Level(0.5, 1.0, sigma), observed(text, first(p.y))
            theirs = fidelity.grad(x.clone(), y, physics, torch.tensor(sigma))
            look = Look(ExactScore(TARGET, VE), x.reshape(5, 2).to(F64), level, mine)
            if name == "dps":
                move = mine.method.settle(look, None, look.x * 0, look.x * 0, None)[0]
            else:
                move = mine.method.shift(look) / sigma**2
            pairs.append((-theirs.reshape(5, 2).to(F64), move))
        yield name, "gradients of the likelihood, VE", gap(pairs)
    yield "ddrm", "known entries of 50 steps, its noise times sqrt(2)", ddrm(physics, y)
    yield "diffpir", "prox of 20 steps, weight = lambda / 2", diffpir(physics, y)


def ddrm(physics, y):
    """Each state that its denoiser sees, against ours from the one before."""
    sigmas, z = np.linspace(8, 0.05, 51), torch.randn(51, 1, 1, 1, 2, generator=torch.Generator().manual_seed(3))
    seen, queue = [], Queue(math.sqrt(2) * z)

    def spy(x, sigma):
        seen.append(x.reshape(1, 2).to(F64))
        return picture(x, sigma)

    with patch("torch.randn_like", queue):
        deepinv.sampling.DDRM(spy, sigmas, eps=0.0)(y[:1], physics)
    mine, model, pairs = (
        observed(f"ddrm[condition={MASK}]", torch.tensor([[0.4]], dtype=F64)),
        ExactScore(TARGET, VE),
        [],
    )
    for k in range(50):
        now, ahead = (Level(0.5, 1.0, float(sigmas[i])) for i in (k, k + 1))
        step = Step(k, 50, now, ahead, 1.0, sde=VE)
        look = Look(model, seen[k], now, mine)
        drawn = mine.method.settle(look, step, seen[k + 1], seen[k + 1], z[k + 1].reshape(1, 2).to(F64).clone)[0]
        pairs.append((drawn, seen[k + 1]))
    return gap(pairs)


def diffpir(physics, y):
    """Its prox in [0, 1], against our shift in [-1, 1], where y is 2 y - 1 and noise twice as large."""
    pairs, fidelity, levels = [], deepinv.optim.data_fidelity.L2(), []

    class Spy:
        def prox(self, x, y, physics, gamma):
            found = fidelity.prox(x, y, physics, gamma=gamma)
            twice = create("conditions", f"diffpir[condition=linear[operator=mask,noise={2 * R}],weight=3.5]")
            known = twice.condition.given(torch.tensor([[2 * 0.4 - 1]], dtype=F64), (2,))
            state = (2 * x - 1).reshape(1, 2).to(F64)
            look = Look(ExactScore(TARGET, VE), state, Level(0.5, 1.0, levels[-1]), twice.given(known))
            look.off = torch.where(known.known, known.values - known.seen(state), 0.0)
            pairs.append(((2 * found - 1).reshape(1, 2).to(F64), state + twice.shift(look)))
            return found

    def model(x, sigma):
        levels.append(2 * float(sigma))
        return picture(x, sigma)

    deepinv.sampling.DiffPIR(model, Spy(), sigma=R, max_iter=20, lambda_=7.0)(y[:1], physics, seed=1)
    return gap(pairs)


def with_diffusers(p):
    """Its steps and ways back in the published order; a step has one draw for both parts, a jump ten for our one."""
    scheduler = RePaintScheduler(50, eta=1.0, clip_sample=False)
    scheduler.set_timesteps(50, jump_length=10, jump_n_sample=4)
    alphas, known = VP.alpha(LOOP[:50].flip(0)) ** 2, torch.tensor([[1.0, 0.0]], dtype=F64)
    scheduler.alphas_cumprod, scheduler.betas = alphas, 1 - alphas / torch.cat([torch.ones(1, dtype=F64), alphas[:-1]])
    rows, used, added, other, theirs = iter(p.z), [], [], p.z[-1], []
    for now, then in pairwise([*scheduler.timesteps.tolist(), -1]):
        z = next(rows)
        with patch("diffusers.schedulers.scheduling_repaint.randn_tensor", lambda *_, z=z, **__: z):
            if then > now:
                beta = scheduler.betas[then]
                added = [((1 - b) ** 0.5 * w, u) for (w, u), b in ((entry, beta) for entry in added)] + [(beta**0.5, z)]
                other = scheduler.undo_step(other, then)
                continue
            if added:
                std = sum(w**2 for w, _ in added) ** 0.5
                used, added = [*used, sum(w * u for w, u in added) / std], []
            level = VP.float_level(float(LOOP[49 - now]))
            eps = (other - level.alpha * expected(other, level)) / level.sigma
            other, used = scheduler.step(eps, now, other, p.y[:1], known).prev_sample, [*used, z, z]
        theirs.append(other)
    mine = repaint([*LOOP[:50].tolist(), 0.0], p.z[-1], used, p, 4, 10)
    yield "repaint", f"states of {len(theirs)} steps, jumps of 10, 4 rounds", gap(zip(mine, theirs, strict=True))


def main():
    print("| method | library | compared | largest difference |")
    print("|---|---|---|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for library, rows in (("azula", with_azula), ("deepinv", with_deepinv), ("diffusers", with_diffusers)):
            for name, what, off in rows(Problem(folder)):
                print(f"| {name} | {library} {version(library)} | {what} | {off:.1e} |", flush=True)


if __name__ == "__main__":
    main()
