"""The score of a network."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from scoresde_core import SDE, Frame, Level, ScoreModel, UsageError, near_misses
from scoresde_core.score import NO_SIGNAL
from scoresde_core.shapes import per_row
from .parameterisation import DISCRETE_LABELS, LABELS, PARAMETERISATIONS


class NetworkScore(ScoreModel):
    """A network with its parameterisation and label rule, as a score model.

    ``network(x, label, **known)`` returns a tensor like ``x`` (B, *shape); ``label`` is (B,). ``cond`` is known, and
    :meth:`given` adds to it. What the network ``takes`` and is not given is class -1, or zeros; one that was never
    trained so is not ``free``, and must be given all. With a discrete label rule the level is that of the ``scales``
    training scales (``SDE.discrete_level``), as published. ``UsageError`` for an unknown ``parameterisation`` or
    ``label`` (:data:`PARAMETERISATIONS`, :data:`LABELS`).
    """

    def __init__(
        self, network: nn.Module, sde: SDE, shape: tuple[int, ...] | None = None, *, parameterisation: str, label: str,
        scales: int = 1000, takes: Mapping[str, int | tuple[int, ...]] | None = None, free: bool = True,
        cond: Mapping[str, Any] | None = None, autocast: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        named = {"parameterisation": (parameterisation, list(PARAMETERISATIONS)), "label": (label, list(LABELS))}
        for what, (name, known) in named.items():
            if name not in known:
                raise UsageError(f"unknown {what} {name!r}.{near_misses(name, known)}")
        self.network, self.sde, self.scales, self.known = network, sde, scales, dict(cond or {})
        self._takes, self.free = takes or {}, free
        if shape is not None:
            self.shape = tuple(shape)
        self.parameterisation, self.to_label = PARAMETERISATIONS[parameterisation], LABELS[label]
        self.discrete, self.autocast = label in DISCRETE_LABELS, autocast
        self.continuous = not self.discrete

    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        """One forward pass, read as a score; ``ValueError`` if its shape is not that of ``x``: it would broadcast."""
        raw, level = self._forward(x, level)
        return self.parameterisation.score(raw, x, level)

    def evaluate_framed(self, c: Tensor, level: Level, frame: Frame) -> Tensor:
        """The output is turned, then read as a score: alpha and sigma are those of the frame."""
        raw, level = self._forward(frame.leave(c, level.t), level)
        return self.parameterisation.score(frame.turn(raw), c, level)

    def evaluate_denoised(self, x: Tensor, level: Level) -> Tensor:
        if self.parameterisation.denoised is None:
            raise UsageError(NO_SIGNAL.format(f"a network of parameterisation {self.parameterisation.name}"))
        raw, level = self._forward(x, level)
        return self.parameterisation.denoised(raw, x, level)

    @property
    def takes(self) -> Mapping[str, int | tuple[int, ...]]:
        return self._takes

    def unconditional(self) -> "NetworkScore":
        if self._takes and not self.free:
            why = "this model was trained without dropout of what is known, so it has no unconditional score"
            raise UsageError(f"{why}: train one with training.known_dropout=0.1")
        return self.part(known={})

    def informed(self, count: int, seed: int, first: int) -> ScoreModel:
        missing = [] if self.free else [name for name in self._takes if name not in self.known]
        if missing:
            raise UsageError(f"the model needs {', '.join(missing)} of each sample: give --known {missing[0]}=...")
        return super().informed(count, seed, first)

    def _nothing(self, x: Tensor) -> dict[str, Tensor]:
        """What stands for all that the network takes and is not given."""
        return {
            name: x.new_full((len(x),), -1, dtype=torch.int64) if isinstance(kind, int) else x.new_zeros(len(x), *kind)
            for name, kind in self._takes.items()
            if name not in self.known
        }

    def _forward(self, x: Tensor, level: Level) -> tuple[Tensor, Level]:
        if self.discrete:
            level = self._training_level(level, x)
        label = per_row(self.to_label(level, self.scales), x)
        with torch.autocast(x.device.type, self.autocast, enabled=self.autocast is not None):
            raw = self.network(self.parameterisation.input(x, level), label, **self._nothing(x), **self.known)
        if raw.shape != x.shape:
            raise ValueError(f"the network gives {tuple(raw.shape)} for a state {tuple(x.shape)}: shapes must be equal")
        return raw.to(x.dtype), level

    def _training_level(self, level: Level, x: Tensor) -> Level:
        t = torch.as_tensor(level.t)
        table = self.sde.discrete_level(t if t.ndim else t.double(), self.scales)
        if t.ndim == 0:
            return Level(float(t), float(table.alpha), float(table.sigma))
        alpha, sigma = (torch.as_tensor(value).to(x.dtype) for value in (table.alpha, table.sigma))
        return Level(t, alpha, sigma)
