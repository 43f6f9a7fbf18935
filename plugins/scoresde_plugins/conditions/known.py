"""Conditions by known coefficients in an orthonormal basis (Song et al. 2021, arXiv:2011.13456, Section 5, Appendix I).

With c = Q x, Q orthonormal, and a set of known coefficients, those of a noisy state x_t = alpha x_0 + sigma eps have
the law N(alpha c, sigma^2 I) whatever the rest is. Imposing them replaces these coefficients and keeps the others
(Appendix I.2, Eq. 48-50).

The replacement is approximate: the unknown part is combined with known parts under fresh noise at every level, and
never follows the exact conditional score. It is exact if the parts are independent; docs/conditions.md measures the
bias, and ``smcdiff`` removes it.
"""

import math
from math import prod
from pathlib import Path
from typing import Literal

import attrs
import numpy as np
import torch
from attrs.validators import and_, ge, gt, lt
from torch import Tensor
from scoresde_core import Basis, Draw, FileError, Level, Noise, param
from scoresde_core.frame import rotate
from scoresde_run import Condition, Observation
from scoresde_run.machine import inputs


@attrs.frozen(eq=False)
class KnownCoefficients(Observation):
    """The coefficients where ``known`` (n or 1, *shape) is true have the values ``values`` (n, *shape)."""

    values: Tensor
    known: Tensor
    basis: Basis = ()

    def rows(self, start: int, count: int) -> "KnownCoefficients":
        if start + count > len(self.values):
            few = f"{len(self.values)} events were observed, too few for sample {start + count - 1}"
            raise ValueError(f"{few}: observe one event per sample")
        rows = slice(start, start + count)
        known = self.known if len(self.known) == 1 else self.known[rows]
        return attrs.evolve(self, values=self.values[rows], known=known)

    def to(self, x: Tensor) -> "KnownCoefficients":
        basis = tuple(matrix if matrix is None else matrix.to(x) for matrix in self.basis)
        return attrs.evolve(self, values=self.values.to(x), known=self.known.to(x.device), basis=basis)

    def impose(self, x: Tensor, level: Level, noise: Draw | None = None) -> Tensor:
        """Set the known coefficients to alpha c + sigma z, and keep the others."""
        known = self.values * level.alpha
        if noise is not None:
            known = known + level.sigma * noise()
        if not any(matrix is not None for matrix in self.basis):
            return torch.where(self.known, known, x)
        # Only the difference is rotated back, so the unknown coefficients are not rounded.
        change = torch.where(self.known, known - rotate(x, self.basis), 0.0)
        return x + rotate(change, self.basis, inverse=True)


def observe(x: Tensor, known: Tensor, basis: Basis = ()) -> KnownCoefficients:
    """Return the coefficients of ``x`` where ``known`` is true; the others are dropped."""
    exact = tuple(matrix if matrix is None else matrix.to(x.device) for matrix in basis)
    coefficients = rotate(x.double(), exact).to(x) if any(matrix is not None for matrix in basis) else x
    known = known.to(x.device)
    return KnownCoefficients(torch.where(known, coefficients, torch.zeros_like(coefficients)), known, exact)


SIDES = ("left", "right", "top", "bottom")
NAMED = (*SIDES, "box", "random")


@attrs.frozen
class Inpaint(Condition):
    """Entries under the mask are known, and the rest is generated; a mask applies to all channels of an image.

    ``left``, ``right``, ``top``, ``bottom``: that half is known. ``box``: all but a centred box of half the size.
    ``random``: a share of the positions, different for every sample. Otherwise a file, .npy or an image, non-zero where
    known, of the event's shape or of its spatial one.
    """

    mask: str = param("left", "known part: left, right, top, bottom, box (all around it), random, or a file")
    share: float = param(0.5, "share of known positions in a random mask", and_(gt(0), lt(1)))
    seed: int = param(0, "seed of random masks", ge(0))

    def __attrs_post_init__(self) -> None:
        if self.mask not in NAMED and not Path(self.mask).is_file():
            raise ValueError(f"mask must be {', '.join(NAMED)} or a file, and there is no file {self.mask!r}")

    def skip(self, shape: tuple[int, ...]) -> str | None:
        spatial = _spatial(shape)
        if self.mask in ("top", "bottom") and len(spatial) < 2:
            return f"a mask of the {self.mask} half needs images, the events have shape {shape}"
        if self.mask in NAMED:
            need = {"random": 1}.get(self.mask, 2)
            axes = spatial if self.mask == "box" else spatial[-2:-1] if self.mask in ("top", "bottom") else spatial[-1:]
            return None if min(axes) >= need else f"events of shape {shape} are too small for a {self.mask} mask"
        try:
            found = tuple(_read(Path(self.mask)).shape)
        except FileError as error:
            return str(error)
        if found not in (shape, spatial):
            return f"the mask {self.mask} has shape {found}, the events have {shape}: it needs that or {spatial}"
        return None

    def observe(self, x: Tensor) -> KnownCoefficients:
        """Return the known entries of ``x``; the others may be anything, including NaN."""
        reason = self.skip(tuple(x.shape[1:]))
        if reason:
            raise ValueError(reason)
        return observe(x, self.known(len(x), tuple(x.shape[1:])).expand(-1, *x.shape[1:]))

    def known(self, n: int, shape: tuple[int, ...]) -> Tensor:
        """Return where an event of ``shape`` is known, (n, ...) for random masks, else (1, ...), to be broadcast."""
        spatial = _spatial(shape)
        if self.mask not in NAMED:
            mask = _read(Path(self.mask))
            whole: Tensor = mask.reshape(1, *[1] * (len(shape) - mask.ndim), *mask.shape)
            return whole
        lead = (1,) * (len(shape) - len(spatial))
        if self.mask == "random":
            uniform = torch.special.ndtr(Noise(self.seed, spatial, n, dtype=torch.float64).draw("condition", "mask"))
            drawn: Tensor = uniform < self.share
            return drawn.reshape(n, *lead, *spatial)
        mask = torch.zeros(spatial, dtype=torch.bool)
        if self.mask == "box":
            mask[tuple(slice(size // 4, size // 4 + (size + 1) // 2) for size in spatial)] = True
            mask = ~mask
        else:
            axis = -1 if self.mask in ("left", "right") else -2
            half = mask.shape[axis] // 2
            kept = slice(half) if self.mask in ("left", "top") else slice(mask.shape[axis] - half, None)
            mask.movedim(axis, 0)[kept] = True
        placed: Tensor = mask.reshape(1, *lead, *spatial)
        return placed


def _spatial(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes of positions: all but the first of three, which holds channels."""
    return shape[1:] if len(shape) == 3 else shape


def _read(path: Path) -> Tensor:
    if path.suffix == ".npy":
        values = inputs.array(path, "a mask")
    else:
        with inputs.picture(path, "a mask") as image:
            values = np.asarray(image.convert("L"))
    mask: Tensor = torch.from_numpy(np.array(values != 0))
    if not prod(mask.shape) or bool(mask.all()) or not bool(mask.any()):
        raise FileError(f"the mask {path} of shape {tuple(mask.shape)} must have zero and non-zero entries")
    return mask


@attrs.frozen
class Colorize(Condition):
    """The mean of the three channels is known at every pixel; two orthogonal colour channels are generated (I.3).

    Events are RGB images. Only their greys are observed, so an image of three equal channels is enough.
    """

    mixes_channels = True

    def skip(self, shape: tuple[int, ...]) -> str | None:
        return None if len(shape) == 3 and shape[0] == 3 else f"colorize needs images of 3 channels, not {shape}"

    def observe(self, x: Tensor) -> KnownCoefficients:
        reason = self.skip(tuple(x.shape[1:]))
        if reason:
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
    """Means of blocks (super-resolution), or a Gaussian blur with repeated edges (deblurring), of each channel.

    The known part is the measurement y = A x, ``measure(x)``, which samples match to rounding (for a blur, to
    ``smallest``). With A = A_h (x) A_w and A_i = U_i S_i V_i^T it determines the coefficients of x in the basis
    V_h (x) V_w where s_h s_w > 0 (Kawar et al. 2022, arXiv:2201.11793). A blur has singular values near 0, by which no
    measurement with rounding can be divided: coefficients below ``smallest`` times the largest are generated.
    """

    operator: Literal["average", "blur"] = param("average", "means of blocks of factor x factor, or a Gaussian blur")
    factor: int = param(2, "side of the blocks, a divisor of the image's sides", ge(2))
    width: float = param(1.0, "standard deviation of the blur in pixels", gt(0))
    smallest: float = param(
        0.1, "singular values of a blur below this share of the largest are unknown", and_(gt(0), lt(1))
    )

    def skip(self, shape: tuple[int, ...]) -> str | None:
        if len(shape) != 3:
            return f"linear measures images (channels, height, width), not events of shape {shape}"
        if self.operator == "average" and (shape[1] % self.factor or shape[2] % self.factor):
            return f"blocks of {self.factor} pixels do not tile images of {shape[1]} x {shape[2]}: choose a divisor"
        return None

    def observe(self, x: Tensor) -> KnownCoefficients:
        """Return the coefficients of ``x`` (n, C, H, W) that its measurement determines."""
        reason = self.skip(tuple(x.shape[1:]))
        if reason:
            raise ValueError(reason)
        bases, values = zip(*(self._decompose(size) for size in x.shape[2:]), strict=True)
        sizes = torch.outer(*values)
        known = (sizes > self.smallest * sizes.max()).expand(1, x.shape[1], -1, -1)
        return observe(x, known, (None, *bases))

    def measure(self, x: Tensor) -> Tensor:
        """A x: (n, C, H / factor, W / factor) for means, (n, C, H, W) for a blur."""
        down, across = (self.matrix(size).to(x) for size in x.shape[2:])
        return down @ x @ across.T

    def matrix(self, size: int) -> Tensor:
        """Return A along an axis of ``size``, float64: (size / factor, size), or (size, size)."""
        if self.operator == "average":
            blocks = torch.eye(size // self.factor, dtype=torch.float64)
            return blocks.repeat_interleave(self.factor, 1) / self.factor
        reach = max(1, round(4 * self.width))
        offsets = torch.arange(-reach, reach + 1)
        weights = (-0.5 * (offsets / self.width).double().square()).exp()
        matrix = torch.zeros(size, size, dtype=torch.float64)
        rows = torch.arange(size).unsqueeze(1).expand(-1, len(offsets))
        columns = (rows + offsets).clamp(0, size - 1)
        matrix.index_put_((rows, columns), (weights / weights.sum()).expand_as(rows), accumulate=True)
        return matrix

    def _decompose(self, size: int) -> tuple[Tensor, Tensor]:
        """Return V^T (size, size) and the singular values, padded with zeros, (size,)."""
        _, values, basis = torch.linalg.svd(self.matrix(size))
        return basis, torch.nn.functional.pad(values, (0, size - len(values)))
