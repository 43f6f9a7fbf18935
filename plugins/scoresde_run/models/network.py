"""Networks: attrs specifications that build the module behind a learned score."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import attrs
from torch import nn
from scoresde_core import SDE, Spec, param
from .network_score import NetworkScore
from .parameterisation import LABELS, PARAMETERISATIONS, named_in


@attrs.frozen(kw_only=True)
class Network(ABC):
    """A network's hyper-parameters; its module maps ``forward(x, label, **cond)`` to a tensor like ``x``.

    ``x`` is (B, *shape), ``label`` (B,). ``parameterisation`` is the meaning of the output, ``label`` the rule of the
    time label (:mod:`.parameterisation`), ``scales`` the number of noise scales of discrete labels.
    """

    parameterisation: str = param("noise", "meaning of the raw output", named_in(PARAMETERISATIONS))
    label: str = param("time", "rule of the time label", named_in(LABELS))
    scales: int = param(1000, "number of training noise scales behind discrete labels", attrs.validators.ge(2))

    def takes(self, shape: tuple[int, ...]) -> Mapping[str, int | tuple[int, ...]]:
        """What the module can know of each of its events of ``shape``, besides x and the label.

        Names of its ``forward``, each with a number of classes (rows are then classes (B,), -1 none) or the shape of
        one row (none is zeros).
        """
        return {}

    @property
    def fixed_shape(self) -> tuple[int, ...] | None:
        """The shape of events of a network that is whole by itself, with its weights; None for one to be trained."""
        return None

    @property
    def trained(self) -> tuple[Spec | None, dict[str, Any]]:
        """What its files say: the forward process that it was trained under, or None; and parameters of its own."""
        return None, {}

    def trust(self) -> None:  # noqa: B027
        """Allow the code that the network names, because a person has typed its name; most name none."""

    @abstractmethod
    def build(self, shape: tuple[int, ...]) -> nn.Module:
        """The module for events of ``shape``, such as (3, 32, 32); ``ValueError`` says why a shape is unusable."""

    def view(self, module: nn.Module, sde: SDE, shape: tuple[int, ...], **how: Any) -> Any:
        """``module`` as a :class:`NetworkScore`, with its options ``how``; a network of no score overrides this."""
        how = {"takes": self.takes(shape), "parameterisation": self.parameterisation, "label": self.label, **how}
        return NetworkScore(module, sde, shape, scales=self.scales, **how)
