"""Base classes of the networks that classify noisy events; none of them gives a score."""

from __future__ import annotations

from typing import Any, Literal

import attrs
import torch
from attrs.validators import ge, in_
from torch import Tensor, nn

from scoresde_core.components import param
from scoresde_core.sde import SDE, Level
from scoresde_core.shapes import per_row
from scoresde_run.models.classifier import NoisyClassifier
from scoresde_run.models.network import Network


@attrs.frozen(eq=False)
class NetworkClassifier(NoisyClassifier):
    """A module ``forward(x, sigma)`` -> logits (B, classes), for x_0 + sigma eps.

    It receives x_t / alpha with noise of scale sigma / alpha, so one network serves every Gaussian-path SDE. If it was
    trained on scale x + shift instead of x, it receives that, with scale times the noise.
    """

    network: nn.Module
    classes: int = attrs.field()
    scale: float = 1.0
    shift: float = 0.0
    autocast: torch.dtype | None = None
    sde: Any = None
    """The process that it is trained under; a guide needs none."""

    def log_probabilities(self, x: Tensor, level: Level) -> Tensor:
        ratio = per_row(level.sigma / level.alpha, x) * self.scale
        seen = x / level.alpha * self.scale + self.shift
        with torch.autocast(x.device.type, self.autocast, enabled=self.autocast is not None):
            logits: Tensor = self.network(seen, ratio)
        return logits.to(x.dtype).log_softmax(1)


@attrs.frozen(kw_only=True, slots=False)  # no slots: it is mixed into networks that have slots
class ClassifierNetwork(Network):
    """A network whose output is logits: a guide for other networks, never a score model."""

    parameterisation: Literal["logits"] = attrs.field(default="logits", init=False)
    label: Literal["sigma"] = param("sigma", "the noise scale", in_(("sigma",)))
    scales: int = param(1000, "unused: the noise scale is continuous", ge(2))
    classes: int = param(10, "number of classes", ge(2))

    def view(self, module: nn.Module, sde: SDE, shape: tuple[int, ...], **how: Any) -> NetworkClassifier:
        return NetworkClassifier(module, self.classes, autocast=how.get("autocast"), sde=sde)
