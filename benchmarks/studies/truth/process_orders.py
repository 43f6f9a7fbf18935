"""Every process with every predictor: the order of convergence, and the std of whole runs on Gaussian data.

    python benchmarks/studies/truth/process_orders.py

Data are N(0, 1/4), with their exact score, so a run is an affine map of its start and its noises, and its law is known
without a sample: columns ``20`` and ``100`` are the error of the std after so many steps of ``pc`` from the prior on
the predictor's own grid, relative to 1/2. ``order`` is that of the conformance suite, from t_signal down to a noise of
half the signal; it is empty where all errors are rounding errors. The error of a whole run contains what the process
leaves at t_min and at t_max.
"""

import math
from itertools import product

import torch

from scoresde import ExactScore, Noise, create, default_registry
from scoresde_conformance.predictors import observed_order

STD = 0.5


class Rows(Noise):
    """Noise of which each draw is 1 in a row of its own, so that the rows are the responses to the draws."""

    drawn = 0

    def draw(self, step: int | str, purpose: str, draw: int = 0):
        z = torch.zeros(self.count, *self.shape, dtype=self.dtype)
        z[2 + self.drawn : 3 + self.drawn] = 1
        self.drawn += 1
        return z


def std_after(sde, predictor: str, steps: int) -> float:
    target = create("targets", f"gaussian[shape=[1],mean=0,std={STD}]").to("cpu", torch.float64)
    sampler = create("samplers", f"pc[predictor={predictor},steps={steps}]")
    x = torch.zeros(2 + 3 * steps, 1, dtype=torch.float64)
    x[1] = 1
    ends = sampler.run(x, ExactScore(target, sde), Rows(0, (1,), len(x), dtype=torch.float64))
    moved = (ends[1:] - ends[0]).squeeze(1)
    return math.sqrt((sde.prior.std * float(moved[0])) ** 2 + float(moved[1:].square().sum()))


def main() -> None:
    print(f"{'process':16} {'predictor':20} {'declared':>8} {'order':>6} {'20':>9} {'100':>9}")
    names = [[entry.row.name for entry in default_registry().entries(kind)] for kind in ("sdes", "predictors")]
    for process, name in product(*names):
        sde, predictor = create("sdes", process), create("predictors", name)
        if predictor.order is None or predictor.skip(sde):
            continue
        order, _ = observed_order(predictor, sde)
        errors = [std_after(sde, name, steps) / STD - 1 for steps in (20, 100)]
        shown = "" if math.isnan(order) else f"{order:.2f}"
        print(f"{process:16} {name:20} {predictor.order:8g} {shown:>6} {errors[0]:+9.5f} {errors[1]:+9.5f}")


if __name__ == "__main__":
    main()
