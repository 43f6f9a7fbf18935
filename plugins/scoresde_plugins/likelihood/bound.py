r"""ScoreFlow's variational bound on the likelihood of a score model (Song et al. 2021, arXiv:2101.09258, Theorem 3).

    -log p(x) <= E[-log pi(x_1) | x_0 = x] + 1/2 int_{t_min}^1 E[h(t)] dt + offset

    DSM   h = g^2 (|s - q|^2 - |q|^2) - 2 D f,     q = grad log p(x_t | x_0) = -eps / sigma
    SSM   h = g^2 (|s|^2 + 2 div s) - 2 D f

p is the law that the reverse-time SDE samples from. The first term and the integral of D f are closed form for
a Gaussian path; the rest is an average over times and noise. Times drawn with density g^2 / sigma^2 have by far the
smallest variance. Since g^2 / sigma^2 = d/dt log(sigma^2 / alpha^2) for every Gaussian path, they are uniform in the
log signal-to-noise ratio, and the normalisation Z is its range.

Without the offset the bound is that of noisy data x_{t_min}. The offset (Appendix B) is the cost of a last step
x_{t_min} -> x through the Gaussian of Tweedie's mean: -log N(x; (x_t + sigma^2 s)/alpha, (sigma/alpha)^2) minus the
entropy of x_{t_min} given x. The entropy term is negative and large; leaving it out makes any number look good.
"""

from __future__ import annotations

import math
from typing import Literal

import attrs
import torch
from torch import Tensor

from scoresde_core.noise import Noise
from scoresde_core.score import ScoreModel, in_batches, level_of
from scoresde_core.sde import SDE

from ..numerics.divergence import score_and_divergence
from ..numerics.flow import check_t_min
from ..score_flow.importance import importance_times, total_weight

FEWEST_TIMES = 100
"""What the fit of the control variates needs at least."""
OFFSET_DRAWS = 10
_WAVES, _RIDGE = 8, 1e-9


@attrs.frozen(eq=False)
class Bound:
    """An estimate of the bound, ``nats`` (n,) on -log p(x), float64, its standard error (n,), and ``nfe`` a sample."""

    nats: Tensor
    stderr: Tensor
    nfe: int


@torch.no_grad()
def likelihood_bound(
    model: ScoreModel,
    x: Tensor,
    *,
    form: Literal["dsm", "ssm"] = "dsm",
    times: int = 1000,
    importance: bool = True,
    offset: bool = True,
    t_min: float = 1e-5,
    seed: int = 0,
    batch_size: int | None = None,
    first: int = 0,
) -> Bound:
    """The bound for events ``x`` (n, ...), from ``times`` times a sample, one in each of as many equal strata.

    Times have density g^2/sigma^2 with ``importance``, else they are uniform. Times, noise and probes are keyed by
    ``seed`` and the index of the sample, ``first`` onwards. The standard error is that of the draws alone.
    """
    sde = model.sde
    check_t_min(t_min)
    size = batch_size or len(x)
    if times < FEWEST_TIMES or size < 1 or len(x) < 1:
        raise ValueError(
            f"the bound takes at least {FEWEST_TIMES} times, one event and a batch size of 1, "
            f"got {times}, {len(x)} and {size}"
        )
    parts, evaluations = [], 0
    for start, known, part in in_batches(model, x, size):
        before = known.calls
        noise = Noise(seed, tuple(x.shape[1:]), len(part), start=first + start, device=x.device, dtype=x.dtype)
        value, variance = _integral(known, part, form, times, importance, t_min, noise)
        value = value + _ends(sde, part, t_min)
        if offset:
            steps = torch.stack([_offset(known, part, t_min, noise, k) for k in range(OFFSET_DRAWS)])
            value, variance = value + steps.mean(0), variance + steps.var(0) / OFFSET_DRAWS
        parts.append((value, variance.sqrt()))
        evaluations += (known.calls - before) * len(part)
    nats, stderr = (torch.cat(column) for column in zip(*parts, strict=True))
    return Bound(nats, stderr, evaluations // len(x))


def bound_draw(model: ScoreModel, x: Tensor, share: Tensor, eps: Tensor, t_min: float = 1e-5) -> Tensor:
    """One unbiased draw (B,) of the bound on -log p(x) of :func:`likelihood_bound`, without its offset, in nats.

    ``share`` (B,), uniform on [0, 1), picks importance-sampled times; ``eps`` like ``x`` is standard normal. It is for
    training: gradients reach ``x`` and the model.
    """
    sde = model.sde
    t = importance_times(sde, share, t_min)
    weight = total_weight(sde, t_min) * sde.sigma(t).square()
    return 0.5 * weight * _loss(model, x, t, eps, None) + _ends(sde, x, t_min)


def _integral(
    model: ScoreModel,
    x: Tensor,
    form: Literal["dsm", "ssm"],
    count: int,
    importance: bool,
    t_min: float,
    noise: Noise,
) -> tuple[Tensor, Tensor]:
    """The integral of h / 2 without its D f, and the variance of the estimate, both (B,)."""
    sde = model.sde
    scalars = Noise(noise.seed, (count,), noise.count, start=noise.start, dtype=torch.float64)
    within = torch.special.ndtr(scalars.draw("bound", "time")).T.to(x.device)
    share = (torch.arange(count, dtype=torch.float64, device=x.device).unsqueeze(1) + within) / count
    if importance:
        t = importance_times(sde, share, t_min)
        weight = total_weight(sde, t_min) * sde.sigma(t).square()
    else:
        t = t_min + (1 - t_min) * share
        weight = (1 - t_min) * sde.diffusion(t).square()
    values, controls = [], []
    for k in range(count):
        eps = noise.draw(k, "bound")
        sign = torch.where(noise.draw(k, "probe") >= 0, 1.0, -1.0).to(x).unsqueeze(0) if form == "ssm" else None
        values.append(0.5 * weight[k] * _loss(model, x, t[k], eps, sign))
        flat = eps.flatten(1).double()
        controls.append(torch.stack([flat.square().sum(1) - flat.shape[1], (flat * x.flatten(1)).sum(1)], 1))
    return _average(torch.stack(values, 1), torch.stack(controls, 1), share.T)


def _loss(model: ScoreModel, x: Tensor, t: Tensor, eps: Tensor, probe: Tensor | None) -> Tensor:
    """h / g^2 without its D f at times ``t`` (B,), (B,) float64: of SSM with a probe, else of DSM."""
    sde = model.sde
    level = level_of(sde, t, x)
    at = (level.alpha * x + level.sigma * eps).to(x.dtype)
    if probe is None:
        score = model.score(at, level).double()
        # |s - q|^2 - |q|^2 = s . (s - 2 q): no large squares to cancel.
        loss: Tensor = (score * (score + 2 * eps / level.sigma)).flatten(1).sum(1)
        return loss
    score, divergence = score_and_divergence(model, at, level, probe)
    return score.flatten(1).square().sum(1, dtype=torch.float64) + 2 * divergence


def _average(values: Tensor, controls: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the draws of each sample, and its variance, (B, K) -> (B,), with control variates.

    What noise does to h is for the most part |eps|^2 - D and eps . x, whose means are 0 at every time, multiplied by
    functions of time. Those are fitted, as cosine series, to one half of a sample's draws and taken off the other
    half: the mean stays exactly as it is, the error falls several times. Draws k and k + 1 lie in neighbouring
    strata, so the variance is that of their differences.
    """
    waves = (math.pi * share.unsqueeze(2) * torch.arange(_WAVES, device=share.device)).cos()
    noise = (controls.unsqueeze(3) * waves.unsqueeze(2)).flatten(2)
    noise = noise / noise.square().mean(1, keepdim=True).sqrt().clamp_min(1e-30)
    design = torch.cat([noise, waves], 2)
    left = torch.empty_like(values)
    for half, other in ((0, 1), (1, 0)):
        basis = design[:, other::2]
        # Any fit leaves the mean alone: a ridge, for columns that are alike, and no error where a value is NaN.
        ridge = _RIDGE * basis.shape[1] * torch.eye(basis.shape[2]).to(basis)
        root = torch.linalg.cholesky_ex(basis.mT @ basis + ridge).L
        fit = torch.cholesky_solve(basis.mT @ values[:, other::2].unsqueeze(2), root)
        left[:, half::2] = values[:, half::2] - (noise[:, half::2] @ fit[:, : noise.shape[2]]).squeeze(2)
    return left.mean(1), left.diff(dim=1).square().mean(1) / 2 / values.shape[1]


def _ends(sde: SDE, x: Tensor, t_min: float) -> Tensor:
    """E[-log pi(x_1) | x] minus the integral of D f, (B,), closed form."""
    ends = torch.tensor([t_min, 1.0], dtype=torch.float64)
    (start, end), std = sde.alpha(ends).tolist(), float(sde.sigma(ends)[1])
    dim, prior = x[0].numel(), sde.prior
    drift = dim * (math.log(end) - math.log(start))
    return -prior.log_prob(end * x.double()) + 0.5 * dim * (std / prior.std) ** 2 - drift


def _offset(model: ScoreModel, x: Tensor, t_min: float, noise: Noise, k: int) -> Tensor:
    """One draw (B,) of -log p(x | x_{t_min}) minus the entropy of x_{t_min} given x."""
    sde = model.sde
    level, eps = sde.float_level(t_min), noise.draw(k, "offset")
    at = (level.alpha * x.double() + level.sigma * eps).to(x.dtype)
    # The decoder misses x by (sigma/alpha) (eps + sigma s): |eps + sigma s|^2 / 2, with |eps|^2 at its mean D, which
    # the entropy D (1 + log 2 pi sigma^2) / 2 takes off again; what is left of the logarithms is -D log alpha.
    pull = level.sigma * model.score(at, level).double()
    cost: Tensor = (pull * (eps + 0.5 * pull)).flatten(1).sum(1) - x[0].numel() * math.log(level.alpha)
    return cost
