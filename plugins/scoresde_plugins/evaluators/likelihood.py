"""The difference between a model's likelihood and the true one, on exact draws of a target.

    log_likelihood     mean of log2 p_ODE(x) - log2 p(x), over D
    likelihood_bound   mean of bound(x) + log2 p(x), over D

Both are in bits/dim, over the same x ~ p. For a perfect score the first measures the effect of the ODE: the solver,
the start at t_min instead of 0, and the prior in place of p_1. Its mean is minus the divergence KL(p || p_ODE) per
dimension. The second is KL(p || p_SDE) plus the slack of the bound. Under a process that moves to an observation y both
are of p(x | y), with a y of each x; under one that adds variables to the data the first is of a lower bound.
"""

import math
from abc import abstractmethod
from collections.abc import Collection
from typing import ClassVar, Literal

import attrs
import torch
from attrs.validators import ge, gt
from torch import Tensor
from scoresde_core import Better, Estimate, Evaluator, Metric, param
from scoresde_core.steps import unserved
from scoresde_run import Evidence
from ..coordinates import FORMS
from ..likelihood.bound import FEWEST_TIMES
from ..likelihood.likelihood import BoundDensity, Density, FlowDensity
from ..numerics.divergence import Trace
from ..numerics.flow import Diverged
from .comparison import mean_of

EXACT_UP_TO = 64  # the largest dimension for which ``trace=auto`` is exact: one batched backward pass


class _AgainstTruth(Evaluator):
    """Base class: a likelihood of the model on exact draws of the target, compared with the target's own."""

    judges: ClassVar[Literal["samples", "model"]] = "model"
    needs: ClassVar[frozenset[str]] = frozenset({"target", "density", "model"})
    unit: ClassVar[str] = "bits/dim"
    better: ClassVar[Better] = "zero"
    name: ClassVar[str]
    sign: ClassVar[int]
    serves: ClassVar[Collection[str]]
    samples: int

    def skip(self, evidence: Evidence) -> str | None:
        if evidence.model is not None and not evidence.model.continuous:
            return f"{self.name} needs a model of continuous time, and this one has discrete noise scales"
        if (sde := evidence.sde) is not None and (reason := unserved(self, sde)):
            return reason
        if sde is not None and sde.needs and not hasattr(evidence.target, "log_posterior"):
            return f"{self.name} needs the law of events given {', '.join(sde.needs)}: take the target observed[of=...]"
        few = len(evidence.samples) < 2
        return super().skip(evidence) or (f"{self.name} needs 2 samples or more" if few else None)

    @abstractmethod
    def density(self, x: Tensor) -> Density:
        """Return the method for the log density of ``x`` (n, *shape), or for its bound."""

    def evaluate(self, evidence: Evidence) -> list[Metric]:
        """Return the mean difference in bits/dim and its standard error over draws; NaN where the ODE diverges."""
        reason, reference = self.skip(evidence), evidence.reference
        if reason or reference is None or evidence.model is None or evidence.sde is None:
            raise ValueError(reason or f"{self.name} needs target, sde and model")
        x, model, target = evidence.exact()[: self.samples], evidence.model, reference.precise
        at = x.to(reference.device, torch.float64)
        if evidence.sde.needs:
            y: Tensor = target.observe(at, evidence.seed)  # type: ignore[attr-defined]
            model, truth = model.given(y=evidence.seen(y.to(x))), target.log_posterior(at, y)  # type: ignore[attr-defined]
        else:
            truth = target.log_prob(at)
        truth = truth.to(x.device)
        try:
            seen = evidence.seen(x)
            found = self.density(seen).measure(model, seen, evidence.seed).log_prob.double()
        except Diverged:
            return [self.metric(self.name, Estimate(math.nan, math.nan))]
        if evidence.units is not None:
            found = found - evidence.units.log_volume(tuple(x.shape[1:]))
        return [self.metric(self.name, mean_of(self.sign * (found - truth) / (x[0].numel() * math.log(2))))]


@attrs.frozen
class LogLikelihoodError(_AgainstTruth):
    """Mean error of the log-likelihood by the probability flow ODE, in bits/dim, best at 0.

    The standard error is over draws and includes the probes. With an estimated trace in many dimensions it is far above
    the solver's error; it falls with samples times probes.
    """

    name: ClassVar[str] = "log_likelihood_error"
    serves: ClassVar = FORMS
    sign: ClassVar[int] = 1

    samples: int = param(128, "number of exact draws", ge(2))
    trace: Literal["auto", "exact", "rademacher", "gaussian"] = param(
        "auto", "divergence: exact, or by probes; auto is exact for up to 64 dimensions, else rademacher"
    )
    probes: int = param(4, "probes for each draw", ge(1))
    rtol: float = param(1e-5, "relative tolerance of the ODE", gt(0))
    atol: float = param(1e-5, "absolute tolerance of the ODE", gt(0))
    t_min: float = param(1e-5, "time at which the data are placed", gt(0))

    def density(self, x: Tensor) -> Density:
        by_size: Trace = "exact" if x[0].numel() <= EXACT_UP_TO else "rademacher"
        trace: Trace = by_size if self.trace == "auto" else self.trace
        return FlowDensity(trace, self.probes, self.t_min, rtol=self.rtol, atol=self.atol)


@attrs.frozen
class LikelihoodBoundGap(_AgainstTruth):
    """Mean of the variational bound minus the true negative log-likelihood, in bits/dim: 0 if tight, never negative."""

    name: ClassVar[str] = "likelihood_bound_gap"
    serves: ClassVar = BoundDensity.serves
    sign: ClassVar[int] = -1

    samples: int = param(128, "number of exact draws", ge(2))
    times: int = param(200, "times for each draw", ge(FEWEST_TIMES))
    form: Literal["dsm", "ssm"] = param("dsm", "denoising or sliced score matching")
    t_min: float = param(1e-5, "where the integral starts", gt(0))

    def density(self, x: Tensor) -> Density:
        return BoundDensity(self.form, self.times, t_min=self.t_min)
