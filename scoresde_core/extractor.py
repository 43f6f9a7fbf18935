"""Extractors: what turns events into the feature vectors that distances between sets of images are measured on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor


@attrs.frozen(eq=False)
class Features:
    """Features (B, D) of a batch and, from a classifier, its logits (B, K); both float32."""

    pooled: Tensor
    logits: Tensor | None = None


class Extractor(ABC):
    """A fixed map from events to features. Metrics on them are named after it.

    Images come as uint8 (B, C, H, W); an extractor with ``images = False`` takes floats (B, *shape) as they are.
    """

    name: ClassVar[str]
    images: ClassVar[bool] = True

    def skip(self, shape: tuple[int, ...]) -> str | None:
        """Why events of ``shape`` cannot be read, or None."""
        return None

    @abstractmethod
    def load(self, device: torch.device) -> Callable[[Tensor], Features]:
        """The map, ready to be called on ``device``. Missing weights are an error that says how to get them."""

    @abstractmethod
    def protocol(self) -> Mapping[str, Any]:
        """All that a feature depends on, as plain data: the hash of the weights, the resize, the range of the input."""
