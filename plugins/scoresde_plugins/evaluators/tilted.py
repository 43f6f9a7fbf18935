"""The distance of guided samples from the tilted law that guidance is often said to sample.

    p_w(x) ~ p(x) p(c | x)^w  =  p(x)^(1 - w) p(x | c)^w / p(c)^w

The guided score (1 - w) s(x) + w s(x | c) is that of p_w at t = 0 alone: noise and tilting do not commute, so for w > 1
neither the guided flow nor the guided SDE ends in p_w (Bradley & Nakkiran 2024, arXiv:2408.09000). In the plane p_w is
known by quadrature, and the distance is a number.
"""

from typing import ClassVar

import attrs
import torch
from torch import Tensor

from scoresde_core.estimate import Estimate
from scoresde_core.evaluator import Better, Evaluator, Metric
from scoresde_core.noise import Noise
from scoresde_core.target import Target
from scoresde_run.data.evidence import Evidence

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
    """The energy distance between guided samples and the law tilted by the same scale; best at 0."""

    needs: ClassVar[frozenset[str]] = frozenset({"model", "sampler"})
    unit: ClassVar[str] = "data units"
    better: ClassVar[Better] = "zero"

    def skip(self, evidence: Evidence) -> str | None:
        """Refuse all but the exact score of a target in the plane, guided by one known class."""
        if reason := super().skip(evidence):
            return reason
        target, guidance = getattr(evidence.model, "target", None), getattr(evidence.sampler, "guidance", None)
        known = getattr(evidence.model, "known", {})
        if guidance is None or "class" not in known or not set(known["class"].shape) <= {1}:
            return "tilted_distance needs samples that one known class guides: --known class=0 --guidance cfg"
        if target is None or target.shape != (2,):
            return "tilted_distance integrates over the plane: take the exact score of mixture2d"
        return None

    def evaluate(self, evidence: Evidence) -> list[Metric]:
        if reason := self.skip(evidence):
            raise ValueError(reason)
        model, guidance = evidence.model, evidence.sampler.guidance  # type: ignore[union-attr]
        exact = model.target.to("cpu", torch.float64)  # type: ignore[union-attr]
        law = TiltedLaw(exact, int(model.known["class"][0]), guidance.scale)  # type: ignore[union-attr]
        x = evidence.gathered().double().cpu()
        y, z = (law.draw(len(x), 2 * evidence.seed + which) for which in range(2))
        within = sums(y, y, torch.abs)
        if not bool(x.isfinite().all()):
            return [self.metric("tilted_distance", Estimate(float("nan"), float("nan")))]
        found, floor = (two_sample(points, y, torch.abs, within) for points in (x, z))
        return [self.metric("tilted_distance", found, floor)]
