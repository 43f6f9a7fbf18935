"""Inpainting and imputation with any mask (Song et al. 2021, arXiv:2011.13456, Section 5 and Appendix I.2)."""

from __future__ import annotations

from math import prod
from pathlib import Path

import attrs
import numpy as np
import torch
from attrs.validators import and_, ge, gt, lt
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.errors import FileError
from scoresde_core.noise import Noise
from scoresde_run.machine import inputs
from scoresde_run.sampling.condition import Condition

from .known import KnownCoefficients, observe

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
        """Refuse a mask of another shape, or a top half of points."""
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
