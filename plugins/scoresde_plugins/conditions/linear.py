"""Linear measurements as conditions: y = A x + r z is known, and what A does not determine is generated.

With A = U S V^T, the measurement determines the coefficients c = V^T x where s > 0: U^T y / s is N(c, r^2 / s^2)
(Kawar et al. 2022, arXiv:2201.11793). They are imposed on the state like those of a mask. If r > 0, each is imposed
down to the noise level of its own value, from which the sampler denoises it.
"""

import attrs
from attrs.validators import and_, ge, gt, lt
from torch import Tensor
from scoresde_core import Noise, param
from scoresde_run import Condition, Operator
from scoresde_run.sampling.operator import Shape
from ..operators.average import AverageOperator
from .known import KnownCoefficients


@attrs.frozen
class LinearMeasurement(Condition):
    """A measurement y = A x + noise z of each event, by any operator with singular values, in the model's units.

    Samples match y to rounding where ``noise`` is 0, but for coefficients whose singular value is below ``smallest``
    times the largest: no measurement with rounding can be divided by it, and they are generated.
    """

    operator: Operator = param(attrs.Factory(AverageOperator), "operator A: average, blur, mask, fourier, radon, ...")
    noise: float = param(0.0, "standard deviation of the noise of y", ge(0))
    smallest: float = param(0.1, "singular values below this share of the largest are unknown", and_(gt(0), lt(1)))
    seed: int = param(0, "seed of the noise", ge(0))

    @property
    def mixes_channels(self) -> bool:  # type: ignore[override]
        return self.operator.mixes_channels

    def skip(self, shape: Shape) -> str | None:
        if (reason := self.operator.skip(shape)) or self.operator.spectrum(shape):
            return reason
        return f"{type(self.operator).__name__} has no cheap singular values for events of shape {list(shape)}"

    def measure(self, x: Tensor) -> Tensor:
        """y (n, *measured) of events ``x`` (n, *shape)."""
        y = self.operator.apply(x)
        noise = Noise(self.seed, tuple(y.shape[1:]), len(y)).draw("condition", "measured").to(y)
        return y + self.noise * noise if self.noise else y

    def observe(self, x: Tensor) -> KnownCoefficients:
        """Return the coefficients of ``x`` (n, *shape) that its measurement determines."""
        if reason := self.skip(tuple(x.shape[1:])):
            raise ValueError(reason)
        return self.given(self.measure(x.double()), tuple(x.shape[1:])).to(x)

    def given(self, y: Tensor, shape: Shape) -> KnownCoefficients:
        """Return what measurements ``y`` (n, *measured) determine of events of ``shape``."""
        values, spectrum = self.operator.back(y, shape, self.smallest)
        s = spectrum.values
        known, noise = s > self.smallest * s.max(), self.noise / s if self.noise else None
        return KnownCoefficients(values, known.unsqueeze(0), spectrum.basis, noise)
