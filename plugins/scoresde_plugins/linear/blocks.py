r"""Linear processes of k coupled variables, such as position and velocity: du = F(t) u dt + G(t) dw, matrices (k, k).

    u_t | x_0 ~ N(A(t) u_0, Sigma(t)),   u_0 = (x_0, 0, ...),   A' = F A,   Sigma' = F Sigma + Sigma F^T + G G^T

Written as u_t = A u_0 + R eps, the probability flow is u' = A' E[u_0 | u] + R' E[eps | u] with

    R' = (F + G G^T Sigma^-1 / 2) R,   R R^T = Sigma                (Zhang et al. 2023, gDDIM, arXiv:2206.05564, Eq. 15)

so R takes the place of sigma in every formula. It is not the Cholesky factor L of Sigma, which gives another path:
R = L U with U' = W U, where W = L^-1 [(F + G G^T Sigma^-1 / 2) L - L'] is antisymmetric: it is the antisymmetric part
of L^-1 (F L - L'), as L^-1 G G^T L^-T is symmetric. U is an ordered product of exponentials of W over short panels.

The exact score needs nothing new of a target: u says of x_0 what the scalar observation c = k^T R^-1 u / |k| says, with
k the first column of R^-1 A: c = |k| x_0 + eps.

Blocks, the k x k matrices, follow the arithmetic of numbers, so that a formula in alpha and sigma holds for them as it
is written, if its factors stand in the order of the matrices. A state holds its k variables in equal parts of dimension
1, and a block mixes them, (M x)_i = sum_j M_ij x_j:

    M N, M x     products; with x on the left, x M = M^T x, as rows are multiplied
    M / N        M N^-1, and x / M = M^-T x; M.solve(x) = M^-1 x
    M^2          M M^T, the covariance of a root;  M^0.5 the symmetric root of a covariance
"""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import cached_property
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor
from scoresde_core import SDE, Frame, Level, Noise, Transition
from scoresde_core.sde import Form

_PANELS = 400
_GAUSS = 0.5 - 3**0.5 / 6


@attrs.frozen(eq=False)
class Block:
    """A matrix (k, k), or one for each row of the state, (B, k, k); float64."""

    matrix: Tensor

    def solve(self, other: Any) -> Any:
        """M^-1 N, or M^-1 x."""
        return Block(torch.linalg.inv(self.matrix)) * other

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Block):
            return Block(self.matrix @ other.matrix)
        return self._apply(other) if isinstance(other, Tensor) and other.ndim else Block(self.matrix * other)

    def __rmul__(self, other: Any) -> Any:
        return Block(self.matrix.mT) * other if isinstance(other, Tensor) and other.ndim else self * other

    def __truediv__(self, other: Any) -> Block:
        return Block(torch.linalg.solve(other.matrix, self.matrix, left=False))

    def __rtruediv__(self, other: Any) -> Any:
        return other * Block(torch.linalg.inv(self.matrix))

    def __add__(self, other: Any) -> Block:
        return Block(self.matrix + self._like(other))

    def __sub__(self, other: Any) -> Block:
        return Block(self.matrix - self._like(other))

    def __rsub__(self, other: Any) -> Block:
        return Block(self._like(other) - self.matrix)

    def __neg__(self) -> Block:
        return Block(-self.matrix)

    def __pow__(self, power: float) -> Block:
        if power == 2:
            return Block(self.matrix @ self.matrix.mT)
        if power == 0.5:
            values, vectors = torch.linalg.eigh(self.matrix)
            return Block((vectors * values.clamp_min(0).sqrt().unsqueeze(-2)) @ vectors.mT)
        raise ValueError(f"a block has the powers 2 and 0.5, got {power}")

    def _like(self, other: Any) -> Tensor:
        """``other``, a block or a number times the identity, as a matrix."""
        if isinstance(other, Block):
            return other.matrix
        return torch.eye(self.matrix.shape[-1], dtype=self.matrix.dtype, device=self.matrix.device).mul(other)

    def _apply(self, x: Tensor) -> Tensor:
        matrix = self.matrix.to(x)
        parts = x.reshape(len(x), matrix.shape[-1], -1)
        return torch.matmul(matrix, parts).reshape(x.shape)


class BlockSDE(SDE):
    """A process of ``parts`` coupled variables; give ``drift_rate`` F, ``diffusion`` G, ``alpha`` A and ``covariance``.

    All append (k, k) to the shape of ``t``. The first variable is the data.
    """

    form: ClassVar[Form] = "blocks"
    parts: ClassVar[int] = 2

    @abstractmethod
    def covariance(self, t: Tensor) -> Tensor:
        """Sigma(t), the covariance of u_t given x_0; positive definite for t > 0."""

    @abstractmethod
    def drift_rate(self, t: Tensor) -> Tensor:
        """F(t)."""

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """G(t)."""

    @property
    def frame(self) -> Frame:
        return Frame(parts=self.parts)

    @property
    def t_signal(self) -> float:
        return self.t_max

    def sigma(self, t: Tensor) -> Tensor:
        """R(t), the root of the covariance that the probability flow carries along."""
        nodes, turns = (part.to(t.device) for part in self._turns)
        at = t.double().clamp_min(float(nodes[0]))
        k = (torch.searchsorted(nodes, at.contiguous(), right=True) - 1).clamp_min(0)
        turn = torch.linalg.matrix_exp(self._turned(nodes[k], at)) @ turns[k]
        root: Tensor = torch.linalg.cholesky(self.covariance(at)) @ turn
        return root.to(t.dtype)

    def log_noise_ratio(self, t: Tensor) -> Tensor:
        """-log |k|: the noise over the signal of the scalar that u says of x_0."""
        lower = torch.linalg.cholesky(self.covariance(t.double()))
        first = torch.linalg.solve_triangular(lower, self.alpha(t.double())[..., :1], upper=False)
        ratio: Tensor = first.square().sum((-2, -1)).log().mul(-0.5)
        return ratio.to(t.dtype)

    def coefficient(self, value: Any, x: Tensor | None) -> Any:
        return Block(value if x is None else value.to(x.device))

    def row_coefficient(self, value: Any, x: Tensor) -> Any:
        return Block(value)

    def complete(self, x: Tensor, noise: Noise, t_min: float) -> tuple[Tensor, Tensor]:
        """Events with the other variables from their law at ``t_min`` given x_0 = ``x``."""
        t = torch.tensor(t_min, dtype=torch.float64)
        lower = torch.linalg.cholesky(self.covariance(t)[1:, 1:]).to(x)
        z = noise.draw("added", "added")[:, x.shape[1] :]
        white = z.reshape(len(x), self.parts - 1, -1)
        mean = self.alpha(t)[1:, :1].to(x) * x.reshape(len(x), 1, -1)
        added = (mean + lower @ white).reshape(z.shape)
        volume = lower.diagonal().log().sum() * white.shape[2] + 0.5 * math.log(2 * math.pi) * white[0].numel()
        return torch.cat([x, added], 1), -0.5 * white.double().square().sum((1, 2)) - volume

    def score_of(self, target: Any, c: Tensor, level: Any, **known: Any) -> Tensor:
        """Sigma^-1 (A E[u_0 | u] - u), with E[x_0 | u] from the target's score at the scalar that u says of x_0."""
        alpha, sigma = level.alpha, level.sigma
        first = sigma.solve(alpha).matrix[..., 0]
        norm = first.norm(dim=-1, keepdim=True)
        white = sigma.solve(c).reshape(len(c), self.parts, -1)
        seen = ((first / norm).unsqueeze(-1).to(c) * white).sum(1).reshape(len(c), -1, *c.shape[2:])
        strength = float(norm) if norm.numel() == 1 else norm.reshape(-1, *[1] * (seen.ndim - 1)).to(c)
        x = (seen + target.score(seen, Level(level.t, strength, 1.0), **known)) / strength
        return (sigma**2).solve(alpha * self.frame.lift(x) - c)  # type: ignore[no-any-return]

    def transition(self, times: Tensor) -> Transition:
        """The exact transition of each step: A_t A_s^-1, with the roots of its covariance and of the posterior's."""
        # Clean data, at time 0, have the moments (I, 0).
        eye, data = torch.eye(self.parts, dtype=times.dtype), (times == 0).reshape(-1, 1, 1)
        alpha, cov = torch.where(data, eye, self.alpha(times)), torch.where(data, 0.0, self.covariance(times))
        scale = torch.linalg.solve(alpha[1:], alpha[:-1], left=False)
        spread = cov[:-1] - scale @ cov[1:] @ scale.mT
        gain = torch.linalg.solve(cov[:-1], scale @ cov[1:])
        posterior = cov[1:] - cov[1:] @ scale.mT @ gain
        return Transition(scale, _root(spread), _root(posterior), scale - eye)

    def discretize(self, times: Tensor) -> Transition:
        """Euler-Maruyama, or the exact transition on a grid where its steps are too coarse to stay stable."""
        now, dt = times[:-1], (times[:-1] - times[1:]).reshape(-1, 1, 1)
        drift = self.drift_rate(now) * dt
        if bool((torch.linalg.matrix_norm(drift) >= 1).any()):
            return self.transition(times)
        eye = torch.eye(self.parts, dtype=times.dtype)
        return Transition(eye + drift, self.diffusion(now) * dt.sqrt(), drift=drift)

    @cached_property
    def _turns(self) -> tuple[Tensor, Tensor]:
        """Times from well below t_min to t_max, and U at them."""
        first = torch.tensor(0.01 * self.t_min, dtype=torch.float64).log()
        nodes = torch.linspace(float(first), float(torch.tensor(self.t_max).log()), _PANELS + 1).double().exp()
        steps = torch.linalg.matrix_exp(self._turned(nodes[:-1], nodes[1:]))
        turns = [torch.eye(self.parts, dtype=torch.float64)]
        for step in steps:
            turns.append(step @ turns[-1])
        return nodes, torch.stack(turns)

    def _turned(self, start: Tensor, end: Tensor) -> Tensor:
        """The integral of W from ``start`` to ``end`` of a panel, with its commutator (Magnus, order 4)."""
        length = end - start
        one, two = (self._rate(start + share * length) for share in (_GAUSS, 1 - _GAUSS))
        h = length[..., None, None]
        return 0.5 * h * (one + two) + (3**0.5 / 12) * h**2 * (two @ one - one @ two)

    def _rate(self, t: Tensor) -> Tensor:
        cov, spread = self.covariance(t), self.diffusion(t) @ self.diffusion(t).mT
        lower, drift = torch.linalg.cholesky(cov), self.drift_rate(t)
        growth = drift @ cov + cov @ drift.mT + spread
        # L' = L phi(L^-1 Sigma' L^-T), with phi the lower triangle and half the diagonal.
        white = torch.linalg.solve_triangular(lower, growth, upper=False)
        white = torch.linalg.solve_triangular(lower, white.mT, upper=False)
        slope = white.tril() - 0.5 * torch.diag_embed(white.diagonal(dim1=-2, dim2=-1))
        rate = torch.linalg.solve_triangular(lower, drift @ lower, upper=False) - slope
        return 0.5 * (rate - rate.mT)  # type: ignore[no-any-return]


def _root(covariance: Tensor) -> Tensor:
    return (Block(0.5 * (covariance + covariance.mT)) ** 0.5).matrix
