"""Extractors turn events into feature vectors, between which distances of sets of images are measured."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor


@attrs.frozen(eq=False)
class Features:
    """The float32 features (B, D) of a batch and, for a classifier, logits (B, K)."""

    pooled: Tensor
    logits: Tensor | None = None


class Extractor(ABC):
    """A fixed map from events to features; its metrics are named after it.

    It takes images as uint8 (B, C, H, W), or floats (B, *shape) with ``images = False``.
    """

    name: ClassVar[str]
    images: ClassVar[bool] = True

    def skip(self, shape: tuple[int, ...]) -> str | None:
        """Why events of ``shape`` cannot be read, or None."""
        return None

    @abstractmethod
    def load(self, device: torch.device) -> Callable[[Tensor], Features]:
        """The map, ready to be called on ``device``; the error for missing weights says how to get them."""

    @abstractmethod
    def protocol(self) -> Mapping[str, Any]:
        """All inputs of a feature as plain data: the hash of the weights, the resize, the range of the input."""
