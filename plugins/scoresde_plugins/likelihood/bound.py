r"""ScoreFlow's variational bound on the likelihood of a score model (Song et al. 2021, arXiv:2101.09258, Theorem 3).

    -log p(x) <= E[-log pi(x_1) | x_0 = x] + 1/2 int_{t_min}^1 E[h(t)] dt + offset

    DSM   h = g^2 (|s - q|^2 - |q|^2) - 2 D f,     q = grad log p(x_t | x_0) = -eps / sigma
    SSM   h = g^2 (|s|^2 + 2 div s) - 2 D f

where g and f are those of each entry if they differ. p is the distribution that the reverse-time SDE samples from. The
first term and the integral of D f have a closed form for a Gaussian path; the rest is an average over times and noise.
Times of density g^2 / sigma^2 have by far the smallest variance. Since g^2 / sigma^2 = d/dt log(sigma^2 / alpha^2) for
every Gaussian path, they are uniform in the log signal-to-noise ratio, and the normalisation Z is its range. With one g
an entry they follow the mean of all entries, and the k-th time is that of all events: an exact score takes one a call.

Without the offset the bound is one for noisy data x_{t_min}. The offset (Appendix B) is the cost of a last step
x_{t_min} -> x through a Gaussian about Tweedie's mean: -log N(x; (x_t + sigma^2 s)/alpha, (sigma/alpha)^2) minus the
entropy of x_{t_min} given x. The entropy term is negative and large; without it any number looks good.
"""

import math
from typing import Literal

import attrs
import torch
from torch import Tensor
from scoresde_core import SDE, Noise, ScoreModel, level_of
from scoresde_core.score import in_batches
from scoresde_core.sde import Level
from scoresde_core.shapes import expand
from ..numerics.divergence import field_and_divergence
from ..numerics.flow import check_t_min
from ..score_flow.importance import importance_times, relative_weight, total_weight

Form = Literal["dsm", "ssm"]

FEWEST_TIMES = 100  # the fewest times for which control variates can be fitted
OFFSET_DRAWS = 10
_WAVES, _RIDGE = 8, 1e-9


@attrs.frozen(eq=False)
class Bound:
    """An estimate of the bound on -log p(x): ``nats`` (n,) in float64, standard error (n,), and ``nfe`` per sample."""

    nats: Tensor
    stderr: Tensor
    nfe: int


@torch.no_grad()
def likelihood_bound(
    model: ScoreModel, x: Tensor, *, form: Form = "dsm", times: int = 1000, importance: bool = True,
    offset: bool = True, t_min: float = 1e-5, seed: int = 0, batch_size: int | None = None, first: int = 0,
) -> Bound:  # fmt: skip
    """Estimate the bound for events ``x`` (n, ...) from ``times`` times per sample, one in each of equal strata.

    Times have density g^2/sigma^2 with ``importance``, else they are uniform. Times, noise and probes are keyed by
    ``seed`` and the index of the sample, from ``first``. The standard error covers these draws only.
    """
    check_t_min(t_min)
    size = batch_size or len(x)
    if times < FEWEST_TIMES or size < 1 or len(x) < 1:
        why = f"the bound needs at least {FEWEST_TIMES} times, one event and a batch size of 1"
        raise ValueError(f"{why}, got {times}, {len(x)} and {size}")
    parts, evaluations = [], 0
    for start, known, part in in_batches(model.framed(), x, size):
        before, frame = known.calls, known.sde.frame
        part = part if frame is None else frame.lift(part)
        noise = Noise(seed, tuple(x.shape[1:]), len(part), start=first + start, device=x.device, dtype=x.dtype)
        value, variance = _integral(known, part, form, times, importance, t_min, noise)
        value = value + _ends(known.sde, part, t_min)
        if offset:
            steps = torch.stack([_offset(known, part, t_min, noise, k) for k in range(OFFSET_DRAWS)])
            value, variance = value + steps.mean(0), variance + steps.var(0) / OFFSET_DRAWS
        parts.append((value, variance.sqrt()))
        evaluations += (known.calls - before) * len(part)
    nats, stderr = (torch.cat(column) for column in zip(*parts, strict=True))
    return Bound(nats, stderr, evaluations // len(x))


def bound_draw(model: ScoreModel, x: Tensor, share: Tensor, eps: Tensor, t_min: float = 1e-5) -> Tensor:
    """Return one unbiased draw (B,) of the bound of :func:`likelihood_bound`, without its offset, in nats.

    ``share`` (B,), uniform on [0, 1), chooses importance-sampled times; ``eps`` like ``x`` is standard normal. For
    training: gradients reach ``x`` and the model.
    """
    sde = model.sde
    t = importance_times(sde, share, t_min)
    level = _level(sde, t, x)
    return 0.5 * _loss(model, x, level, eps, _weight(sde, t, True, t_min, x)) + _ends(sde, x, t_min)


def _integral(
    model: ScoreModel, x: Tensor, form: Form, count: int, importance: bool, t_min: float, noise: Noise
) -> tuple[Tensor, Tensor]:
    """Return the integral of h / 2 without D f, and the variance of the estimate, both (B,)."""
    sde = model.sde
    scalars = Noise(noise.seed, (count,), noise.count, start=noise.start, dtype=torch.float64)
    if sde.form == "diagonal":
        scalars = Noise(noise.seed, (count,), 1, dtype=torch.float64)
    within = torch.special.ndtr(scalars.draw("bound", "time")).T.to(x.device).expand(-1, len(x))
    share = (torch.arange(count, dtype=torch.float64, device=x.device).unsqueeze(1) + within) / count
    t = importance_times(sde, share, t_min) if importance else t_min + (sde.t_signal - t_min) * share
    values, controls = [], []
    for k in range(count):
        eps = noise.draw(k, "bound")
        sign = torch.where(noise.draw(k, "probe") >= 0, 1.0, -1.0).to(x).unsqueeze(0) if form == "ssm" else None
        level = _level(sde, t[k], x)
        values.append(0.5 * _loss(model, x, level, eps, _weight(sde, t[k], importance, t_min, x), sign))
        flat = eps.flatten(1).double()
        controls.append(torch.stack([flat.square().sum(1) - flat.shape[1], (flat * x.flatten(1)).sum(1)], 1))
    return _average(torch.stack(values, 1), torch.stack(controls, 1), share.T)


def _level(sde: SDE, t: Tensor, x: Tensor) -> Level:
    """The level at times ``t`` (B,), which are equal where coefficients are one an entry."""
    return sde.level_at(float(t[0]), x) if sde.form == "diagonal" else level_of(sde, t, x)


def _weight(sde: SDE, t: Tensor, importance: bool, t_min: float, x: Tensor) -> Tensor:
    """g^2 over the density of the times ``t`` (B,), float64, in a shape that broadcasts against ``x``."""
    if not importance:
        return expand((sde.t_signal - t_min) * sde.diffusion(t).square(), x)
    share = 1.0 if sde.form == "scalar" else relative_weight(sde, t, x)
    return total_weight(sde, t_min) * expand(sde.sigma(t).square(), x) * share


def _loss(
    model: ScoreModel, x: Tensor, level: Level, eps: Tensor, weight: Tensor, probe: Tensor | None = None
) -> Tensor:
    """Return h without D f over the density of its time, (B,) float64: SSM with a probe, else DSM."""
    at = (level.alpha * x + level.sigma * eps).to(x.dtype)
    if probe is None:
        score = model.score(at, level).double()
        # |s - q|^2 - |q|^2 = s . (s - 2 q), without cancellation of large squares.
        return (weight * score * (score + 2 * eps / level.sigma)).flatten(1).sum(1)
    small = weight.to(x.dtype)
    field, divergence = field_and_divergence(lambda here: small * model.score(here, level), at, probe)
    return (field.double().square() / weight).flatten(1).sum(1) + 2 * divergence


def _average(values: Tensor, controls: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Average the draws of each sample with control variates, (B, K) -> (B,); return mean and variance.

    Most of the noise in h is |eps|^2 - D and eps . x, whose means are 0 at every time, multiplied by functions of time.
    These functions are fitted, as cosine series, to one half of a sample's draws and subtracted from the other half:
    the expectation does not change, the error falls several times. Draws k and k + 1 lie in neighbouring strata, so the
    variance comes from their differences.
    """
    waves = (math.pi * share.unsqueeze(2) * torch.arange(_WAVES, device=share.device)).cos()
    noise = (controls.unsqueeze(3) * waves.unsqueeze(2)).flatten(2)
    noise = noise / noise.square().mean(1, keepdim=True).sqrt().clamp_min(1e-30)
    design = torch.cat([noise, waves], 2)
    left = torch.empty_like(values)
    for half, other in ((0, 1), (1, 0)):
        basis = design[:, other::2]
        # Any fit is unbiased, so a ridge is allowed, for similar columns; cholesky_ex raises no error for NaN.
        ridge = _RIDGE * basis.shape[1] * torch.eye(basis.shape[2]).to(basis)
        root = torch.linalg.cholesky_ex(basis.mT @ basis + ridge).L
        fit = torch.cholesky_solve(basis.mT @ values[:, other::2].unsqueeze(2), root)
        left[:, half::2] = values[:, half::2] - (noise[:, half::2] @ fit[:, : noise.shape[2]]).squeeze(2)
    return left.mean(1), left.diff(dim=1).square().mean(1) / 2 / values.shape[1]


def _ends(sde: SDE, x: Tensor, t_min: float) -> Tensor:
    """Return E[-log pi(x_1) | x] minus the integral of D f, (B,), in closed form."""
    one, last = torch.ones_like(x, dtype=torch.float64), sde.level_at(sde.t_signal, x)
    width = sde.prior.from_noise(one) - sde.prior.from_noise(0 * one)
    drift = (last.alpha * one).log() - (sde.level_at(t_min, x).alpha * one).log()
    rest = 0.5 * (last.sigma / width).square() - drift
    return rest.flatten(1).sum(1) - sde.prior.log_prob(last.alpha * x.double())


def _offset(model: ScoreModel, x: Tensor, t_min: float, noise: Noise, k: int) -> Tensor:
    """Return one draw (B,) of -log p(x | x_{t_min}) minus the entropy of x_{t_min} given x."""
    level, eps = model.sde.level_at(t_min, x), noise.draw(k, "offset")
    at = (level.alpha * x.double() + level.sigma * eps).to(x.dtype)
    # The decoder misses x by (sigma/alpha) (eps + sigma s), which costs |eps + sigma s|^2 / 2. With |eps|^2 at its mean
    # D that term cancels in the entropy D (1 + log 2 pi sigma^2) / 2; of the logarithms -D log alpha remains.
    pull = level.sigma * model.score(at, level).double()
    logs = torch.ones_like(pull).mul(level.alpha).log()
    return (pull * (eps + 0.5 * pull) - logs).flatten(1).sum(1)
