"""Holds posterior methods to those of azula (pip install azula einops tqdm), in float64 with the same score and noise.

    python tests/long/posterior_beside_libraries.py

Prints the largest difference of the denoised states at three levels, and for DPS of the samples of a loop of 50 steps.
"""

import tempfile

import numpy as np
import torch
from azula import denoise, guidance, noise
from azula.linalg.covariance import IsotropicCovariance
from scoresde import ExactScore, Level, Schedule, create
from scoresde_plugins.posterior.diffpir import DiffPIR
from scoresde_plugins.posterior.dps import DPS
from scoresde_plugins.posterior.method import _Settled
from scoresde_plugins.posterior.mmps import MMPS
from scoresde_plugins.posterior.tmpd import TMPD

R = 0.3
TARGET = create("targets", "mixture2d[layout=grid,components=4,radius=1.5,std=0.4,weights=[0.4,0.1,0.1,0.4]]")
SDE = create("sdes", "vp")
MATRIX = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64)
Y = torch.tensor([[0.4, -0.2]], dtype=torch.float64).expand(5, 2)


class Levels(noise.Schedule):
    def __call__(self, t):
        return SDE.alpha(t), SDE.sigma(t)


class Denoiser(denoise.Denoiser):
    schedule = Levels()

    def forward(self, x, t):
        level = Level(float(t), *map(float, self.schedule(t)))
        return denoise.DiracPosterior(mean=(x + level.sigma**2 * TARGET.score(x, level)) / level.alpha)


def measure(x):
    return x @ MATRIX.T


def denoised(observed, x, t):
    level = SDE.float_level(float(t))
    score = observed.guide(ExactScore(TARGET, SDE)).score(x, level)
    return (x + level.sigma**2 * score) / level.alpha


def dps_loop(condition, n=50):
    """The largest difference of the states at the end of ``n`` steps with the same noise."""
    generator = torch.Generator().manual_seed(1)
    times = torch.linspace(1, 0.02, n + 1, dtype=torch.float64)
    z = torch.randn(n + 1, 1, 2, generator=generator, dtype=torch.float64)
    theirs = guidance.DPSSampler(Denoiser(), Y[:1], measure, zeta=0.1)
    observed = DPS(condition=condition, scale=0.1).given(condition.given(Y[:1], (2,)))
    ours, schedule, randn_like = (
        _Settled(observed, create("predictors", "ddim[eta=1]")),
        Schedule(SDE, times),
        torch.randn_like,
    )
    one = other = z[n]
    for k in range(n):
        one = ours.advance(one, schedule[k], ExactScore(TARGET, SDE), lambda k=k: z[k].clone(), ())[0]
        torch.randn_like = lambda _, k=k: z[k]
        other = theirs.step(other, times[k], times[k + 1])
    torch.randn_like = randn_like
    return float((one - other).abs().max())


def main():
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, MATRIX.numpy())
        condition = create("conditions", f"linear[operator='matrix[path={file.name}]',noise={R},smallest=1e-9]")
        known, x = condition.given(Y, (2,)), torch.randn(5, 2, dtype=torch.float64)
        mask = create("conditions", f"linear[operator=mask,noise={R}]")
        first, covariance = mask.given(Y[:, :1], (2,)), IsotropicCovariance(torch.tensor(R**2, dtype=torch.float64))
        for t in torch.tensor([0.05, 0.3, 0.7], dtype=torch.float64):
            off = {}
            for k in (1, 2):
                theirs = guidance.MMPSDenoiser(Denoiser(), Y, measure, covariance, solver="cg", iterations=k)
                ours = MMPS(condition=condition, iterations=k).given(known)
                off[f"mmps, {k} iterations"] = theirs(x, t).mean - denoised(ours, x, t)
            theirs = guidance.DiffPIRDenoiser(Denoiser(), Y, measure, R**2, lmbda=3.0, solver="cg", iterations=2)
            off["diffpir"] = theirs(x, t).mean - denoised(DiffPIR(condition=condition, weight=3.0).given(known), x, t)
            theirs = guidance.TMPDenoiser(Denoiser(), Y[:, :1], lambda x: x[:, :1], R**2)
            off["tmpd, mask"] = theirs(x, t).mean - denoised(TMPD(condition=mask).given(first), x, t)
            theirs = guidance.TMPDenoiser(Denoiser(), Y, measure, R**2)
            off["tmpd, matrix"] = theirs(x, t).mean - denoised(TMPD(condition=condition).given(known), x, t)
            print(f"t = {float(t)}:", ", ".join(f"{name} {float(d.abs().max()):.1e}" for name, d in off.items()))
        print(f"dps, 50 steps: {dps_loop(condition):.1e}")


if __name__ == "__main__":
    main()
