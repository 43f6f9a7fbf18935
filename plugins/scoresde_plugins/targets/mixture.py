"""Mixtures of factor analysers: Gaussian mixtures with low-rank covariances, exact at every noise level.

    x_0 | k ~ N(mu_k, W_k W_k^T + diag(psi)),   p(k) = pi_k          (Ghahramani & Hinton 1996, CRG-TR-96-1)

W_k is (D, q); psi (D,) is shared by all K components. With x = alpha x_0 + sigma eps, component k becomes
N(alpha mu_k, alpha^2 W_k W_k^T + S) with the diagonal S = alpha^2 psi + sigma^2. The matrix inversion lemma leaves
q x q matrices, R_k R_k^T = I + alpha^2 W_k^T S^-1 W_k, and factors V_k = alpha W_k R_k^-T that they whiten:

    u_k      = V_k^T S^-1 (x - alpha mu_k)
    log N_k  = -1/2 [D log 2 pi + log|S| + 2 log|R_k| + |S^-1/2 (x - alpha mu_k)|^2 - |u_k|^2]
    r        = softmax_k(log pi_k + log N_k)
    score    = S^-1 (sum_k r_k [alpha mu_k + V_k u_k] - x)

With the rows of all W_k and mu_k stacked into one matrix, a call is a product (B, D) x (D, K(q+1)) and one back; no
tensor has a batch, a component and a data dimension. A new noise level costs the K Gram matrices of the stack, in
float64, and if all rows share it the stack of V_k and mu_k times S^-1; otherwise R_k^-1 and S^-1 multiply what depends
on the batch. Data and means are centred at the mixture's mean, which keeps the squares that cancel in log N_k as small
as possible.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable
from functools import cache, cached_property, lru_cache
from math import prod
from typing import Any, Self

import attrs
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.special import entr
from scoresde_core import DATA, Estimate, Level, Noise, Target
from scoresde_core.shapes import per_row

ENTROPY_DRAWS = 2**15
_CACHED_LEVELS = 8
LEAST = -60.0  # least log weight relative to the largest: less counts for nothing, and denormal numbers are slow
_CHUNK = 4096  # rows per pass over batches of any size

Coefficient = float | Tensor
"""alpha or sigma: a float, or a float64 column (n, 1), n = 1 or n = B."""


def coefficients(level: Level, x: Tensor) -> tuple[Coefficient, Coefficient]:
    """Return ``(alpha, sigma)`` of ``level`` for a batch ``x`` (B, ...): two floats, or two float64 columns (n, 1).

    The entries of a level are numbers, tensors of one element, or tensors of one value per row, (B,) or (B, 1, ...). A
    tensor of one element without a gradient is read once, so that a cache can be keyed by its value.
    """
    tensors = [value for value in (level.alpha, level.sigma) if isinstance(value, Tensor)]
    for value in tensors:
        if value.numel() > 1 and not len(value) == value.numel() == len(x):
            raise ValueError(
                f"a noise level has one value or one per row: got shape {tuple(value.shape)} for a batch of {len(x)}"
            )
    n = max((value.numel() for value in tensors), default=1)
    if n == 1 and not any(value.requires_grad for value in tensors):
        return float(level.alpha), float(level.sigma)
    like = x.new_empty(n, dtype=torch.float64)
    return per_row(level.alpha, like).unsqueeze(1), per_row(level.sigma, like).unsqueeze(1)


def events(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return ``x`` (B, *shape) as (B, D); raise ValueError for any other shape."""
    if x.ndim != len(shape) + 1 or tuple(x.shape[1:]) != shape:
        raise ValueError(f"this target has events of shape {shape}, got a batch of shape {tuple(x.shape)}")
    return x.reshape(x.shape[0], prod(shape))


def bounded(logs: Tensor, dim: int) -> Tensor:
    """Log weights that are at least ``LEAST`` relative to the largest along ``dim``."""
    return logs.clamp_min(logs.detach().amax(dim, keepdim=True) + LEAST)


def in_parts(rows: Callable[[int, int], Tensor], n: int) -> Tensor:
    """``rows(count, start)`` of ``n`` rows, made a few thousand at a time."""
    return torch.cat([rows(min(_CHUNK, n - start), start) for start in range(0, n or 1, _CHUNK)])


def mixed(_: Any, __: Any, target: Any) -> None:
    """Refuse a target that is no mixture of Gaussians: a validator of parameters."""
    if not hasattr(target, "as_mixture"):
        raise ValueError(f"{type(target).__name__} is no mixture of Gaussians: take gaussian, mixture2d or mnist_mfa")


@attrs.frozen
class Components:
    """The components at a noise level, n = 1 for a shared one or n = B; float64 results in the working dtype."""

    alpha: Tensor
    """(n, 1)."""
    precision: Tensor
    """S^-1, (n, D)."""
    turn: Tensor
    """[alpha R_k^-1, 0; 0, 1], which turns W_k into V_k, (n, K, q + 1, q + 1)."""
    offset: Tensor
    """For each row of the stack -alpha V_k^T S^-1 mu_k, or 0 for a mean, (n, K, q + 1)."""
    constant: Tensor
    """The part of log pi_k + log N_k that does not depend on x, (n, K)."""
    stack: Tensor | None
    """[V_k; mu_k - m] S^-1, (K(q + 1), D), of a level of floats; otherwise ``turn`` acts on products."""


@attrs.frozen
class Posterior:
    """The components given a batch, which comes last where that is faster, about the mixture's mean m."""

    joint: Tensor
    """log pi_k + log N_k without the square that all components share, (K, B)."""
    u: Tensor
    """u_k and (mu_k - m)^T S^-1 (x - alpha m), (K, q + 1, B)."""
    pull: Tensor
    """S^-1 (alpha m - x), (B, D)."""
    components: Components

    def log_prob(self) -> Tensor:
        """The log density, (B,)."""
        square = (self.pull * (self.pull / self.components.precision)).sum(1)
        return bounded(self.joint, 0).logsumexp(0) - 0.5 * square


@attrs.frozen(eq=False)
class MixtureOfFactorAnalysers(Target):
    """K Gaussians with q factors each and one diagonal noise, over events of any shape with D entries.

    ``weights`` (K,), ``means`` (K, D), ``factors`` (K, q, D) and ``noise`` (D,), the variances psi, are float64; q = 0
    is a mixture of Gaussians with one diagonal covariance. Results are in ``dtype``, or in float64 for float64 input.
    ``known_entropy`` saves its Monte Carlo estimate. Shapes or values out of range raise ``ValueError``.
    """

    knows = ("class",)

    weights: Tensor = attrs.field(repr=False)
    means: Tensor = attrs.field(repr=False)
    factors: Tensor = attrs.field(repr=False)
    noise: Tensor = attrs.field(repr=False)
    shape: tuple[int, ...] = attrs.field()
    known_entropy: Estimate | None = None
    dtype: torch.dtype = torch.float32

    def __attrs_post_init__(self) -> None:
        for name in ("weights", "means", "factors", "noise"):
            object.__setattr__(self, name, getattr(self, name).detach().to(torch.float64))
        components, dim = self.means.shape if self.means.ndim == 2 else (0, 0)
        if dim != prod(self.shape):
            found = tuple(self.means.shape)
            raise ValueError(f"means must be (K, {prod(self.shape)}) for events of shape {self.shape}, got {found}")
        if self.factors.ndim != 3 or self.factors.shape[::2] != (components, dim):
            raise ValueError(f"factors must be ({components}, q, {dim}), got {tuple(self.factors.shape)}")
        if self.weights.shape != (components,) or not bool((self.weights > 0).all()):
            raise ValueError(f"weights must be {components} positive numbers, got {self.weights.tolist()}")
        for name in ("means", "factors", "noise"):
            if wrong := int((~getattr(self, name).isfinite()).sum()):
                raise ValueError(f"{name} must be finite, got {wrong} entries that are not")
        if self.noise.shape != (dim,) or not bool((self.noise > 0).all()):
            raise ValueError(f"noise must be {dim} positive variances, got shape {tuple(self.noise.shape)}")
        object.__setattr__(self, "weights", self.weights / self.weights.sum())

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Return ``n`` draws (n, *shape), float32 on the CPU; the first m are the draws of ``sample(m, seed)``."""
        return in_parts(lambda *part: self._draw(seed, *part).float(), n)

    def log_prob(self, x: Tensor, level: Level = DATA) -> Tensor:
        return self.infer(x, level).log_prob()

    def score(self, x: Tensor, level: Level = DATA, classes: Tensor | None = None) -> Tensor:
        posterior = self.infer(x, level)
        joint = posterior.joint
        if classes is not None:
            own = classes.to(joint.device)
            other = (own >= 0) & (own != torch.arange(len(joint), device=joint.device)[:, None])
            joint = joint.masked_fill(other, -math.inf)
        at, r = posterior.components, bounded(joint, 0).softmax(0)
        weights = posterior.u * r.unsqueeze(1)
        weights[:, -1] = r * at.alpha.T
        if at.stack is not None:
            return posterior.pull.addmm_(weights.flatten(0, 1).T, at.stack).reshape(x.shape)
        weights = torch.einsum("kpb,bkpq->bkq", weights, at.turn).flatten(1)
        return torch.addcmul(posterior.pull, weights @ self._cast(weights.dtype)[0], at.precision).reshape(x.shape)

    def as_mixture(self) -> MixtureOfFactorAnalysers:
        """This law as a mixture of factor analysers: itself."""
        return self

    def component(self, k: int) -> MixtureOfFactorAnalysers:
        own = {name: getattr(self, name)[k : k + 1] for name in ("weights", "means", "factors")}
        return attrs.evolve(self, **own, known_entropy=None)

    def responsibilities(self, x: Tensor) -> Tensor:
        return self.infer(x, DATA).joint.softmax(0).T

    def log_responsibilities(self, x: Tensor, level: Level = DATA) -> Tensor:
        return self.infer(x, level).joint.log_softmax(0).T

    def entropy(self) -> Estimate:
        """-E log p_0(x) = H(k) + H(x | k) - H(k | x) in nats.

        The first two terms are closed form; the third is the mean entropy of the responsibilities over 2^15 exact
        draws in float64, computed once. It lies between 0 and log K, so the standard error is small in any dimension.
        """
        return self.known_entropy or self._entropy

    def moments(self) -> tuple[Tensor, Tensor]:
        stack = self._centred.clone()
        rows = (stack * self.weights[:, None, None].sqrt()).flatten(0, 1)
        return self.center.clone(), rows.T @ rows + self.noise.diag()

    def modes(self) -> Tensor:
        return self.weights.clone()

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Self:
        moved = {name: getattr(self, name).to(device) for name in ("weights", "means", "factors", "noise")}
        return attrs.evolve(self, **moved, dtype=dtype)

    @cached_property
    def center(self) -> Tensor:
        """The mixture's mean (D,), the origin of all computations."""
        return self.weights @ self.means

    @cached_property
    def _centred(self) -> Tensor:
        """Factors and centred means, (K, q + 1, D): [W_k; mu_k - m]."""
        return torch.cat([self.factors, (self.means - self.center).unsqueeze(1)], 1)

    @cached_property
    def _cast(self) -> Callable[[torch.dtype], tuple[Tensor, Tensor]]:
        """The stack (K(q + 1), D) and the centre (D,) in a working dtype."""
        return cache(lambda dtype: (self._centred.flatten(0, 1).to(dtype), self.center.to(dtype)))

    @cached_property
    def _at(self) -> Callable[[Coefficient, Coefficient, torch.dtype], Components]:
        """:meth:`_components`, which keeps those of the last levels that were floats."""
        known = lru_cache(_CACHED_LEVELS)(self._components)
        return lambda alpha, *more: (self._components if isinstance(alpha, Tensor) else known)(alpha, *more)

    @cached_property
    def _pairs(self) -> Tensor:
        """Products of two stack rows of a component, (D, K(q + 1)^2): diagonals times this are the Gram matrices."""
        products = self._centred.unsqueeze(1) * self._centred.unsqueeze(2)
        return products.flatten(0, 2).T

    @cached_property
    def _entropy(self) -> Estimate:
        at = self._at(1.0, 0.0, torch.float64)
        # log N_k averages to constant - D/2 under its own component; the constant without its x-free square.
        square = (self._centred[:, -1].square() * at.precision).sum(1)
        given_k = 0.5 * len(self.noise) - (at.constant[0] + 0.5 * square)
        known = float(self.weights @ given_k)
        device = self.noise.device
        ambiguity = in_parts(
            lambda *part: entr(self.responsibilities(self._draw(0, *part).to(device))).sum(1), ENTROPY_DRAWS
        )
        # The draws miss any overlap rarer than one in their number, which contributes at most log K.
        unseen = math.log(len(self.weights)) / ENTROPY_DRAWS
        stderr = max(float(ambiguity.std()) / math.sqrt(ENTROPY_DRAWS), unseen)
        return Estimate(known - float(ambiguity.mean()), stderr)

    def _draw(self, seed: int, n: int, start: int) -> Tensor:
        """Return draws ``start`` to ``start + n`` of a seed, (n, *shape), float64, on the CPU."""

        def normal(dim: int, purpose: str) -> Tensor:
            return Noise(seed, (dim,), n, start=start, dtype=torch.float64).draw("target", purpose)

        weights, factors = self.weights.cpu(), self.factors.cpu()
        uniform = torch.special.ndtr(normal(1, "component")).squeeze(1)
        component = torch.searchsorted(weights.cumsum(0)[:-1], uniform)
        hidden = normal(factors.shape[1], "factors") if factors.shape[1] else uniform.new_zeros(n, 0)
        x = normal(len(self.noise), "noise") * self.noise.cpu().sqrt() + self.means.cpu()[component]
        for k in sorted(set(component.tolist())):
            rows = (component == k).nonzero().squeeze(1)
            x[rows] += hidden[rows] @ factors[k]
        return x.reshape(n, *self.shape)

    def infer(self, x: Tensor, level: Level = DATA) -> Posterior:
        """Return the posterior of component and factors given ``x`` (B, *shape) at ``level``."""
        flat = events(x, self.shape)
        flat = flat.to(torch.promote_types(flat.dtype, self.dtype))
        stack, center = self._cast(flat.dtype)
        at = self._at(*coefficients(level, flat), flat.dtype)
        pull = at.alpha * center - flat
        if at.stack is not None:
            u = torch.addmm(at.offset.reshape(-1, 1), at.stack, pull.T, alpha=-1).reshape(*self._centred.shape[:2], -1)
            pull.mul_(at.precision)
        else:
            products = stack @ pull.mul_(at.precision).T
            turned = torch.einsum("kqb,bkpq->kpb", products.reshape(*self._centred.shape[:2], -1), at.turn)
            u = at.offset.permute(1, 2, 0) - turned
        joint = torch.add(at.constant.T, u[:, :-1].square().sum(1), alpha=0.5).addcmul(u[:, -1], at.alpha.T)
        return Posterior(joint, u, pull, at)

    def _components(self, alpha: Coefficient, sigma: Coefficient, dtype: torch.dtype) -> Components:
        """Return the components at one level or at one per row, computed in float64, without reading from a device."""
        variance = (alpha**2 * self.noise + sigma**2).reshape(-1, len(self.noise))
        precision = variance.reciprocal()
        stack, size = self._centred, self._centred.shape[1]
        if len(precision) == 1:
            gram = ((stack * precision) @ stack.mT).unsqueeze(0)
        else:
            gram = (precision @ self._pairs).reshape(-1, len(stack), size, size)
        # A column (n, 1) against (n, K) and, with further axes, against (n, K, q, q).
        a3 = alpha[..., None, None] if isinstance(alpha, Tensor) else alpha
        eye = torch.eye(size - 1, dtype=torch.float64, device=self.noise.device)
        root = torch.linalg.cholesky_ex(eye + a3**2 * gram[..., :-1, :-1]).L
        inverse = torch.linalg.solve_triangular(root, eye.expand_as(root), upper=False)
        volume = variance.log().sum(1, keepdim=True) + 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        square = alpha**2 * gram[..., -1, -1] + len(self.noise) * math.log(2 * math.pi)
        constant = self.weights.log() - 0.5 * (volume + square)
        turn = pad(a3 * inverse, (0, 1, 0, 1))
        turn[..., -1, -1] = 1
        offset = pad(-(a3**2) * (inverse @ gram[..., :-1, -1:]), (0, 0, 0, 1)).squeeze(-1)
        column = alpha if isinstance(alpha, Tensor) else precision.new_full((1, 1), alpha)
        tensors = (column, precision, turn, offset, constant)
        column, precision, turn, offset, constant = (tensor.to(dtype) for tensor in tensors)
        rows = None
        if not isinstance(alpha, Tensor):
            rows = (turn.squeeze(0) @ self._cast(dtype)[0].reshape(stack.shape)).mul_(precision).flatten(0, 1)
        return Components(column, precision, turn, offset, constant, rows)


class _Mixtures:
    """The attribute of this name of a target's mixture."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, target: MixtureTarget | None, owner: type) -> Any:
        return self if target is None else getattr(target.mixture, self.name)


class MixtureTarget(Target):
    """Base class of targets whose parameters describe a mixture: define :meth:`build`."""

    knows = ("class",)
    shape: Any = _Mixtures()
    sample: Any = _Mixtures()
    log_prob: Any = _Mixtures()
    score: Any = _Mixtures()
    responsibilities: Any = _Mixtures()
    log_responsibilities: Any = _Mixtures()
    entropy: Any = _Mixtures()
    moments: Any = _Mixtures()
    modes: Any = _Mixtures()
    component: Any = _Mixtures()

    @abstractmethod
    def build(self) -> MixtureOfFactorAnalysers:
        """Return the mixture that the parameters describe, on the CPU; called once."""

    @cached_property
    def mixture(self) -> MixtureOfFactorAnalysers:
        """The mixture, on this target's device."""
        return self.build()

    def as_mixture(self) -> MixtureOfFactorAnalysers:
        """The mixture, on this target's device."""
        return self.mixture

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Self:
        clone = copy.copy(self)
        clone.__dict__["mixture"] = self.mixture.to(device, dtype)
        return clone
