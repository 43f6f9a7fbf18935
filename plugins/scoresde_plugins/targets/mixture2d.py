"""Gaussian mixtures in the plane: the toy targets of the literature, with their exact score.

All components share the covariance std^2 I, so p_{alpha, sigma} has means alpha mu_k and covariance
(alpha^2 std^2 + sigma^2) I. Layouts of K means within the circle of ``radius``:

    ring      equal angles on the circle (eight are the usual test of mode coverage)
    grid      a square lattice of side sqrt(K) whose corners lie on the circle
    moons     two interleaved half circles, K/2 means each
    spiral    two arms of an Archimedean spiral, K/2 means each, equally spaced along the arm
    pinwheel  five curved arms, K/5 means each, as in Johnson et al. 2016 (arXiv:1603.06277)
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import attrs
import torch
from attrs import validators
from torch import Tensor
from scoresde_core import param
from .mixture import MixtureOfFactorAnalysers, MixtureTarget

_PINWHEEL_ARMS = 5


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)


def _ring(k: int) -> Tensor:
    angle = torch.arange(k, dtype=torch.float64) * (2 * math.pi / k)
    return _polar(torch.ones_like(angle), angle)


def _grid(k: int) -> Tensor:
    axis = torch.linspace(-1, 1, math.isqrt(k), dtype=torch.float64) if k > 1 else torch.zeros(1, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis) / math.sqrt(2)


def _moons(k: int) -> Tensor:
    angle = torch.linspace(0, math.pi, k // 2, dtype=torch.float64)
    upper = _polar(torch.ones_like(angle), angle) - torch.tensor([0.5, 0.25], dtype=torch.float64)
    both = torch.cat([upper, -upper])
    return both / both.square().sum(1).max().sqrt()


def _spiral(k: int) -> Tensor:
    # Along r = a theta the arc length grows as theta^2 / 2, so equal steps of theta^2 are equal steps along the arm.
    turn = torch.linspace(0.15, 1, k // 2, dtype=torch.float64).sqrt()
    arm = _polar(turn, 3 * math.pi * turn)
    return torch.cat([arm, -arm])


def _pinwheel(k: int) -> Tensor:
    radius = torch.linspace(0.2, 1, k // _PINWHEEL_ARMS, dtype=torch.float64)
    start = torch.arange(_PINWHEEL_ARMS, dtype=torch.float64) * (2 * math.pi / _PINWHEEL_ARMS)
    angle = start[:, None] + radius * (math.pi / 3)
    return _polar(radius.expand_as(angle), angle).flatten(0, 1)


LAYOUTS: Mapping[str, tuple[Callable[[int], Tensor], Callable[[int], bool], str]] = {
    "ring": (_ring, lambda k: k >= 1, "at least 1"),
    "grid": (_grid, lambda k: k >= 1 and math.isqrt(k) ** 2 == k, "a square number"),
    "moons": (_moons, lambda k: k >= 4 and k % 2 == 0, "an even number of at least 4"),
    "spiral": (_spiral, lambda k: k >= 4 and k % 2 == 0, "an even number of at least 4"),
    "pinwheel": (_pinwheel, lambda k: k >= 10 and k % 5 == 0, "a multiple of 5 of at least 10"),
}
"""For each layout: the means within the unit circle for K components, whether K is allowed, and which K are."""


@attrs.frozen
class Mixture2DTarget(MixtureTarget):
    """K isotropic Gaussians in the plane, events of shape (2,)."""

    layout: Literal["ring", "grid", "moons", "spiral", "pinwheel"] = param(
        "ring", "layout of the means in the plane", validators.in_(tuple(LAYOUTS))
    )
    components: int = param(8, "number of Gaussians K", validators.ge(1))
    radius: float = param(2.0, "radius of the circle that contains the means", validators.gt(0))
    std: float = param(0.2, "standard deviation of every Gaussian", validators.gt(0))
    weights: tuple[float, ...] | None = param(None, "K positive weights with any sum; null: by imbalance")
    imbalance: float = param(1.0, "ratio of the first to the last weight, geometric in between", validators.gt(0))

    def __attrs_post_init__(self) -> None:
        _, possible, which = LAYOUTS[self.layout]
        if not possible(self.components):
            raise ValueError(f"layout {self.layout} needs {which} for components, got {self.components}")
        if self.weights is not None and self.imbalance != 1:
            raise ValueError(f"weights {self.weights} and imbalance {self.imbalance} are both given: omit one of them")
        if self.weights is not None and (len(self.weights) != self.components or min(self.weights) <= 0):
            raise ValueError(f"weights must be {self.components} positive numbers, got {self.weights}")

    def build(self) -> MixtureOfFactorAnalysers:
        k = self.components
        means = self.radius * LAYOUTS[self.layout][0](k)
        if self.weights is None:
            weights = torch.logspace(0, -1, k, base=self.imbalance, dtype=torch.float64)
        else:
            weights = torch.tensor(self.weights, dtype=torch.float64)
        noise = torch.full((2,), self.std**2, dtype=torch.float64)
        return MixtureOfFactorAnalysers(weights, means, means.new_zeros(k, 0, 2), noise, (2,))
