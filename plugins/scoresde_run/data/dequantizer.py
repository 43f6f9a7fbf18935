"""Dequantizers turn discrete values into samples of a density."""

from abc import ABC, abstractmethod
from typing import ClassVar, Self

from torch import Tensor
from scoresde_core import Draw


class Dequantizer(ABC):
    """Adds noise u in [0, 1) of known density to integer images.

    The L cells of v + u fill the range of the data; with ``centred``, L - 1 of them do, and the middle of each is the
    value of its grey level in images without noise, v / (L - 1).
    """

    centred: ClassVar[bool] = False

    @abstractmethod
    def dequantize(self, images: Tensor, noise: Draw) -> tuple[Tensor, Tensor]:
        """uint8 (B, C, H, W) -> images + u as float (B, C, H, W), and log q(u | images) in nats, (B,)."""

    def fitted(self, std: float) -> Self:
        """The variant for a model that sees data with Gaussian noise of ``std`` grey levels; by default itself."""
        return self
