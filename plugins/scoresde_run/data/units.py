r"""Units of events. All conversion between data, models, files and 8-bit images is here.

    stored    in a data set: grey levels 0 .. L - 1 as integers, or floats
    data      for targets, references, metrics and pictures: images on [-1, 1], floats as stored
    file      floats in a user's files: images in the model's range, [-1, 1] or [0, 1]; other floats as data
    model     input of a network and output of a sampler: (file - shift) / scale

Grey level v on [0, 1] is v / (L - 1), or (v + u) / L where noise u on [0, 1) gives it a density.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import attrs
import torch
from attrs.validators import deep_iterable, ge, gt, min_len, optional
from torch import Tensor
from scoresde_core import param

Rounding = Literal["nearest", "floor", "bins"]


@attrs.frozen
class Units:
    """The units of a model. ``shift`` and ``scale`` hold one number, or one per channel (first axis) of an event."""

    centered: bool = param(True, "images lie on [-1, 1], else on [0, 1]; no effect on floats")
    levels: int | None = param(None, "grey levels of an image; null: floats", optional(ge(2)), kw_only=True)
    shift: tuple[float, ...] = param((0.0,), "subtracted for the model", min_len(1), kw_only=True)
    scale: tuple[float, ...] = param((1.0,), "divides after the shift", deep_iterable(gt(0), min_len(1)), kw_only=True)

    @property
    def plain(self) -> bool:
        """Whether nothing is shifted or scaled."""
        return set(self.shift) == {0.0} and set(self.scale) == {1.0}

    @property
    def unscaled(self) -> bool:
        """Whether model values are the data."""
        return self.plain and not self._halved

    @property
    def range(self) -> tuple[float, float]:
        """The range of images in files."""
        return (-1.0, 1.0) if self.centered else (0.0, 1.0)

    @property
    def _halved(self) -> bool:
        """Whether images lie on [0, 1] in files."""
        return self.levels is not None and not self.centered

    def skip(self, shape: tuple[int, ...]) -> str | None:
        """Why these units do not fit events of ``shape``, or None."""
        for name in ("shift", "scale"):
            if (count := len(getattr(self, name))) not in (1, shape[0]):
                return f"{name} has {count} numbers, events of shape {list(shape)} need 1 or {shape[0]}"
        return None

    def encode(self, events: Tensor, u: Tensor | float | None = None) -> Tensor:
        """Model values of ``events`` (B, ...): grey levels, dequantised by noise ``u`` if given, or data floats."""
        if (levels := stored_levels(events)) is None:
            return self.from_file((events + 1) / 2 if self._halved else events)
        if levels > 256:
            levels = self.levels or levels  # such as 4096, for 12 bits
        unit = events.float() / (levels - 1) if u is None else (events + u) / levels
        return self.from_file(2 * unit - 1 if self.centered else unit)

    def beside(self, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        """What is known of events of ``shape``: their like in their units, other pictures in the range of files."""
        if tuple(values.shape[1:]) == shape:
            return self.encode(values).float()
        grey = values.ndim > 2 and values.dtype in (torch.uint8, torch.int32)
        return Units(self.centered).encode(values).float() if grey else values

    def decode(self, x: Tensor) -> Tensor:
        """Data from model values ``x`` (B, ...); float64 if there is a scale, as data may need the digits."""
        return self.data_of_file(self.to_file(x))

    def data_of_file(self, floats: Tensor) -> Tensor:
        """Data from file values."""
        return 2 * floats - 1 if self._halved else floats

    def from_file(self, floats: Tensor) -> Tensor:
        """Model values from file values (B, ...)."""
        if self.plain:
            return floats
        scaled: Tensor = (floats.double() - _along(self.shift, floats)) / _along(self.scale, floats)
        return scaled.to(floats.dtype)

    def to_file(self, x: Tensor) -> Tensor:
        """File values from model values ``x`` (B, ...)."""
        return x if self.plain else x.double() * _along(self.scale, x) + _along(self.shift, x)

    def images(self, x: Tensor, rounding: Rounding = "nearest") -> Tensor:
        """Grey levels of model values ``x`` (B, C, H, W), clamped: uint8, or int32 for more than 256 levels.

        ``nearest`` to v / (L - 1), ``floor`` below it, or ``bins``: the v whose bin [v, v + 1) / L holds the value.
        """
        levels, unit = self.levels or 256, self.to_file(x)
        unit = (unit + 1) / 2 if self.centered else unit
        found = unit * levels if rounding == "bins" else unit * (levels - 1)
        found = found.round() if rounding == "nearest" else found.floor()
        return found.clamp(0, levels - 1).to(torch.uint8 if levels <= 256 else torch.int32)

    def shown(self, x: Tensor) -> tuple[Tensor, str | None]:
        """Data on [-1, 1] to be drawn; floats are scaled to fit, which the second value then says."""
        data = self.decode(x)
        if self.levels is not None or data.ndim < 4:
            return data, None
        known = data[data.isfinite()]
        low, high = (float(known.min()), float(known.max())) if known.numel() else (0.0, 0.0)
        width = high - low or 1.0
        return 2 * (data - low) / width - 1, f"floats, scaled: black is {low:.4g}, white {high:.4g}"

    def log_volume(self, shape: tuple[int, ...]) -> float:
        """log |d data / d model| of an event in nats: a log density of the data is that of the model minus it."""
        numbers = math.prod(shape)
        scaled = numbers // len(self.scale) * math.fsum(map(math.log, self.scale))
        return scaled + (numbers * math.log(2) if self._halved else 0.0)

    def onto(self, other: "Units") -> tuple[float, float] | None:
        """(a, b) such that a x + b has ``other`` units; None if no single pair does."""
        if any(len(set(numbers)) > 1 for units in (self, other) for numbers in (units.scale, units.shift)):
            return None
        ends = self.decode(torch.tensor([[0.0], [1.0]], dtype=torch.float64))
        zero, one = other.encode(ends)[:, 0].tolist()
        return one - zero, zero


def stored_levels(events: Tensor) -> int | None:
    """The grey levels implied by the type of events: 256 for uint8, 65536 for other integers, None for floats."""
    return None if events.is_floating_point() else 256 if events.dtype == torch.uint8 else 65536


def columns(given: float | Sequence[float] | None, default: float) -> tuple[float, ...]:
    """One or several numbers as :class:`Units` holds them; ``default`` for None."""
    value = default if given is None else given
    return tuple(map(float, value)) if isinstance(value, Sequence) else (float(value),)


def _along(values: tuple[float, ...], like: Tensor) -> Any:
    """A float, or a float64 tensor (1, C, 1, ...) that broadcasts against ``like`` (B, C, ...)."""
    if len(values) == 1:
        return values[0]
    return _column(values, like.device).reshape(1, -1, *[1] * (like.ndim - 2))


@lru_cache(maxsize=64)
def _column(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A cached tensor, as copying it to a GPU waits for the GPU."""
    return torch.tensor(values, dtype=torch.float64, device=device)
