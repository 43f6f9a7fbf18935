"""Conditions by known coefficients in an orthonormal basis (Song et al. 2021, arXiv:2011.13456, Section 5, Appendix I).

With c = Q x, Q orthonormal, and a set of known coefficients, those of a noisy state x_t = alpha x_0 + sigma eps have
the law N(alpha c, sigma^2 I) whatever the rest is. Imposing them replaces these coefficients and keeps the others
(Appendix I.2, Eq. 48-50).

The replacement is approximate: the unknown part is combined with known parts under fresh noise at every level, and
never follows the exact conditional score. It is exact if the parts are independent; docs/conditions.md measures the
bias, and ``smcdiff`` removes it.

A linear measurement y = A x + r z with A = U S V^T determines the coefficients c = V^T x where s > 0: U^T y / s is
N(c, r^2 / s^2) (Kawar et al. 2022, arXiv:2201.11793). If r > 0, each is imposed down to the noise level of its own
value, from which the sampler denoises it.
"""

import math
from operator import attrgetter

import attrs
import torch
from attrs.validators import and_, ge, gt, lt
from torch import Tensor
from scoresde_core import Basis, Draw, Level, Noise, param
from scoresde_core.frame import rotate
from scoresde_run import Condition, Observation, Operator
from scoresde_run.sampling.condition import Loop
from scoresde_run.sampling.operator import Shape
from ..operators.average import AverageOperator
from ..operators.mask import MaskOperator


@attrs.frozen(eq=False)
class KnownCoefficients(Observation):
    """The coefficients where ``known`` (n or 1, *view) is true have the values ``values`` (n, *view).

    ``view`` is the shape of an event, or another one of as many entries whose axes the basis turns. With ``noise``, the
    standard deviation of each value (*view), a value is imposed while alpha noise <= sigma, with what noise is missing;
    then the state is as noisy as the value, and what follows removes the noise. What was measured is ``gain`` (*view,
    singular values; None: 1) times each value.
    """

    values: Tensor
    known: Tensor
    basis: Basis = ()
    noise: Tensor | None = None
    gain: Tensor | None = None

    def rows(self, start: int, count: int) -> "KnownCoefficients":
        if start + count > len(self.values):
            few = f"{len(self.values)} events were observed, too few for sample {start + count - 1}"
            raise ValueError(f"{few}: observe one event per sample")
        return self.select(slice(start, start + count))

    def select(self, index: slice | Tensor) -> "KnownCoefficients":
        """The observation of the samples ``index`` among its samples."""
        known = self.known if len(self.known) == 1 else self.known[index]
        return attrs.evolve(self, values=self.values[index], known=known)

    def to(self, x: Tensor) -> "KnownCoefficients":
        *basis, noise, gain = (each if each is None else each.to(x) for each in (*self.basis, self.noise, self.gain))
        values, known = self.values.to(x), self.known.to(x.device)
        return attrs.evolve(self, values=values, known=known, basis=tuple(basis), noise=noise, gain=gain)

    def residual(self, x: Tensor) -> Tensor:
        """y - A x of events ``x`` (n, ...), 0 where unknown; differentiable."""
        off = torch.where(self.known, self.values - self.seen(x), 0.0)
        return off if self.gain is None else self.gain * off

    def seen(self, x: Tensor) -> Tensor:
        """The coefficients (n, *view) of events ``x`` (n, ...) where known, else 0."""
        return torch.where(self.known, rotate(x.reshape(len(x), *self.values.shape[1:]), self.basis), 0.0)

    def events(self, c: Tensor, like: Tensor) -> Tensor:
        """The events, in the shape of ``like``, with coefficients ``c`` (n, *view) where known, else 0."""
        return rotate(torch.where(self.known, c, 0.0), self.basis, inverse=True).reshape(like.shape)

    def impose(self, x: Tensor, level: Level, noise: Draw | None = None) -> Tensor:
        shape, known, where, sigma = x.shape, self.values * level.alpha, self.known, level.sigma
        if self.noise is not None:
            missing = sigma**2 - (level.alpha * self.noise).square()
            where, sigma = where & (missing >= 0), missing.clamp_min(0).sqrt()
        x = x.reshape(len(x), *self.values.shape[1:])
        if noise is not None:
            known = known + sigma * noise().reshape(x.shape)
        if not any(matrix is not None for matrix in self.basis):
            return torch.where(where, known, x).reshape(shape)
        # Only the difference is rotated back, so the unknown coefficients are not rounded.
        change = torch.where(where, known - rotate(x, self.basis), 0.0)
        return (x + rotate(change, self.basis, inverse=True)).reshape(shape)


@attrs.frozen(eq=False, kw_only=True)
class KnownMeasurement(KnownCoefficients):
    """All of y = A(x), by an ``operator`` that is not linear; alone it changes no sample."""

    operator: Operator
    acts_on_state = False

    def residual(self, x: Tensor) -> Tensor:
        return self.values - self.operator.apply(x)

    def skip(self, loop: Loop) -> str | None:
        return f"{self.operator} is not linear: take a method for it, such as dps[condition=...]"


def observe(x: Tensor, known: Tensor, basis: Basis = ()) -> KnownCoefficients:
    """Return the coefficients of ``x`` where ``known`` is true; the others are dropped."""
    exact = tuple(matrix if matrix is None else matrix.to(x.device) for matrix in basis)
    coefficients = rotate(x.double(), exact).to(x) if any(matrix is not None for matrix in basis) else x
    known = known.to(x.device)
    return KnownCoefficients(torch.where(known, coefficients, torch.zeros_like(coefficients)), known, exact)


@attrs.frozen
class Inpaint(MaskOperator, Condition):
    """Entries under the mask are known, and the rest is generated; a random mask differs for every sample."""

    def observe(self, x: Tensor) -> KnownCoefficients:
        """Return the known entries of ``x``; the others may be anything, including NaN."""
        if reason := self.skip(tuple(x.shape[1:])):
            raise ValueError(reason)
        return observe(x, self.known(len(x), tuple(x.shape[1:])).expand(-1, *x.shape[1:]))

    def known(self, n: int, shape: tuple[int, ...]) -> Tensor:
        """Where an event of ``shape`` is known, (n, ...) for random masks, else (1, ...), to be broadcast."""
        mask = self.drawn(n, shape)
        return mask.reshape(len(mask), *[1] * (len(shape) + 1 - mask.ndim), *mask.shape[1:])


@attrs.frozen
class Colorize(Condition):
    """The mean of the three channels is known at every pixel; two orthogonal colour channels are generated (I.3).

    Events are RGB images. Only their greys are observed, so an image of three equal channels is enough.
    """

    mixes_channels = True

    def skip(self, shape: tuple[int, ...]) -> str | None:
        return None if len(shape) == 3 and shape[0] == 3 else f"colorize needs images of 3 channels, not {shape}"

    def observe(self, x: Tensor) -> KnownCoefficients:
        if reason := self.skip(tuple(x.shape[1:])):
            raise ValueError(reason)
        known = torch.zeros(1, *x.shape[1:], dtype=torch.bool)
        known[:, 0] = True
        return observe(x, known, (grey_basis(), None, None))


def grey_basis() -> Tensor:
    """Return an orthonormal (3, 3) matrix, float64, first row (1, 1, 1) / sqrt(3): a Householder reflection."""
    axis = torch.full((3,), 1 / math.sqrt(3), dtype=torch.float64)
    axis[0] -= 1
    return torch.eye(3, dtype=torch.float64) - 2 * torch.outer(axis, axis) / (axis @ axis)


@attrs.frozen
class LinearMeasurement(Condition):
    """A measurement y = A x + noise z of each event, by any operator with singular values, in the model's units.

    An operator that is not linear serves methods that need gradients alone: dps, dsg, tds.

    Samples match y to rounding where ``noise`` is 0, but for coefficients whose singular value is below ``smallest``
    times the largest: no measurement with rounding can be divided by it, and they are generated.
    """

    operator: Operator = param(attrs.Factory(AverageOperator), "operator A: average, blur, mask, fourier, radon, ...")
    noise: float = param(0.0, "standard deviation of the noise of y", ge(0))
    smallest: float = param(0.1, "singular values below this share of the largest are unknown", and_(gt(0), lt(1)))
    seed: int = param(0, "seed of the noise", ge(0))

    linear, mixes_channels = (property(attrgetter(f"operator.{name}")) for name in ("linear", "mixes_channels"))

    def skip(self, shape: Shape) -> str | None:
        if (reason := self.operator.skip(shape)) or not self.linear or self.operator.spectrum(shape):
            return reason
        return f"{type(self.operator).__name__} has no cheap singular values for events of shape {list(shape)}"

    def measure(self, x: Tensor) -> Tensor:
        """y (n, *measured) of events ``x`` (n, *shape)."""
        y = self.operator.apply(x)
        noise = Noise(self.seed, tuple(y.shape[1:]), len(y)).draw("condition", "measured").to(y)
        return y + self.noise * noise if self.noise else y

    def observe(self, x: Tensor) -> KnownCoefficients:
        if reason := self.skip(tuple(x.shape[1:])):
            raise ValueError(reason)
        return self.given(self.measure(x.double()), tuple(x.shape[1:])).to(x)

    def given(self, y: Tensor, shape: Shape) -> KnownCoefficients:
        """What measurements ``y`` (n, *measured) determine of events of ``shape``."""
        if not self.linear:
            self.operator.check(y, shape)
            known, noise = torch.ones_like(y[:1], dtype=torch.bool), y.new_tensor(self.noise) if self.noise else None
            return KnownMeasurement(values=y, known=known, noise=noise, operator=self.operator)
        values, spectrum = self.operator.back(y, shape, self.smallest)
        s = spectrum.values
        known, noise = s > self.smallest * s.max(), self.noise / s if self.noise else None
        return KnownCoefficients(values, known.unsqueeze(0), spectrum.basis, noise, s)
