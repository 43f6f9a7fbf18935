r"""PNDM (arXiv:2202.09778): classical methods for equal steps in t, with DDIM's steps instead of straight lines.

With DDIM's map phi(x, e, t, t') = (alpha'/alpha) x + (sigma' - sigma alpha'/alpha) e for a noise e (Eq. 11), the first
three steps are a pseudo Runge-Kutta method (Eq. 13), with m halfway between t and t',

    e1 = eps(x, t)                      e2 = eps(phi(x, e1, t, m), m)
    e3 = eps(phi(x, e2, t, m), m)       e4 = eps(phi(x, e3, t, t'), t')       e = (e1 + 2 e2 + 2 e3 + e4) / 6

and the others a pseudo linear multistep method with the last four e1 (Eq. 12), e = (55 e1 - 59 .. + 37 .. - 9 ..) / 24,
each followed by x' = phi(x, e, t, t'). In y = x / alpha and s = sigma / alpha, phi is y + (s' - s) e: the multistep
part is ``ipndm``, which starts with steps of lower order instead.
"""

import attrs
from torch import Tensor
from scoresde_core import Draw, MultistepPredictor, Past, ScoreModel, Step
from ..coordinates import ENTRIES, level_ahead, noise_ratio, noise_step, noise_step_to, reaches_data, remember
from ..deis.predictors import ADAMS_BASHFORTH
from ..grids import UniformGrid


@attrs.frozen
class PNDMPredictor(MultistepPredictor):
    """Pseudo Runge-Kutta steps, then linear multistep: N + 9 evaluations in N steps, four in each of the first three.

    Published for equal steps in t (``grid=uniform``). The last step, to the data, is DDIM's.
    """

    order = 2.0
    grid = UniformGrid()
    stochastic = False
    serves = ENTRIES

    def advance(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw, past: Past) -> tuple[Tensor, Tensor, Past]:
        past = remember(past, step, model.noise(x, step.now), 4)
        length = noise_ratio(step.next) - noise_ratio(step.now)
        noises = [eps for _, eps in past]
        if reaches_data(step):
            shares: tuple[float, ...] = (1.0,)
        elif len(past) == 4:
            shares = ADAMS_BASHFORTH[-1]
        else:
            noises, shares = self._stages(x, step, model, noises[0]), (1 / 6, 1 / 3, 1 / 3, 1 / 6)
        x = noise_step(x, step, *((length * share, eps) for share, eps in zip(shares, noises, strict=False)))
        return x, x, past

    def _stages(self, x: Tensor, step: Step, model: ScoreModel, first: Tensor) -> list[Tensor]:
        """Return the four noises of a Runge-Kutta step."""
        middle, now = step.level(step.now.t - 0.5 * step.dt), noise_ratio(step.now)
        half = noise_ratio(middle) - now
        second = model.noise(noise_step_to(x, step, middle, (half, first)), middle)
        third = model.noise(noise_step_to(x, step, middle, (half, second)), middle)
        ahead = noise_step(x, step, (noise_ratio(step.next) - now, third))
        return [first, second, third, model.noise(ahead, level_ahead(step))]
