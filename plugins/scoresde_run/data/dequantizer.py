"""Dequantizers turn discrete values into samples of a density."""

from abc import ABC, abstractmethod

from torch import Tensor
from scoresde_core import Draw


class Dequantizer(ABC):
    """Adds noise u in [0, 1) of known density to integer images."""

    @abstractmethod
    def dequantize(self, images: Tensor, noise: Draw) -> tuple[Tensor, Tensor]:
        """uint8 (B, C, H, W) -> images + u as float (B, C, H, W), and log q(u | images) in nats, (B,)."""
