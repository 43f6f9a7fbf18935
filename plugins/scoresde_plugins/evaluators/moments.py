"""The Wasserstein distance of two Gaussians: those with the moments of samples and target, or a sampler's exact law.

    W2^2 = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)

(Dowson & Landau 1982, doi:10.1016/0047-259X(82)90077-X; the "Frechet distance" of FID, here in data space.) The trace
is itself a squared distance, min over orthogonal U of |S1^1/2 - S2^1/2 U|^2 (Frobenius), attained at the polar factor
of S2^1/2 S1^1/2. This form keeps the digits of close covariances: their difference is taken before it is squared.

On Gaussian data with an affine score every linear solver is an affine map of the standard normal numbers that it draws,
for its start and for its steps (Pierret & Galerne 2025, arXiv:2405.14250):

    x_end = b + A z_start + sum_k C_k z_k        =>        x_end ~ N(b, A A^T + sum_k C_k C_k^T)

The rows of one run give the map: the noise of row 0 is zero throughout, and each further row has a single 1, in one
coordinate of the start or of one draw. Whether the sampler is affine is tested: random rows, run separately, must end
where the map predicts. The distance to the target, without samples and without noise, has three parts: the prior in
place of the true marginal at t = 1, the steps, and the end at t_min. ``start=marginal`` removes the first.
"""

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import attrs
import torch
from torch import Tensor
from scoresde_core import SDE, Estimate, Evaluator, Metric, Noise, Sampler, ScoreModel, param
from scoresde_run import Evidence, Reference
from .comparison import Comparison, balanced_halves

_ROUNDING = 1e-7
"""Relative size below which the root of an eigenvalue is rounding error: above the root of float64's 2e-16."""
LARGEST = 2**24  # the largest number of entries that all rows may have together: 128 MiB in float64
_CHUNK = 2**20
_CHECKED = 4  # random rows that test the map
_ASKED = 8

Start = Callable[[Tensor], Tensor]  # an affine map from standard normal numbers (B, *shape) to latents at t = 1


def root_error(error: float, half: float) -> float:
    """Return the error of a distance d to first order, from the error of d^2 and the mean d^2 of half of the events.

    f(a) - f(b) is (f^2(a) - f^2(b)) / (f(a) + f(b)), so the error of d^2 is divided by twice the distance of a half,
    and not by twice d. Far from the truth both are the same. Where d is noise alone, the distance of a half is larger
    by the square root of 2, which corrects for the quadratic part of d^2, which first-order errors count twice there.
    """
    return error / (2 * math.sqrt(half)) if error else 0.0


def root(cov: Tensor) -> Tensor:
    """Return the symmetric root of a covariance (D, D), whose eigenvalues may be slightly negative by rounding."""
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    return vectors * values.clamp_min(0).sqrt() @ vectors.T  # type: ignore[no-any-return]


def squared_w2(offset: Tensor, cov: Tensor, half: Tensor) -> float:
    """W2^2 of Gaussians with means ``offset`` apart and covariances ``cov`` and half^2, which may be singular."""
    product = half @ cov @ half
    sizes = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt()
    return float(offset.square().sum() + cov.trace() + half.square().sum() - 2 * sizes.sum())


def gaussian_w2(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """Return W2 of N(mean1, cov1) and N(mean2, cov2) in data units; means (D,), covariances (D, D), may be singular."""
    root1, root2 = root(cov1.double()), root(cov2.double())
    left, _, right = torch.linalg.svd(root2 @ root1)
    shapes = torch.linalg.matrix_norm(root1 - root2 @ (left @ right))
    return math.hypot(float((mean1.double() - mean2.double()).norm()), float(shapes))


@attrs.frozen
class Moments(Comparison):
    """Gaussian W2 between the samples' mean and covariance and the target's.

    Its square has the influence function psi(x) = 2 (m - mu).(x - m) + (x - m)' (I - T) (x - m), with (m, S) the
    samples' moments, mu the target's mean and T the optimal map from N(m, S) to N(mu, S'). The standard error of the
    root follows from the distance of half of the samples (:func:`balanced_halves`). At equal moments the value is its
    floor, which is noise and not zero.
    """

    name: ClassVar[str] = "moments"
    unit: ClassVar[str] = "data units"
    smallest: ClassVar[int] = 4

    def measure(self, samples: Tensor, reference: Reference) -> Estimate:
        mean, cov = (part.to(samples) for part in reference.once("moments", reference.precise.moments))
        half = reference.once("root of the covariance", lambda: root(cov))
        x, n = samples.flatten(1), len(samples)
        offset, centred = x.mean(0) - mean, (x - x.mean(0)) / math.sqrt(n - 1)
        mapped = centred @ half
        product = mapped.T @ mapped
        if not bool(product.isfinite().all()):
            return Estimate(math.inf, math.nan)
        # With product = R S R, where R R = S', the map is T = R (R S R)^-1/2 R. The inverse root is taken on the range:
        # fewer samples than dimensions leave a null space, recognised by its rounding errors.
        values, vectors = torch.linalg.eigh(product)
        sizes = values.clamp_min(0).sqrt()
        sizes = torch.where(sizes > _ROUNDING * sizes[-1], sizes, 0.0)
        inverse = torch.where(sizes > 0, 1 / sizes, 0.0)
        lengths, along = centred.square().sum(1), (mapped @ vectors).square() @ inverse
        squared = offset.square().sum() + lengths.sum() + cov.trace() - 2 * sizes.sum()
        influence = 2 * math.sqrt(n - 1) * (centred @ offset) + (n - 1) * (lengths - along)
        distance = math.sqrt(max(float(squared), 0.0))
        parts = (x[chosen] for chosen in balanced_halves(n, 4))
        halves = [squared_w2(part.mean(0) - mean, part.T.cov().reshape_as(half), half) for part in parts]
        return Estimate(distance, root_error(float(influence.std()) / math.sqrt(n), sum(halves) / len(halves)), n - 1)


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
        """Return the law of the samples, from 1 + D (K + 1) rows for K draws, or the reason why there is none."""
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
