r"""The divergence of a score, from the forward pass that gives the score itself.

    div s = tr J,   J = ds/dx          exact: D products e_i^T J
                                       estimated: mean_k v_k^T J v_k,  E[v v^T] = I     (Hutchinson 1990)

Products v^T J come from reverse-mode differentiation of the graph of the forward pass, so a divergence costs no forward
pass of its own: one probe is one forward and one backward pass. With S the symmetric part of J, the variance of one
probe is 2 (|S|^2 - sum_i S_ii^2) with entries +-1 (Rademacher) and 2 |S|^2 with Gaussian entries.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from scoresde_core import Level, Noise, ScoreModel

Trace = Literal["rademacher", "gaussian", "exact"]
_CHUNK = 64  # rows of the Jacobian computed at a time for an exact trace


def draw_probes(noise: Noise, trace: Trace, count: int) -> Tensor | None:
    """Draw ``count`` probes for every sample, (count, B, ...), or None for an exact trace."""
    if trace == "exact":
        return None
    if count < 1:
        raise ValueError(f"the number of probes must be at least 1, got {count}")
    normal = torch.stack([noise.draw(k, "probe") for k in range(count)])
    return normal if trace == "gaussian" else torch.where(normal >= 0, 1.0, -1.0).to(normal)


def score_and_divergence(
    model: ScoreModel, x: Tensor, level: Level, probes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the score, like ``x`` (B, ...), and its divergence (B,) in float64, from one function evaluation."""
    return field_and_divergence(lambda at: model.score(at, level), x, probes)


def field_and_divergence(
    field: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return a vector field at ``x`` (B, ...), like ``x``, and its divergence (B,) in float64.

    ``probes`` (P, B, ...) estimate the divergence; with None it is exact and takes as many backward passes as an event
    has entries (batched, 64 at a time): cheap for points, not for images. Neither result carries gradients.
    """
    with torch.enable_grad():
        at = x.detach().requires_grad_(True)
        value = field(at)
        if not value.requires_grad:  # it does not depend on x
            return value, torch.zeros(len(x), dtype=torch.float64, device=x.device)
        divergence = _exact(value, at) if probes is None else _estimate(value, at, probes)
    return value.detach(), divergence


def _estimate(score: Tensor, x: Tensor, probes: Tensor) -> Tensor:
    one = len(probes) == 1  # for which vmap costs more than it saves
    (products,) = torch.autograd.grad(score, x, probes[0] if one else probes, is_grads_batched=not one)
    return (products * probes).flatten(2).sum(2, dtype=torch.float64).mean(0)


def _exact(score: Tensor, x: Tensor) -> Tensor:
    batch, dim = len(x), x[0].numel()
    total = torch.zeros(batch, dtype=torch.float64, device=x.device)
    for start in range(0, dim, _CHUNK):
        entries = torch.arange(start, min(start + _CHUNK, dim), device=x.device)
        rows = torch.nn.functional.one_hot(entries, dim).to(x.dtype)
        vectors = rows.unsqueeze(1).expand(-1, batch, -1).reshape(-1, *x.shape)
        (products,) = torch.autograd.grad(score, x, vectors, is_grads_batched=True, retain_graph=start + _CHUNK < dim)
        # Row i of the chunk holds e_i^T J: its entry i is on the diagonal.
        total += (products.flatten(2) * rows.unsqueeze(1)).sum((0, 2), dtype=torch.float64)
    return total
