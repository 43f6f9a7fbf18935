"""Samplers of other libraries and ours of the same paper have the same law, or differ for a known reason.

    python tests/plugins/test_same_paper.py [STEPS]

prints the table of docs/arena.md. For N(0, 1/4), whose exact score both get; ours visits the times at which theirs
asks for the score. Both laws are followed exactly, in double precision where the library computes in it.
"""

import sys

import attrs
import pytest
import torch
from scoresde_core import ExactScore, Grid, WrappedScore, create, skip
from scoresde_plugins.evaluators.moments import Affine

K, D, A = "k_diffusion[function={}]", "diffusers[scheduler={}]", "azula[sampler={}]"
CLIP, THIRD, SDE = (
    f",options={{{text}}}" for text in ("clip_sample=false", "solver_order=3", "algorithm_type=sde-dpmsolver++")
)
RHO = "deis[max_order={},variant=rhoab]"
AT_80, AT_1 = (1 + 80**-2) ** 0.5, 1 / create("sdes", "table").prior.std
"""Where theirs starts, in units of where ours does: diffusers at sqrt(80^2 + 1) for EDM, at 1 for tables of betas."""
PAIRS = [  # theirs, the process, our predictor, and the start of theirs
    (K.format("euler"), "edm", "ddim", 1),
    (K.format("heun"), "edm", "heun", 1),
    (K.format("dpm_2"), "edm", "dpm_solver_2", 1),
    (K.format("dpmpp_2m"), "edm", "dpmpp_2m", 1),
    (K.format("euler_ancestral"), "edm", "ddim[eta=1]", 1),
    (D.format("EDMEuler"), "edm", "ddim", AT_80),
    (D.format("EDMDPMSolverMultistep"), "edm", "dpmpp_2m", AT_80),
    (D.format("EDMDPMSolverMultistep" + THIRD), "edm", "dpmpp_3m", AT_80),
    (D.format("DDIM" + CLIP), "table", "ddim", AT_1),
    (D.format("DDPM" + CLIP), "table", "ancestral_sampling", 1),
    (D.format("EulerDiscrete"), "table", "ddim", 1),
    (D.format("EulerAncestralDiscrete"), "table", "ddim[eta=1]", 1),
    (D.format("HeunDiscrete"), "table", "heun", 1),
    (D.format("DPMSolverMultistep"), "table", "dpmpp_2m", AT_1),
    (D.format("DPMSolverMultistep" + THIRD), "table", "dpmpp_3m", AT_1),
    (D.format("DPMSolverMultistep" + SDE), "table", "dpmpp_2m_sde", 1),
    (D.format("UniPCMultistep"), "table", "unipc[max_order=2]", AT_1),
    (D.format("UniPCMultistep" + THIRD), "table", "unipc[max_order=3]", AT_1),
    (D.format("FlowMatchEulerDiscrete"), "rectified_flow", "ddim", 1),
    (A.format("DDIM"), "vp", "ddim", 1),
    (A.format("DDPM"), "vp", "ddim[eta=1]", 1),
    (A.format("zAB"), "vp", RHO.format(2), 1),
    (A.format("zAB,options={order=3}"), "vp", RHO.format(3), 1),
    (A.format("Heun"), "vp", "heun", 1),
]
DIFFERENT = [  # theirs has another formula
    (D.format("DEISMultistep"), "table", RHO.format(2)),  # polynomials in log rho; the paper's are in rho or t
    (D.format("KDPM2Discrete"), "table", "dpm_solver_2"),  # midpoints between the timesteps, by interpolation
    (D.format("PNDM"), "table", "pndm"),  # the last step is linear multistep; ours is DDIM's
    (
        D.format("FlowMatchHeunDiscrete"),
        "rectified_flow",
        "heun",
    ),  # the trapezoidal rule in t; EDM's is in sigma / alpha
    (A.format("zEAB"), "vp", RHO.format(2)),  # as DEIS of diffusers
]


class Recorder(WrappedScore):
    """A score that keeps the times at which it is asked."""

    def __init__(self, model):
        super().__init__(model)
        self.times = set()

    def evaluate(self, x, level):
        self.times.add(float(level.t))
        return self.model.score(x, level)

    def evaluate_denoised(self, x, level):
        self.times.add(float(level.t))
        return self.model.denoised(x, level)


@attrs.frozen
class Times(Grid):
    """The times that theirs visits at the ends of its steps, and the last one."""

    visited: tuple

    def times(self, sde, steps):
        return torch.tensor(self.visited, dtype=torch.float64)


def law(sampler, model):
    """The std of its samples, followed in double precision, or in single where the library computes in that."""
    for dtype in (torch.float64, torch.float32):
        model.times.clear()
        found = Affine(sampler, model, model.sde.prior.from_noise, torch.empty(0, dtype=dtype)).law()
        if not isinstance(found, str):
            return float(found.covariance[0, 0]) ** 0.5
    raise ValueError(found)


@torch.no_grad()
def stds(text, process, predictor, steps):
    """The std of theirs and of ours."""
    sde, theirs = create("sdes", process), attrs.evolve(create("samplers", text), steps=steps)
    model = Recorder(ExactScore(create("targets", "gaussian[std=0.5]"), sde))
    if reason := skip(theirs, sde, (2,)):
        pytest.skip(reason)
    one = law(theirs, model)
    end = sde.t_min if text.startswith("azula") else 0.0
    visited = sorted({max(t, 1e-15) for t in model.times if t > end or not end}, reverse=True)
    between = len(visited) - steps
    visited = [*visited[: 2 * between : 2], *visited[2 * between :], end]
    ours = create("samplers", f"pc[predictor={predictor},steps={len(visited) - 1},denoise={str(not end).lower()}]")
    return one, law(attrs.evolve(ours, grid=Times(tuple(visited))), model)


@pytest.mark.parametrize(("text", "process", "predictor", "start"), PAIRS)
def test_the_laws_agree(text, process, predictor, start):
    theirs, ours = stds(text, process, predictor, 20)
    rel = 2e-6 if text.startswith("diffusers") else 1e-9  # tables in single precision; a last sigma of 0.002 in it
    assert theirs / start == pytest.approx(ours, rel=rel)


@pytest.mark.parametrize(("text", "process", "predictor"), DIFFERENT)
def test_another_formula_is_another_law(text, process, predictor):
    """If the library takes up ours, docs/arena.md has to say so."""
    theirs, ours = stds(text, process, predictor, 20)
    assert theirs != pytest.approx(ours, rel=1e-5)


if __name__ == "__main__":
    print("| theirs | process | ours | difference | error of theirs | of ours |\n|---|---|---|---:|---:|---:|")
    for text, process, predictor, *_ in PAIRS + DIFFERENT:
        one, two = stds(text, process, predictor, int(sys.argv[1]) if sys.argv[1:] else 40)
        print(
            f"| `{text}` | {process} | `{predictor}` | {abs(one / two - 1):.1e} | {one - 0.5:.5f} | {two - 0.5:.5f} |"
        )
