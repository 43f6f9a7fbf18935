"""The exact distance of a sampler's law from a Gaussian target, without samples and without noise.

On Gaussian data an affine sampler's law is a Gaussian (:mod:`.affine_law`), and

    W2^2 = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)

is the distance of two Gaussians. It has three parts (Pierret & Galerne 2025, arXiv:2405.14250): the prior in place of
the true marginal at t = 1, the steps, and the end at t_min. ``start=marginal`` removes the first.
"""

import math
from typing import ClassVar, Literal

import attrs
import torch
from torch import Tensor
from scoresde_core import SDE, Estimate, Evaluator, Metric, param
from scoresde_run import Evidence, Reference
from .affine_law import Affine, GaussianLaw, Start
from .moments import gaussian_w2, root

_ASKED = 8


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
        """Return why there is no value: no Gaussian target, a sampler that is not affine, or missing evidence."""
        found = self._law(evidence)
        return found if isinstance(found, str) else None

    def evaluate(self, evidence: Evidence) -> list[Metric]:
        """Return the distance, without error; NaN where the sampler diverges."""
        found, reference = self._law(evidence), evidence.reference
        if isinstance(found, str) or reference is None:
            raise ValueError(found)
        if not bool(found.covariance.isfinite().all() & found.mean.isfinite().all()):
            return [self.metric(self.name, Estimate(math.nan, math.nan))]
        mean, cov = (part.to(found.mean) for part in reference.once("moments", reference.precise.moments))
        return [self.metric(self.name, Estimate(gaussian_w2(found.mean, found.covariance, mean, cov)))]

    def _law(self, evidence: Evidence) -> GaussianLaw | str:
        return evidence.once(self, lambda: self._find(evidence))

    @torch.no_grad()
    def _find(self, evidence: Evidence) -> GaussianLaw | str:
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
