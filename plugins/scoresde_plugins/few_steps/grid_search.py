r"""Search for the times of N steps of a predictor without noise.

With x_N(z), where N steps from the noise z end, x(z), where a fine solution with the same score ends, and D entries,
the error of times is one of

    ends    E_z |x_N(z) - x(z)| / sqrt(D), the distance of each end from its own
    law     E_z |x_N(z) - x(z)|^2 / D + 2 E |x_N(z) - x(z')| - E |x_N(z) - x_N(z')| - E |x(z) - x(z')|, with the energy
            distance of the laws (Szekely and Rizzo 2013), estimated over all pairs z, z' of different noises
    density that of law + (2 / D)^2 (E_z[-log p(x_N(z))] - H)^2, with density p and entropy H of an exact target: for a
            Gaussian the squared mean over directions of the variance's relative error. The estimate takes from
            -log p the part (|z|^2 - D) / 2, which has the mean 0 and most of the spread over z

A method takes a problem and lists of N + 1 times, t_max, ..., 0, to start from, and returns others, and the predictor
to take them with. The last level need not be that of t_min: where N is small, a step from a higher one to the denoised
state leaves more steps for the rest.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Self

import attrs
import torch
from torch import Tensor
from scoresde_core import DATA, SDE, Estimate, ExactScore, Level, Noise, Predictor, Scalar, Schedule, ScoreModel, Step
from scoresde_core.shapes import solve
from scoresde_core.steps import Past, advance
from scoresde_run.results.certainty import mean
from ..coordinates import ENTRIES, denoised_step
from ..deis.predictors import NoiseMultistep
from ..grids import LogSNRGrid
from ..targets.gaussian import GaussianTarget
from ..unipc.predictors import UniPCPredictor
from .tuned import Weighted, rows_of

FINE, LEVELS, MOST, MORE = 48, 40, 25, 100
"""Steps of fine solutions, fine times of ``dp``, and evaluations a start of ``gradient`` and of ``weights``."""

Start = tuple[Tensor, Sequence[Sequence[Scalar]]]
"""Times and weights to start from."""
Tell = Callable[[float], None]
"""Hears the error of every trial."""


def walk(predictor: Predictor, model: ScoreModel, steps: list[Step], x: Tensor) -> list[Tensor]:
    """The states before, between and after the steps of a predictor that draws no noise."""
    states, past = [x], Past()
    for step in steps:
        x, _, past = advance(predictor, x, step, model, x.clone, past)
        states.append(x)
    return states


def solved(model: ScoreModel, times: Tensor, x: Tensor) -> list[Tensor]:
    """The states of the flow at fine ``times``."""
    return walk(UniPCPredictor(), model, Schedule(model.sde, times, x).steps, x)


@attrs.frozen(eq=False)
class Problem:
    """A predictor with a score, start noises ``x`` (n, *shape) in the frame of the process, and where they lead."""

    model: ScoreModel
    predictor: Predictor
    x: Tensor
    ends: Tensor
    match: str = "ends"
    typical: Tensor | float = math.nan
    """H + (|z|^2 - D) / 2 (n,), which under a linear flow is -log p of the end; for ``density``."""

    @classmethod
    @torch.no_grad()
    def draw(
        cls, model: ScoreModel, predictor: Predictor, n: int, seed: int, first: int, like: Tensor, match: str = "ends"
    ) -> Self:
        """That of noises ``first .. first + n`` of the run with this seed, on the device of ``like``, in its dtype."""
        model = model.informed(n, seed, first).framed()
        noise = Noise(seed, model.shape, n, start=first, device=like.device, dtype=like.dtype)
        x = model.sde.prior.from_noise(z := noise.draw("prior", "prior"))
        problem = cls(model, predictor, x, solved(model, LogSNRGrid().times(model.sde, FINE), x)[-1], match)
        if match != "density":
            return problem
        spread = (z.flatten(1).double().square() - 1).sum(1) / 2
        return attrs.evolve(problem, typical=model.target.entropy().value + spread)  # type: ignore[attr-defined]

    def errors(self, steps: list[Step]) -> Tensor:
        """The error's parts (n,), one of each noise, whose mean it is, and their standard error its own."""
        end = walk(self.predictor, self.model, steps, self.x)[-1]
        x, y = (each.flatten(1).double() for each in (end, self.ends))
        far = (x - y).square().mean(1)
        if self.match == "ends":
            return far.sqrt()
        pairs = (across := torch.cdist(x, y)) + across.T - torch.cdist(x, x) - torch.cdist(y, y)
        rows = (pairs - pairs * torch.eye(len(x)).to(x)).sum(1) / (len(x) - 1)
        law = far + 2 * rows - rows.mean()  # the variance of a mean over pairs is four times that of the mean of rows
        if self.match == "law":
            return law
        surprise: Tensor = -self.model.target.log_prob(end).double()  # type: ignore[attr-defined]
        gaps = (surprise - self.typical) / (x.shape[1] / 2)
        return law + gaps.mean() * (2 * gaps - gaps.mean())  # the squared mean, with the error of its linear part

    @torch.no_grad()
    def measured(self, times: Tensor) -> list[float]:
        """The parts of the error of ``times`` (N + 1,)."""
        return self.errors(Schedule(self.model.sde, times, self.x).steps).tolist()

    def error(self, times: Tensor) -> Estimate:
        """The error of ``times`` (N + 1,), with its standard error over the noises."""
        return mean(self.measured(times))

    def loss(self, logits: Tensor) -> Tensor:
        """The error of :func:`times_of` ``logits``, with a gradient through all of the steps."""
        return self.errors(traced(self.model.sde, times_of(logits, self.model.sde), self.x)).mean()


def times_of(logits: Tensor, sde: SDE) -> Tensor:
    """N + 1 times: N - 1 increments in log(sigma / alpha) and what is left to t_min have the shares ``softmax``."""
    first, last = _ends(sde)
    return times_at(first + (last - first) * logits.softmax(0).cumsum(0)[:-1], sde)


def times_at(levels: Tensor, sde: SDE) -> Tensor:
    """t_max, the times at which log(sigma / alpha) has these ``levels``, or is nearest to them, and 0."""
    inner: Tensor = sde.time_at(levels)
    return torch.cat([inner.new_tensor([sde.t_max]), inner, inner.new_tensor([0.0])])


def logits_of(times: Tensor, sde: SDE) -> Tensor:
    """The inverse of :func:`times_of`; a share of less than a hundredth becomes that, so that its gradient lives."""
    first, last = ends = _ends(sde)
    shares = torch.cat([ends[:1], sde.log_noise_ratio(times[1:-1]), ends[1:]]).diff() / (last - first)
    logits: Tensor = shares.clamp_min(1e-2).log()
    return logits


def _ends(sde: SDE) -> Tensor:
    """log(sigma / alpha) where there is signal first, and at t_min."""
    return sde.log_noise_ratio(torch.tensor([sde.t_signal, sde.t_min], dtype=torch.float64))


def traced(sde: SDE, times: Tensor, x: Tensor) -> list[Step]:
    """The steps of ``times``, whose levels let gradients pass; without f, g and the numbers of a discrete chain."""
    levels = [Level(t, sde.alpha(t).to(x), sde.sigma(t).to(x)) for t in times[:-1].reshape(-1, *[1] * x.ndim)] + [DATA]
    if sde.t_signal < sde.t_max:  # a step from noise alone is that of numbers
        levels[0] = sde.float_level(sde.t_max)
    return [Step(k, len(times) - 1, *pair, diffusion=math.nan, sde=sde) for k, pair in enumerate(pairwise(levels))]


def descend(loss: Callable[..., Tensor], start: Sequence[Tensor], most: int, tell: Tell) -> tuple[float, list[Tensor]]:
    """The least loss in about ``most`` evaluations of L-BFGS, begun anew while that gains 1 %, and what has it."""
    tried, first, gained = [(math.inf, list(start))], itemgetter(0), True

    def closure() -> float:
        found = loss(*values)
        for each, gradient in zip(values, torch.autograd.grad(found, values), strict=True):
            each.grad = gradient
        tried.append((float(found.detach()), [each.detach().clone() for each in values]))
        tell(tried[-1][0])
        return tried[-1][0]

    while gained and (left := most + 1 - len(tried)) > 0:
        before, values = min(tried, key=first)
        values = [each.detach().clone().requires_grad_() for each in values]
        torch.optim.LBFGS(values, max_iter=left, max_eval=left, line_search_fn="strong_wolfe").step(closure)  # type: ignore[no-untyped-call]
        gained = min(tried, key=first)[0] < 0.99 * before
    return min(tried, key=first)


def gradient(problem: Problem, starts: Sequence[Tensor], tell: Tell) -> tuple[Tensor, Predictor]:
    """Descend the error from each start, on the increments in log-SNR (LD3, arXiv:2405.15506)."""
    sde = problem.model.sde
    tried = [(problem.error(start).value, start) for start in starts]
    for start in starts:
        error, (logits,) = descend(problem.loss, [logits_of(start, sde)], MOST, tell)
        tried.append((error, times_of(logits, sde)))
    return min(tried, key=itemgetter(0))[1], problem.predictor


def weights(problem: Problem, starts: Sequence[Tensor], tell: Tell) -> tuple[Tensor, Predictor]:
    """Descend it on times and weights of noises, from each start and from tuned times (S4S, arXiv:2502.17423)."""
    starts = [*starts, gradient(problem, starts, tell)[0]]
    predictor = problem.predictor
    assert isinstance(predictor, NoiseMultistep)  # which `refusal` asks for
    pairs = ((start, rows_of(predictor, Schedule(problem.model.sde, start).steps)) for start in starts)
    return min((weighted(problem, pair, tell) for pair in pairs), key=itemgetter(0))[1:]


def weighted(problem: Problem, start: Start, tell: Tell) -> tuple[float, Tensor, Predictor]:
    """The error, times and weights that a start leads to."""
    (times, rows), sde = start, problem.model.sde
    early = rows.count([])  # a start without signal, after which there is no past
    rows = [[*row] + [0.0] * (k + 1 - early - len(row)) for k, row in enumerate(rows)]

    def split(flat: Tensor) -> Weighted:
        return Weighted([row.unbind() for row in torch.split(flat, [len(row) for row in rows])])

    def loss(logits: Tensor, flat: Tensor) -> Tensor:
        return attrs.evolve(problem, predictor=split(flat)).loss(logits)

    flat = torch.tensor([w for row in rows for w in row], dtype=torch.float64)
    error, (logits, flat) = descend(loss, [logits_of(times, sde), flat], MORE, tell)
    return error, times_of(logits, sde), Weighted([[float(w) for w in row] for row in split(flat).rows])


@torch.no_grad()
def dp(problem: Problem, starts: Sequence[Tensor], tell: Tell) -> tuple[Tensor, Predictor]:
    """The fine times with the least sum of the costs of single steps between them (GITS, arXiv:2409.18052)."""
    steps = len(starts[0]) - 1
    times = LogSNRGrid().times(problem.model.sde, max(LEVELS, 2 * steps))
    states = [*solved(problem.model, times[:-1], problem.x), problem.ends]
    return times[shortest(costs(problem.model, times, states), steps)], problem.predictor


def costs(model: ScoreModel, times: Tensor, states: list[Tensor]) -> Tensor:
    """(M, M) mean squared errors, in x / alpha, of one step of first order from state i of the flow to j > i."""
    found = torch.full((len(times), len(times)), math.inf, dtype=torch.float64)
    for i, x in enumerate(states[:-1]):
        steps = [Schedule(model.sde, times[[i, j]], x)[0] for j in range(i + 1, len(times))]
        denoised = model.denoised(x, steps[0].now)
        for j, step in enumerate(steps, i + 1):
            error = solve(step.next.alpha, denoised_step(x, step, denoised) - states[j])
            found[i, j] = error.double().square().mean()
    return found


def shortest(cost: Tensor, hops: int) -> list[int]:
    """The path of ``hops`` steps from the first to the last index with the least sum of ``cost`` (M, M)."""
    left, choices = cost[:, -1], []
    for _ in range(hops - 1):
        left, choice = (cost + left).min(1)
        choices.append(choice)
    path = [0]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return [*path, len(cost) - 1]


def refusal(sde: SDE, predictor: Predictor, method: str) -> str | None:
    """Why the times of a predictor, which serves the process, cannot be searched so, or None."""
    if predictor.stochastic or predictor.idle:
        return f"{predictor} has no ends to compare, which noise would hide: take another, such as ddim or dpmpp_2m"
    if method == "weights" and not isinstance(predictor, NoiseMultistep):
        return f"{predictor} has no weights of noises to start from: take ipndm or deis"
    if sde.form not in ENTRIES or (method != "dp" and sde.form != "scalar"):
        wanted = "one alpha and sigma" if method != "dp" else "an alpha and sigma of each entry"
        return f"{method} needs {wanted}, and {type(sde).__name__} is {sde.form}: take another --method or process"
    if method == "dp":
        return None
    steps = traced(sde, LogSNRGrid().times(sde, 5), x := torch.ones(1, 1))
    passes = walk(predictor, ExactScore(GaussianTarget((1,))), steps, x)[-1].isfinite()
    return None if passes else f"{predictor} reads numbers of a step that let no gradient pass: take --method dp"
