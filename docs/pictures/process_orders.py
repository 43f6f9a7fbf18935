"""Every process with every predictor: the order of convergence, and the std of whole runs on Gaussian data.

    python docs/pictures/process_orders.py

Data are N(0, 1/4) in each entry, with their exact score, so a run is an affine map of its start and its noises, and its
law is known without a sample: columns ``20`` and ``100`` are the error of the std after so many steps of ``pc`` from
the prior on the predictor's own grid, at t_min, relative to the exact one; of several entries the largest. A process
that moves to an observation is given y = 0.5, with noise of 0.4. ``order`` is that of the conformance suite, from
t_signal down to a noise of half the signal; it is empty where all errors are rounding errors. The error of a whole run
contains what the process leaves at t_max. Of blurring it takes three frequencies.
"""

import math
from itertools import product

import torch
from scoresde import ScoreModel, create, default_registry
from scoresde_conformance.affine import entries_of, law
from scoresde_conformance.predictors import observed_order
from scoresde_core import Schedule, unserved
from scoresde_plugins.linear.diagonal import DiagonalSDE

STD, NOISE = 0.5, 0.4
EXACT = torch.float64


class Frequencies(DiagonalSDE):
    """Three frequencies of blurring as a vector: its frame has no other coupling."""

    def __init__(self, sde):
        self.sde, self.t_min = sde, sde.t_min

    def alpha(self, t):
        return self.sde.alpha(t).flatten(t.ndim)[..., [0, 3, -1]]

    def sigma(self, t):
        return self.sde.sigma(t).flatten(t.ndim).expand(*t.shape, 3)


class Given(ScoreModel):
    """The exact score in the frame, with the same observation for any number of rows."""

    def __init__(self, target, sde):
        self.target, self.sde, self.shape = target, sde, target.shape

    def evaluate(self, x, level):
        target = self.target.given(torch.full_like(x, 0.5)) if self.sde.needs else self.target
        return self.sde.score_of(target, x, level)

    def evaluate_denoised(self, x, level):
        return torch.zeros_like(x)


def std_error(sde, predictor, steps):
    entries, left = entries_of(sde) or 1, STD
    text = f"gaussian[shape=[{entries}],mean=0,std={STD}]"
    if sde.needs:
        text, left = f"observed[of={text},noise={NOISE}]", (1 / STD**2 + 1 / NOISE**2) ** -0.5
        sde = sde.given(y=torch.full((1, entries), 0.5, dtype=EXACT))
    x = torch.zeros(1, entries * sde.parts, dtype=EXACT)
    start = sde.prior.from_noise(x)[0]
    spread = (sde.prior.from_noise(x + 1)[0] - start).square().diag()
    run = Schedule(sde, predictor.grid.times(sde, steps), x).steps[:-1]
    _, found = law(predictor, Given(create("targets", text).to("cpu", EXACT), sde), run, start, spread)
    last = run[-1].next
    unit = torch.eye(len(start), dtype=EXACT)
    exact = (last.alpha * unit[:entries] * left).square().sum(0) + (unit * last.sigma).square().sum(0)
    return max((found.diagonal().sqrt() / exact.sqrt() - 1)[:entries].tolist(), key=abs)


print(f"{'process':16} {'predictor':20} {'declared':>8} {'order':>6} {'20':>9} {'100':>9}")
names = [[entry.row.name for entry in default_registry().entries(kind)] for kind in ("sdes", "predictors")]
for process, name in product(*names):
    sde, predictor = create("sdes", process), create("predictors", name)
    sde = Frequencies(sde) if process == "blurring" else sde
    refused = unserved(predictor, sde) or predictor.skip(sde) or not entries_of(sde) or sde.form == "nonlinear"
    if refused or predictor.order is None:
        continue
    order, _ = observed_order(predictor, sde)
    errors = [std_error(sde, predictor, steps) for steps in (20, 100)]
    shown = "" if math.isnan(order) else f"{order:.2f}"
    print(f"{process:16} {name:20} {predictor.order:8g} {shown:>6} {errors[0]:+9.5f} {errors[1]:+9.5f}", flush=True)
