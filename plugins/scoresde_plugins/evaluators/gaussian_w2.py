"""The exact distance of a sampler's law from a Gaussian target, without samples and without noise.

On Gaussian data with an affine score every linear solver is an affine map of the standard normal numbers that it draws,
for its start and for its steps (Pierret & Galerne 2025, arXiv:2405.14250):

    x_end = b + A z_start + sum_k C_k z_k        =>        x_end ~ N(b, A A^T + sum_k C_k C_k^T)

The rows of one run give the map: the noise of row 0 is zero throughout, and each further row has a single 1, in one
coordinate of the start or of one draw. Whether the sampler is affine is tested: random rows, run separately, must end
where the map predicts. The distance of the two Gaussians,

    W2^2 = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)

has three parts: the prior in place of the true marginal at t = 1, the steps, and the end at t_min. ``start=marginal``
removes the first.
"""

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import attrs
import torch
from torch import Tensor
from scoresde_core import SDE, Estimate, Evaluator, Metric, Noise, Sampler, ScoreModel, param
from scoresde_run import Evidence, Reference
from .moments import gaussian_w2, root

LARGEST = 2**24
"""The largest number of entries that all rows may have together: 128 MiB in float64."""
_CHUNK = 2**20
_CHECKED = 4
"""Random rows that test the map."""
_ASKED = 8

Start = Callable[[Tensor], Tensor]
"""An affine map from standard normal numbers (B, *shape) to latents at t = 1."""


@attrs.frozen
class GaussianLaw:
    """N(mean, covariance) over flattened events: (D,) and (D, D), float64."""

    mean: Tensor
    covariance: Tensor


class _Probe(Noise):
    """Noise for the rows ``start .. start + count``, each zero except for a single 1; draws are numbered by key."""

    def __init__(self, keys: dict[object, int], shape: tuple[int, ...], rows: range, like: Tensor) -> None:
        super().__init__(0, shape, len(rows), start=rows.start, device=like.device, dtype=like.dtype)
        self.keys = keys

    def unit(self, k: int) -> Tensor:
        """Return the noise of the start (k = -1) or of the k-th draw: row 1 + D (k + 1) + i has a 1 in coordinate i."""
        size = math.prod(self.shape)
        coordinate = torch.arange(self.count, device=self.device) + self.start - 1 - size * (k + 1)
        z = coordinate.unsqueeze(1) == torch.arange(size, device=self.device)
        return z.to(self.dtype).reshape(self.count, *self.shape)

    def draw(self, step: int | str, purpose: str, draw: int = 0) -> Tensor:
        """Return the noise of the draw with this key; draws are numbered in the order of their first use."""
        return self.unit(self.keys.setdefault((step, purpose, draw), len(self.keys)))


class _Recorded(Noise):
    """Random noise that records its draws."""

    def __init__(self, shape: tuple[int, ...], like: Tensor) -> None:
        super().__init__(0, shape, _CHECKED, device=like.device, dtype=like.dtype)
        self.given: dict[object, Tensor] = {}

    def draw(self, step: int | str, purpose: str, draw: int = 0) -> Tensor:
        z = super().draw(step, purpose, draw)
        self.given[step, purpose, draw] = z.clone()  # the caller may overwrite it
        return z


@attrs.frozen(eq=False)
class Affine:
    """A sampler with all that its samples depend on, in the frame; they start at ``start(z)``, with z like ``like``."""

    sampler: Sampler
    model: ScoreModel
    start: Start
    like: Tensor

    def law(self) -> GaussianLaw | str:
        """Return the law of the samples, or the reason why there is none.

        This takes 1 + D (K + 1) rows for K draws, and a few more for the test.
        """
        size, keys = math.prod(self.model.shape), dict[object, int]()
        found, rows = [], range(1 + size)
        while rows:
            probe = _Probe(keys, self.model.shape, rows, self.like)
            found.append(self._run(probe.unit(-1), probe))
            total = 1 + size * (1 + len(keys))
            if total * size > LARGEST:
                return f"{len(keys)} draws in {size} dimensions are too many: use fewer steps or dimensions"
            rows = range(rows.stop, min(total, rows.stop + max(1, _CHUNK // size)))
        ends = torch.cat(found)
        images = ends[1:] - ends[0]
        return self._deviation(ends[0], images, keys) or GaussianLaw(ends[0], images.T @ images)

    def _deviation(self, offset: Tensor, images: Tensor, keys: dict[object, int]) -> str | None:
        """Return the reason why the map is not the sampler's, or None; a map that is not finite is accepted."""
        noise = _Recorded(self.model.shape, self.like)
        z = noise.draw("start", "start")
        noise.given.clear()
        end = self._run(z, noise)
        if set(noise.given) != set(keys):
            return "its number of draws depends on the state"
        heard = [z, *(noise.given[key] for key in keys)]
        expected = offset + torch.cat([part.flatten(1) for part in heard], 1).double() @ images
        off, scale = float((end - expected).abs().max()), float(expected.abs().max())
        # Rounding errors are far below half of the digits, and effects of state-dependent steps far above.
        if off > torch.finfo(self.like.dtype).eps ** 0.5 * scale:
            return "it is not affine: its steps depend on the state, or its score is not linear"
        return None

    def _run(self, z: Tensor, noise: Noise) -> Tensor:
        """Return the final states (B, D) of the rows that start at ``z``."""
        x, frame = self.sampler.run(self.start(z), self.model, noise), self.model.sde.frame
        return (frame.drop(x) if frame else x).flatten(1).double()


@attrs.frozen
class GaussianW2(Evaluator):
    """W2 between the law of the sampler, at the precision of the samples, and the target; refused if there is no law.

    It needs a fixed number of steps, a linear score (that of a Gaussian target), and steps that do not depend on the
    state: no adaptive sampler, and no Langevin corrector that sets its step size by norms. All of this is tested.
    """

    judges: ClassVar[Literal["samples", "model"]] = "model"
    needs: ClassVar[frozenset[str]] = frozenset({"target", "model", "sampler"})
    unit: ClassVar[str] = "data units"
    name: ClassVar[str] = "gaussian_w2"

    start: Literal["prior", "marginal"] = param("prior", "law at t = 1: the SDE's prior, or the target's marginal")

    def skip(self, evidence: Evidence) -> str | None:
        found = evidence.once(self, lambda: self._law(evidence))
        return found if isinstance(found, str) else None

    def evaluate(self, evidence: Evidence) -> list[Metric]:
        """Return the distance, without error; NaN where the sampler diverges."""
        found, reference = evidence.once(self, lambda: self._law(evidence)), evidence.reference
        if isinstance(found, str) or reference is None:
            raise ValueError(found)
        if not bool(found.covariance.isfinite().all() & found.mean.isfinite().all()):
            return [self.metric(self.name, Estimate(math.nan, math.nan))]
        mean, cov = (part.to(found.mean) for part in reference.once("moments", reference.precise.moments))
        return [self.metric(self.name, Estimate(gaussian_w2(found.mean, found.covariance, mean, cov)))]

    @torch.no_grad()
    def _law(self, evidence: Evidence) -> GaussianLaw | str:
        sampler, model, sde, reference = evidence.sampler, evidence.model, evidence.sde, evidence.reference
        if sampler is None or model is None or sde is None or reference is None:
            return Evaluator.skip(self, evidence) or f"{self.name} needs an exact target"
        if sde.form == "nonlinear" or sde.needs:
            return f"{self.name} needs one linear score for all samples: take a linear process that knows no y"
        if evidence.units is not None and not evidence.units.unscaled:
            return f"{self.name} needs a model in data units, and this one scales the data"
        if "steps" not in sampler.uses:
            return f"{self.name} needs a sampler with a fixed number of steps: an adaptive one is not affine"
        if not reference.once("is Gaussian", lambda: _is_gaussian(reference)):
            return f"{self.name} needs a Gaussian target"
        start = sde.prior.from_noise if self.start == "prior" else _marginal(sde, reference)
        found = Affine(sampler, model.framed(), start, evidence.samples).law()
        return f"{self.name} cannot follow the sampler: {found}" if isinstance(found, str) else found


def _marginal(sde: SDE, reference: Reference) -> Start:
    """Return the map from standard normal numbers to the marginal N(A m, A C A^T + Sigma) at t_max, in the frame."""
    mean, cov = reference.once("moments", reference.precise.moments)
    rows = torch.cat([mean.unsqueeze(0), root(cov)]).reshape(-1, *reference.shape)
    state = sde.frame.lift(rows) if sde.frame else rows
    level = sde.level_at(sde.t_max, state)
    centre, *spread = (level.alpha * state).flatten(1)
    unit = torch.eye(len(centre)).to(state).reshape(-1, *state.shape[1:])
    all_of_it = torch.cat([torch.stack(spread), (level.sigma * unit).flatten(1)])
    half = root(all_of_it.T @ all_of_it)

    def start(z: Tensor) -> Tensor:
        state: Tensor = centre.to(z) + z.flatten(1) @ half.to(z)
        return state.reshape(z.shape)

    return start


def _is_gaussian(reference: Reference) -> bool:
    """Whether C score(x) is m - x, at a few draws and beyond."""
    mean, cov = reference.once("moments", reference.precise.moments)
    x = 3 * reference.precise.sample(_ASKED, seed=0).to(mean)
    pulled = reference.precise.score(x).flatten(1) @ cov
    expected = mean - x.flatten(1)
    return bool((pulled - expected).abs().max() <= 1e-6 * expected.abs().max())
