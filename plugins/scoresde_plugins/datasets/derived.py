"""Data sets made of something else: draws of an exact target, or the images of any data set in another size."""

from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import ge, optional
from torch import Tensor
from torch.nn import functional
from scoresde_core import Noise, Spec, Target, UsageError, param
from scoresde_core.noise import key
from scoresde_run.data.dataset import Dataset, Events, Split
from . import array
from .pictures import SIZE_HELP, Size, positive, sides

_ROWS, _CHUNK = 4096, 1024


@attrs.frozen
class ExactDataset(Dataset):
    """A fixed set of draws of a target, float32 (N, *shape), on the target's own scale; the splits are independent."""

    levels = None
    example: ClassVar[dict[str, Any]] = {"target": "mixture2d", "count": 100, "test_count": 10}

    target: Target = param(help="target to draw from, such as mixture2d[layout=moons]")
    count: int = param(50_000, "draws in the train split", ge(1))
    test_count: int = param(10_000, "draws in the test split", ge(1))
    seed: int = param(0, "seed of the draws")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.target.shape

    def known(self, split: Split = "train") -> dict[str, Tensor]:
        """``y`` of an ``observed`` target, and ``labels`` drawn from the components' posterior: the law is joint."""
        found = {}
        if hasattr(self.target, "observe"):
            found["y"] = self.target.observe(self.load(split), key(self.seed, "observed", split) % 2**31)
        if self.target.modes() is None:
            return found
        parts = [self.target.responsibilities(x.double()) for x in torch.split(self.load(split), _ROWS)]
        sums = torch.cat(parts).cumsum(1)
        u = Noise(self.seed, (), len(sums), dtype=torch.float64).uniform(split, "labels")
        return {**found, "labels": (sums[:, :-1] < u.unsqueeze(1)).sum(1)}

    def load(self, split: Split = "train") -> Tensor:
        draws = self.count if split == "train" else self.test_count
        return self.target.sample(draws, seed=key(self.seed, "dataset", split) % 2**31).float()


@attrs.frozen(eq=False)
class Fitted:
    """The events of another data set, resized on access."""

    events: Events
    dataset: "ResizedDataset"

    def __len__(self) -> int:
        return len(self.events)

    def __getitem__(self, index: int) -> Tensor:
        return self.dataset.fit(self.events[index].unsqueeze(0))[0]


def _resized(folder: Path) -> dict[str, Any]:
    """Write an array of images, to crop, resize and pad."""
    return {"data": Spec("array", array.images(folder)), "crop": 6, "size": 4, "padding": 1}


@attrs.frozen
class ResizedDataset(Dataset):
    """A central crop of ``crop`` pixels, antialiased bicubic to ``size``, then ``padding`` black pixels on every side.

    MNIST for a network that halves five times is ``resized[data=mnist,padding=2]``, or ``resized[data=mnist,size=32]``.
    """

    example: ClassVar = staticmethod(_resized)

    data: Dataset = param(help="data set, such as mnist")
    size: Size | None = param(None, f"{SIZE_HELP}; null: unchanged", optional(positive))
    crop: int | None = param(None, "side of a central square crop before resizing, in pixels", optional(ge(1)))
    padding: int = param(0, "black pixels to add on every side after resizing", ge(0))

    def __attrs_post_init__(self) -> None:
        if self.crop is not None and len(self.data.shape) == 3 and self.crop > min(self.data.shape[1:]):
            raise ValueError(f"crop must be at most the {self.data.shape[1:]} pixels of the image, got {self.crop}")

    levels, mirrors = (property(attrgetter(f"data.{name}")) for name in ("levels", "mirrors"))

    @property
    def shape(self) -> tuple[int, ...]:
        if len(self.data.shape) != 3:
            raise ValueError(f"{self.data} has events of shape {self.data.shape}: only images can be resized")
        found = sides(self.size) if self.size else [self.crop or side for side in self.data.shape[1:]]
        return (self.data.shape[0], *(side + 2 * self.padding for side in found))

    def open(self, split: Split = "train") -> Events:
        events = self.data.open(split)
        return self.load(split) if isinstance(events, Tensor) else Fitted(events, self)

    def load(self, split: Split = "train") -> Tensor:
        return torch.cat([self.fit(chunk) for chunk in torch.split(self.data.load(split), _CHUNK)])

    def known(self, split: Split = "train") -> Mapping[str, Tensor]:
        """What is known of the other set's events; raise UsageError for values per pixel, which are not resized."""
        known = self.data.known(split)
        for name, values in known.items():
            if values.ndim > 2 and values.shape[-2:] == self.data.shape[-2:]:
                given = f"the images of {self.data} but not their {name} {tuple(values.shape[1:])}"
                raise UsageError(f"resized changes {given}: resize both beforehand")
        return known

    def fit(self, images: Tensor) -> Tensor:
        """Resize uint8 (B, C, H, W)."""
        if images.dtype != torch.uint8 or images.ndim != 4:
            found = f"{images.dtype} events of shape {self.data.shape}"
            raise ValueError(f"{self.data} has {found}: only 8-bit images can be resized")
        if self.crop is not None:
            top, left = ((side - self.crop) // 2 for side in images.shape[-2:])
            images = images[..., top : top + self.crop, left : left + self.crop]
        if self.size is not None:
            options: dict[str, Any] = {"mode": "bicubic", "antialias": True, "align_corners": False}
            smooth = functional.interpolate(images.float(), sides(self.size), **options)
            images = smooth.round().clamp(0, 255).to(torch.uint8)
        return functional.pad(images, [self.padding] * 4)
