r"""Langevin dynamics with a step size set by a signal-to-noise ratio (Song et al. 2021, arXiv:2011.13456, Alg. 4, 5).

    eps = 2 a (snr r)^2,      mean = x + eps score,      x = mean + sqrt(2 eps) z

``a`` is the squared scale (1 + phi)^2 of the SDE's chain over the step: 1 for VE, 1 - beta_i for VP, and the same
formula for any other SDE (the published code has no sub-VP corrector). ``r`` is |z| / |score|:

    norm=batch    mean |z| over the batch / mean |score| over the batch, as published
    norm=level    sigma(t): sqrt(D) for |z| and sqrt(D) / sigma for |score|, the norm of the score of pure noise

Where sigma is one number an entry, steps are those of x / sigma: they are preconditioned by sigma^2.

Small Langevin steps leave a distribution invariant if their size depends neither on the state nor on their own noise.
Norms over a batch depend on both, most of all in small batches: near the centre scores are small, so steps are long and
lead away from it, and large noise makes a step long. For N(0, s^2 I) in D dimensions and batches of B the standard
deviation becomes about (1 + 2 / (B D)) s, however small snr is. The paper's formula for one sample is the case B = 1.
"""

from math import ceil, prod
from typing import ClassVar, Literal, Self

import attrs
import torch
from attrs.validators import and_, ge, gt, in_, le
from torch import Tensor
from scoresde_core import Corrector, Draw, ScoreModel, Step, param
from scoresde_core.shapes import diffuse, shift
from ..coordinates import ENTRIES, FORMS

# The ratio |z| / |score| diverges where the score vanishes (a zero-initialised network): it is at most this many times
# its value for pure noise of the state's scale.
_LARGEST_RATIO = 1e3

_NOTABLE = 0.01  # excess of the standard deviation above which :meth:`LangevinCorrector.caveat` warns


@attrs.frozen
class LangevinCorrector(Corrector):
    """``n_steps`` Langevin steps sized by mean norms over the batch, as published, or by the noise level.

    With ``norm=batch`` samples depend on their batch, and in small batches they spread too far: the standard deviation
    is too large by about 2 / (batch size x dimensions), 13 % for 8 points in the plane, 0.01 % for 8 images of
    3 x 32 x 32. With ``norm=level`` samples are independent; the steps are those of ``ald``, shorter than with
    ``norm=batch`` where the data are wider than the noise.
    Published settings, with ``norm=batch``: snr 0.16 (VE, CIFAR-10), 0.075 (256 pixels), 0.01 (VP).
    """

    variants: ClassVar = ({"n_steps": 2},)

    snr: float = param(0.16, "signal-to-noise ratio that sets the step size", and_(gt(0), le(1e6)))
    n_steps: int = param(1, "Langevin steps at each noise level", ge(1))
    norm: Literal["batch", "level"] = param(
        "batch",
        "what step sizes follow: mean norms over the batch, as published (too wide a spread in small batches), "
        "or the noise level (samples are independent)",
        in_(("batch", "level")),
    )

    serves = ENTRIES

    def correct(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        mean, unit = x, step.now.sigma if step.sde.form == "diagonal" else None
        scale = (step.now.alpha**2 + step.now.sigma**2) ** 0.5
        for _ in range(self.n_steps):
            score, z = model.score(x, step.now), noise()
            ratio = step.now.sigma
            if self.norm == "batch":
                ratio = _mean_norm(z) / _mean_norm(score if unit is None else score * unit).clamp_min(1e-30)
                ratio = (ratio if unit is None else ratio * unit).clamp_max(_LARGEST_RATIO * scale)
            size = (self.snr * ratio) ** 2 * (2 * (1 + step.discrete_drift) ** 2)
            mean = shift(x, size, score)
            x = diffuse(mean, (2 * size) ** 0.5, z)
        return x, mean

    def caveat(self, shape: tuple[int, ...], count: int) -> str | None:
        excess = 2 / (count * prod(shape))
        if self.norm != "batch" or excess <= _NOTABLE:
            return None
        return (
            f"langevin's steps follow mean norms over the batch: in batches of {count} events of {prod(shape)} numbers "
            f"the standard deviation can come out {100 * excess:.0f} % too large; "
            f"take batches of {ceil(2 / (_NOTABLE * prod(shape)))} or more, or langevin[norm=level]"
        )

    def decoupled(self) -> Self:
        return self if self.norm == "level" else attrs.evolve(self, norm="level")

    def shrunk(self, factor: float) -> Self:
        """Divide snr by sqrt(factor): the step size is proportional to snr^2."""
        return attrs.evolve(self, snr=self.snr / factor**0.5)


def _mean_norm(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values.flatten(1), dim=1).mean()  # type: ignore[no-any-return]


@attrs.frozen
class NoneCorrector(Corrector):
    """Leaves x unchanged: the predictor does all the work."""

    idle = True
    serves = FORMS

    def correct(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        return x, x
