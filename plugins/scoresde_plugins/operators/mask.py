"""Masks: some entries of an event are measured, all others are not."""

from pathlib import Path

import attrs
import numpy as np
import torch
from attrs.validators import and_, ge, gt, lt
from torch import Tensor
from scoresde_core import FileError, Noise, param
from scoresde_run.machine import inputs
from scoresde_run.sampling.operator import Shape
from .structure import SelectedOperator

NAMED = ("left", "right", "top", "bottom", "box", "random")


@attrs.frozen
class MaskOperator(SelectedOperator):
    """The entries of an event under a mask, as a vector a channel; a mask applies to all channels of an image.

    ``left``, ``right``, ``top``, ``bottom``: that half is known. ``box``: all but a centred box of half the size.
    ``random``: a share of the positions. Else a file, .npy or an image, non-zero where known, of the (spatial) shape.
    """

    mask: str = param("left", "known part: left, right, top, bottom, box (all around it), random, or a file")
    share: float = param(0.5, "share of known positions in a random mask", and_(gt(0), lt(1)))
    seed: int = param(0, "seed of random masks", ge(0))

    def __attrs_post_init__(self) -> None:
        if self.mask not in NAMED and not Path(self.mask).is_file():
            raise ValueError(f"mask must be {', '.join(NAMED)} or a file, and there is no file {self.mask!r}")

    def files(self) -> list[str]:
        return [] if self.mask in NAMED else [self.mask]

    def measured(self, shape: Shape) -> Shape:
        spatial, axes = _spatial(shape), _spatial(shape)[-1:]
        if self.mask in ("top", "bottom"):
            if len(spatial) < 2:
                raise ValueError(f"a mask of the {self.mask} half needs images, the events have shape {shape}")
            axes = spatial[-2:-1]
        if self.mask not in NAMED:
            found = tuple(_read(Path(self.mask)).shape)
            if found not in (shape, spatial):
                given = f"the mask {self.mask} has shape {found}, the events have {shape}"
                raise ValueError(f"{given}: it needs that or {spatial}")
        elif min(spatial if self.mask == "box" else axes) < (1 if self.mask == "random" else 2):
            raise ValueError(f"events of shape {shape} are too small for a {self.mask} mask")
        return super().measured(shape)

    def kept(self, shape: Shape) -> Tensor:
        return self.drawn(1, shape)[0]

    def drawn(self, n: int, shape: Shape) -> Tensor:
        """Where an event is known, for its last axes: (n, ...) for random masks, one each, else (1, ...)."""
        spatial = _spatial(shape)
        if self.mask not in NAMED:
            return _read(Path(self.mask)).unsqueeze(0)
        if self.mask == "random":
            uniform = torch.special.ndtr(Noise(self.seed, spatial, n, dtype=torch.float64).draw("condition", "mask"))
            return uniform < self.share  # type: ignore[no-any-return]
        mask = torch.zeros(spatial, dtype=torch.bool)
        if self.mask == "box":
            mask[tuple(slice(size // 4, size // 4 + (size + 1) // 2) for size in spatial)] = True
            return ~mask.unsqueeze(0)
        axis = -1 if self.mask in ("left", "right") else -2
        half = mask.shape[axis] // 2
        kept = slice(half) if self.mask in ("left", "top") else slice(mask.shape[axis] - half, None)
        mask.movedim(axis, 0)[kept] = True
        return mask.unsqueeze(0)


def _spatial(shape: Shape) -> Shape:
    """The axes of positions: all but the first of three, which holds channels."""
    return shape[1:] if len(shape) == 3 else shape


def _read(path: Path) -> Tensor:
    if path.suffix == ".npy":
        values = inputs.array(path, "a mask")
    else:
        with inputs.picture(path, "a mask") as image:
            values = np.asarray(image.convert("L"))
    mask: Tensor = torch.from_numpy(np.array(values != 0))
    if bool(mask.all()) or not bool(mask.any()):
        raise FileError(f"the mask {path} of shape {tuple(mask.shape)} must have zero and non-zero entries")
    return mask
