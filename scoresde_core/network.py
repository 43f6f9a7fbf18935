"""Networks: attrs specifications that build the module behind a learned score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import attrs
from torch import nn

from .components import param
from .score import NetworkScore
from .sde import SDE


@attrs.frozen(kw_only=True)
class Network(ABC):
    """A network's hyper-parameters; its module answers ``forward(x, label, **cond)`` with a tensor like ``x``.

    ``x`` is (B, *shape), ``label`` (B,). ``parameterisation`` says what the output means, ``label`` what the network is
    told about time (:data:`scoresde_core.score.LABELS`), ``scales`` how many noise scales discrete labels count.
    """

    parameterisation: Literal["score", "noise", "denoised", "v"] = param("noise", "what the raw output means")
    label: Literal["time", "index", "sigma", "reverse_index", "t"] = param(
        "time", "what the network is told about time"
    )
    scales: int = param(1000, "number of training noise scales behind discrete labels", attrs.validators.ge(2))

    @abstractmethod
    def build(self, shape: tuple[int, ...]) -> nn.Module:
        """The module for events of ``shape``, such as (3, 32, 32); ``ValueError`` says why a shape is unusable."""

    def view(self, module: nn.Module, sde: SDE, shape: tuple[int, ...], **how: Any) -> Any:
        """``module`` as losses and samplers see it: a score model. A network that gives no score says what it is.

        ``how`` may hold ``cond`` and ``autocast``, as for :class:`~scoresde_core.score.NetworkScore`.
        """
        return NetworkScore(
            module, sde, shape, parameterisation=self.parameterisation, label=self.label, scales=self.scales, **how
        )
