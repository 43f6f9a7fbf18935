"""``identity``: the entries of an event are its features."""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor
from scoresde_run import Extractor, Features

MOST = 16_384  # the largest number of features whose covariance fits into memory (2 GiB in float64)


@attrs.frozen
class Identity(Extractor):
    """The event itself, flattened: distances in data space, for points and any other events. Nothing is rounded."""

    name: ClassVar[str] = "identity"
    images: ClassVar[bool] = False

    def skip(self, shape: tuple[int, ...]) -> str | None:
        size = prod(shape)
        return f"an event has {size} entries, too many for features (at most {MOST})" if size > MOST else None

    def load(self, device: torch.device) -> Callable[[Tensor], Features]:
        return lambda x: Features(x.to(device).float().flatten(1))

    def protocol(self) -> Mapping[str, Any]:
        return {"extractor": self.name}
