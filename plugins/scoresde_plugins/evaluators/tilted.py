"""The distance of guided samples from the tilted law that guidance is often said to sample.

    p_w(x) ~ p(x) p(c | x)^w  =  p(x)^(1 - w) p(x | c)^w / p(c)^w

The guided score (1 - w) s(x) + w s(x | c) is that of p_w at t = 0 alone: noise and tilting do not commute, so for w > 1
neither the guided flow nor the guided SDE ends in p_w (Bradley & Nakkiran 2024, arXiv:2408.09000). In the plane p_w is
known by quadrature, and the distance is a number.
"""

import math
from typing import ClassVar

import attrs
import torch
from attrs.validators import ge, optional
from torch import Tensor
from scoresde_core import Better, Estimate, Evaluator, Metric, Noise, Target, param
from scoresde_run import Evidence
from .distances import sums, two_sample

_CELLS = 400
_NEGLIGIBLE = 1e-9


@attrs.frozen(eq=False)
class TiltedLaw:
    """p(x) p(c | x)^w of a target in the plane, constant in each of ``_CELLS``^2 cells around its mass."""

    target: Target
    label: int
    scale: float

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) + w log p(c | x) of points (n, 2), not normalised."""
        return self.target.log_prob(x) + self.scale * self.target.log_responsibilities(x)[:, self.label]

    def cells(self) -> tuple[Tensor, Tensor, Tensor]:
        """The centres (N, 2), probabilities (N,) and sides (2,) of cells; the first grid finds where the mass is."""
        mean, cov = self.target.moments()
        reach = 8 * cov.diagonal().sqrt()
        low, high = mean - reach, mean + reach
        for _ in range(2):
            side = (high - low) / _CELLS
            axes = [low[k] + side[k] * (torch.arange(_CELLS, dtype=torch.float64) + 0.5) for k in range(2)]
            centres = torch.cartesian_prod(*axes)
            weights = self.log_density(centres).softmax(0)
            massive = centres[weights > _NEGLIGIBLE * weights.max()]
            low, high = massive.amin(0) - side, massive.amax(0) + side
        return centres, weights, side

    def draw(self, n: int, seed: int) -> Tensor:
        """``n`` draws (n, 2), float64."""
        centres, weights, side = self.cells()
        u = Noise(seed, (3,), n, dtype=torch.float64).uniform("target", "tilted")
        cell = torch.searchsorted(weights.cumsum(0)[:-1], u[:, 0].contiguous())
        return centres[cell] + side * (u[:, 1:] - 0.5)


@attrs.frozen
class TiltedDistance(Evaluator):
    """The energy distance between samples and the law tilted to a class by a scale; best at 0.

    Class and scale are those of the guidance that drew the samples, unless they are given.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    unit: ClassVar[str] = "data units"
    better: ClassVar[Better] = "zero"
    example: ClassVar = {"label": 0, "scale": 0.0}

    label: int | None = param(None, "the class; null: the one that was known", optional(ge(0)))
    scale: float | None = param(None, "the exponent w of p(c | x); null: the scale of the guidance", optional(ge(0)))

    def skip(self, evidence: Evidence) -> str | None:
        found = self._law(evidence)
        return found if isinstance(found, str) else None

    def _law(self, evidence: Evidence) -> TiltedLaw | str:
        target, label, scale = evidence.target, self.label, self.scale
        if label is None or scale is None:
            known = getattr(evidence.model, "known", {})
            label = int(known["class"][0]) if "class" in known and known["class"].shape == (1,) else None
            scale = getattr(getattr(evidence.sampler, "guidance", None), "scale", None)
            target = getattr(evidence.model, "target", None)
        if label is None or scale is None:
            return "tilted_distance needs samples that one known class guides: --known class=0 --guidance cfg"
        if target is None or target.shape != (2,) or "class" not in target.knows:
            return "tilted_distance integrates over the plane: take the exact score of mixture2d"
        return TiltedLaw(target.to("cpu", torch.float64), label, scale)

    def evaluate(self, evidence: Evidence) -> list[Metric]:
        law = self._law(evidence)
        if isinstance(law, str):
            raise ValueError(law)
        x = evidence.gathered().double().cpu()
        y, z = (law.draw(len(x), 2 * evidence.seed + which) for which in range(2))
        within = sums(y, y, torch.abs)
        finite = bool(x.isfinite().all())
        found = two_sample(x, y, torch.abs, within) if finite else Estimate(math.nan, math.nan)
        return [self.metric("tilted_distance", found, two_sample(z, y, torch.abs, within))]
