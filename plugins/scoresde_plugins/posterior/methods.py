r"""Published methods for y = A x_0 + r z, with D = E[x_0 | x_t], V = Cov[x_0 | x_t] and s = sigma / alpha.

Four guide the score: shift = B A^T (A C A^T + r^2)^{-1} (y - A D). ``pigdm``: B = V, C = s^2 / (1 + s^2), as for data
of variance 1 (Song et al. 2023, ICLR, Eq. 7-8; its loop weighs it). ``tmpd``: B = V, A C A^T = diag(A V A^T 1), its row
sums for images (Boys et al. 2023, arXiv:2310.06721). ``mmps``: B = C = V, right for Gaussians (Rozet et al. 2024,
arXiv:2405.13712, Algorithm 3). ``diffpir``: B = C = s^2 / lambda, the least |y - A x|^2 / r^2 + lambda |x - D|^2 / s^2
(Zhu et al. 2023, arXiv:2305.08995, Eq. 12-13).

Three change the state x' of a step to (alpha', sigma'). ``dps`` (Chung et al. 2022, arXiv:2209.14687, Algorithm 1):
x' - zeta grad_{x_t} |y - A D(x_t)|. The paper derives |y - A D|^2 / (2 r^2); its algorithm divides by the residual, not
by the noise. Two set measured coefficients, of a value c with noise n. ``ddnm`` (Wang et al. 2022, arXiv:2212.00490,
Eq. 17-19): the ancestral step a D + b x_t + std z, with the noise of c as a part of z,

    a (D + l (c - D)) + b x_t + sqrt(std^2 - (a l n)^2) z,    l = min(1, std / (a n))

``ddrm`` (Kawar et al. 2022, arXiv:2201.11793, Eq. 7-8), now with s = sigma' / alpha': alpha' times

    (1 - b) D + b c + sqrt(s^2 - (b n)^2) z    where s >= n, else    D + sqrt(1 - eta^2) s (c - D) / n + eta s z
"""

import attrs
import torch
from attrs.validators import and_, ge, gt, le
from torch import Tensor
from scoresde_core import Draw, Step, param
from .method import Look, PosteriorMethod


@attrs.frozen
class PiGDM(PosteriorMethod):
    """Guidance with one variance at each level; a Jacobian product an evaluation."""

    def shift(self, look: Look) -> Tensor:
        a2, s2 = look.level.alpha**2, look.level.sigma**2
        return look.covary(look.residual / (look.variance + look.gain**2 * look.fit(s2 / (a2 + s2))))


@attrs.frozen
class TMPD(PosteriorMethod):
    """Guidance with a variance a measurement; two Jacobian products an evaluation. Sums below 0 count as 0."""

    needs_noise = True

    def shift(self, look: Look) -> Tensor:
        sums = (look.gain * look.known.seen(look.covary(torch.ones_like(look.residual)))).clamp_min(0)
        return look.covary(look.residual / (look.variance + sums))


@attrs.frozen
class MMPS(PosteriorMethod):
    """Guidance with the model's covariance, by conjugate gradients; ``iterations`` + 1 Jacobian products."""

    iterations: int = param(3, "iterations of conjugate gradients: one a distinct variance is exact", ge(1))

    def shift(self, look: Look) -> Tensor:
        def ratio(a: Tensor, b: Tensor) -> Tensor:  # where nothing is left to solve, b is 0
            return torch.where(b > 0, a / b, 0.0).reshape(-1, *[1] * (look.residual.ndim - 1))

        u, rest, along = torch.zeros_like(look.residual), look.residual, look.residual
        square = rest.square().flatten(1).sum(1)
        for _ in range(self.iterations):
            image = look.variance * along + look.gain * look.known.seen(look.covary(along))
            step = ratio(square, (along * image).flatten(1).sum(1))
            u, rest = u + step * along, rest - step * image
            before, square = square, rest.square().flatten(1).sum(1)
            along = rest + ratio(square, before) * along
        return look.covary(u)


@attrs.frozen
class DiffPIR(PosteriorMethod):
    """Guidance to a compromise of D and y; no Jacobian product."""

    differentiates = False
    weight: float = param(1.0, "weight of the denoised state, lambda", gt(0))

    def shift(self, look: Look) -> Tensor:
        s2 = look.fit((look.level.sigma / look.level.alpha) ** 2 / self.weight)
        return look.known.events(look.off * s2 / (look.own + s2), look.x)


@attrs.frozen
class DPS(PosteriorMethod):
    """After each step down the gradient of the residual's norm; a Jacobian product a step."""

    settles = True
    scale: float = param(1.0, "length of the moves in units of y, zeta", gt(0))

    def settle(self, look: Look, step: Step, x: Tensor, mean: Tensor, noise: Draw) -> tuple[Tensor, Tensor]:
        move = look.pull(self.scale * look.residual / look.fit(look.residual.flatten(1).norm(dim=1).clamp_min(1e-12)))
        return x + move, mean + move


@attrs.frozen
class DDNM(PosteriorMethod):
    """Measured coefficients by the ancestral step from their values; no Jacobian product."""

    differentiates, settles = False, True

    def settle(self, look: Look, step: Step, x: Tensor, mean: Tensor, noise: Draw) -> tuple[Tensor, Tensor]:
        now, ahead, seen = step.now, step.next, look.known.seen
        ratio = now.alpha / ahead.alpha
        fresh = 1 - (ratio * ahead.sigma / now.sigma) ** 2  # the share of the variance at ``now`` that the step removes
        a, b, var = (look.fit(v) for v in (ahead.alpha * fresh, (1 - fresh) / ratio, ahead.sigma**2 * fresh))
        own = a**2 * look.own
        share = torch.where(own > var, var / own, 1.0)  # l^2
        centre = a * (seen(look.denoised) + share.sqrt() * look.off) + b * seen(look.x)
        drawn = centre + (var - own).clamp_min(0).sqrt() * noise().reshape(centre.shape)
        return look.put(x, drawn), look.put(mean, centre)


@attrs.frozen
class DDRM(PosteriorMethod):
    """Measured coefficients by their value and noise; no Jacobian product."""

    differentiates, settles = False, True
    eta: float = param(0.85, "share of fresh noise below the noise of a value", and_(ge(0), le(1)))
    eta_b: float = param(1.0, "weight of a value above its noise, b", and_(ge(0), le(1)))

    def settle(self, look: Look, step: Step, x: Tensor, mean: Tensor, noise: Draw) -> tuple[Tensor, Tensor]:
        alpha, s = look.fit(step.next.alpha), look.fit(step.next.sigma / step.next.alpha)
        n = look.own.sqrt()
        toward = torch.where(n > s, (1 - self.eta**2) ** 0.5 * s / n, self.eta_b) * look.off
        var = torch.where(n > s, self.eta**2 * s**2, s**2 - self.eta_b**2 * look.own)
        centre = alpha * (look.known.seen(look.denoised) + toward)
        drawn = centre + alpha * var.clamp_min(0).sqrt() * noise().reshape(centre.shape)
        return look.put(x, drawn), look.put(mean, centre)
