"""The trapezoidal rule on the probability flow, as Heun's method (Karras et al. 2022, arXiv:2206.00364, Alg. 1).

In the coordinates ``x / alpha`` and ``sigma / alpha`` the flow of every Gaussian-path SDE is the same equation,

    d(x / alpha) = eps(x, t) d(sigma / alpha)

and a predictor that is written in them works with every SDE.
"""

import attrs
from scoresde_core import DATA, Predictor


def along(x, step, eps):
    """From ``step.now`` to ``step.next`` along a constant ``eps``: the state, and its mean, which is the same here."""
    rise = step.next.sigma / step.next.alpha - step.now.sigma / step.now.alpha
    x = (x / step.now.alpha + rise * eps) * step.next.alpha
    return x, x


@attrs.frozen
class TrapezoidPredictor(Predictor):
    """Along the mean of eps at both ends of the step; along the first alone where the second is clean data."""

    order, stochastic = 2.0, False

    def step(self, x, step, model, noise):
        eps = model.noise(x, step.now)
        ahead = eps if step.next is DATA else model.noise(along(x, step, eps)[0], step.next)
        return along(x, step, (eps + ahead) / 2)
