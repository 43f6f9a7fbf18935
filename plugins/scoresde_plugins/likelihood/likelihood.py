r"""Log-likelihood by the change of variables along the probability flow ODE.

    log p(x) = log pi(z) + int_{t_min}^1 div v dt,   v = f x - g^2 score / 2,   z = x(1)
    div v    = D f - g^2 div score / 2

(Song et al. 2021, arXiv:2011.13456, Eq. 39; Grathwohl et al. 2019, arXiv:1810.01367.) The drift and its divergence
come from one forward pass. The ODE's state is x and the log density per dimension, both in float64 and with the same
tolerance: the error in bits/dim is about the tolerance. The model sees the dtype of the data.

A process of several parts, such as position x and velocity v, has the density of both. Then with v from its law q at
t_min, log p(x, v) - log q(v) is on average a lower bound of log p(x) (Dockhorn et al. 2022, arXiv:2112.07068, B.5).
"""

import attrs
import torch
from torch import Tensor
from scoresde_core import Noise, ScoreModel
from ..numerics.batches import in_batches
from ..numerics.divergence import Trace, draw_probes, field_and_divergence, score_and_divergence
from ..numerics.flow import Solver, check_t_min, coefficients, require_continuous, velocity, velocity_without_signal


@attrs.frozen(eq=False)
class LogDensities:
    """Log densities or lower bounds ``log_prob`` (n,) in nats, float64, and function evaluations ``nfe`` (n,).

    ``latent`` (n, ...) at t = 1 comes from the flow; ``stderr`` (n,), in nats, from the random draws of the bound.
    """

    log_prob: Tensor
    nfe: Tensor
    latent: Tensor | None = None
    stderr: Tensor | None = None


@torch.no_grad()
def log_likelihood(
    model: ScoreModel, x: Tensor, *, trace: Trace = "rademacher", probes: int = 1, t_min: float = 1e-5,
    solver: Solver | None = None, seed: int = 0, batch_size: int | None = None, first: int = 0, discrete: bool = False,
) -> LogDensities:  # fmt: skip
    """Return the model's log density of events ``x`` (n, ...) in the units of the model's data.

    ``trace`` estimates the divergence with ``probes`` Rademacher or Gaussian probes, fixed along the path, or computes
    it exactly. ``x`` is placed at ``t_min``; the published value is 1e-5 for every SDE. Probes are keyed by ``seed``
    and the index of the sample, from ``first``, so any split into batches and processes gives the same numbers to
    within the solver's tolerance.
    """
    check_t_min(t_min)
    if not discrete:
        require_continuous(model, "the likelihood")
    solver, size = solver or Solver(), batch_size or len(x)
    if size < 1 or len(x) < 1:
        raise ValueError(
            f"log_likelihood needs at least one event and a batch size of at least 1, got {len(x)} and {size}"
        )
    parts = [
        _solve(known, part, trace, probes, t_min, solver, seed, first + start)
        for start, known, part in in_batches(model.framed(), x, size)
    ]
    return LogDensities(*map(torch.cat, zip(*parts, strict=True)))


def _solve(
    model: ScoreModel, x: Tensor, trace: Trace, probes: int, t_min: float, solver: Solver, seed: int, first: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Log densities, evaluations and latents of one batch, whose first sample has the index ``first``."""
    sde, dtype, before = model.sde, x.dtype, model.calls
    shape = sde.state_shape(tuple(x.shape[1:]))
    noise = Noise(seed, shape, len(x), start=first, device=x.device, dtype=dtype)
    x, added = sde.complete(x, noise, t_min)
    dim = x[0].numel()
    vectors = draw_probes(noise, trace, probes)

    def along(t: float, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        at = state[0].to(dtype)
        if sde.form != "scalar":
            moved, stretched = field_and_divergence(lambda here: velocity(model, t, here), at, vectors)
            return moved.double(), stretched / dim
        level = sde.float_level(t)
        if level.alpha == 0:
            _, growth = sde.slopes(torch.tensor(t, dtype=torch.float64))
            stretch = torch.full_like(state[1], float(growth) / float(level.sigma))
            return velocity_without_signal(model, t, at).double(), stretch
        score, divergence = score_and_divergence(model, at, level, vectors)
        drift_rate, pull = coefficients(sde, t, at)
        return torch.add(state[0] * drift_rate, score, alpha=-pull), drift_rate - pull * divergence / dim

    start = (x.double(), torch.zeros(len(x), dtype=torch.float64, device=x.device))
    latent, change = solver.solve(along, start, t_min, sde.t_max)
    log_prob = sde.prior.log_prob(latent) + dim * change - added
    nfe = torch.full((len(x),), model.calls - before)
    frame = sde.frame
    return log_prob, nfe, (frame.leave(latent, sde.t_max) if frame else latent).to(dtype)
