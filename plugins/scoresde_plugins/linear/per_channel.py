"""A process of its own for each channel of an event."""

from typing import Self

import attrs
import torch
from attrs.validators import min_len
from torch import Tensor
from scoresde_core import SDE, param
from ..song2021.sdes import VPSDE, SubVPSDE
from .diagonal import DiagonalSDE


@attrs.frozen
class PerChannelSDE(DiagonalSDE):
    """Channel i follows the i-th of ``sdes``; t_min is their largest, t_max their smallest.

    Such are data of several kinds in one event, whose natural scales or schedules differ.
    """

    sdes: tuple[SDE, ...] = param((VPSDE(), SubVPSDE()), "one process a channel", min_len(1))

    def __attrs_post_init__(self) -> None:
        for sde in self.sdes:
            if sde.form != "scalar" or sde.needs or sde.t_signal < sde.t_max:
                raise ValueError(f"each channel needs a process of one alpha > 0 and sigma, got {sde}")

    @property
    def t_min(self) -> float:  # type: ignore[override]
        return max(sde.t_min for sde in self.sdes)

    @property
    def t_max(self) -> float:  # type: ignore[override]
        return min(sde.t_max for sde in self.sdes)

    def until(self, t: float) -> Self:
        return attrs.evolve(self, sdes=tuple(sde.until(t) for sde in self.sdes))

    def skip(self, shape: tuple[int, ...]) -> str | None:
        if shape and shape[0] == len(self.sdes):
            return None
        return f"per_channel has {len(self.sdes)} processes, but events have shape {shape}: give one a channel"

    def alpha(self, t: Tensor) -> Tensor:
        return torch.stack([sde.alpha(t) for sde in self.sdes], -1)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.stack([sde.sigma(t) for sde in self.sdes], -1)
