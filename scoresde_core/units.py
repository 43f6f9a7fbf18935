r"""Units: what the numbers of events mean. All conversion between data, models, files and 8-bit images is here.

    stored    as a data set holds an event: grey levels 0 .. L - 1 as integers, or floats
    data      where targets, references, metrics and pictures live: images on [-1, 1], floats as they are stored
    file      floats in files of one's own: images in the model's range, [-1, 1] or [0, 1]; other floats as data
    model     what a network sees and a sampler gives: (file - shift) / scale

Of grey level v the image on [0, 1] is v / (L - 1), or (v + u) / L where noise u on [0, 1) makes it a density.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import attrs
import torch
from attrs.validators import deep_iterable, ge, gt, min_len, optional
from torch import Tensor

from .components import param

Rounding = Literal["nearest", "floor", "bins"]


@attrs.frozen
class Units:
    """What a model's numbers are. ``shift`` and ``scale`` hold one number, or one for each entry of an event's first
    axis: the channels of an image or a field, the columns of a table.
    """

    centered: bool = param(True, "images lie on [-1, 1], else on [0, 1]; of floats it says nothing")
    levels: int | None = param(None, "grey levels of an image; null: floats", optional(ge(2)), kw_only=True)
    shift: tuple[float, ...] = param((0.0,), "what is subtracted for the model", min_len(1), kw_only=True)
    scale: tuple[float, ...] = param(
        (1.0,), "what it is divided by after that", deep_iterable(gt(0), min_len(1)), kw_only=True
    )

    @property
    def plain(self) -> bool:
        """Whether nothing is shifted or scaled."""
        return set(self.shift) == {0.0} and set(self.scale) == {1.0}

    @property
    def range(self) -> tuple[float, float]:
        """Where images lie in files, before shift and scale."""
        return (-1.0, 1.0) if self.centered else (0.0, 1.0)

    @property
    def _halved(self) -> bool:
        """Whether the images of files are not those of the data, but on [0, 1]."""
        return self.levels is not None and not self.centered

    def skip(self, shape: tuple[int, ...]) -> str | None:
        """Why these are not the units of events of ``shape``, or None."""
        for name in ("shift", "scale"):
            count = len(getattr(self, name))
            if count not in (1, shape[0]):
                return f"{name} has {count} numbers, events of shape {list(shape)} need 1 or {shape[0]}"
        return None

    def encode(self, events: Tensor, u: Tensor | float | None = None) -> Tensor:
        """Model values of ``events`` (B, ...): grey levels, with noise ``u`` a density, or floats of the data."""
        levels = stored_levels(events)
        if levels is None:
            return self.from_file((events + 1) / 2 if self._halved else events)
        if levels > 256:
            levels = self.levels or levels  # of 12 bits, for one
        unit = events.float() / (levels - 1) if u is None else (events + u) / levels
        return self.from_file(2 * unit - 1 if self.centered else unit)

    def decode(self, x: Tensor) -> Tensor:
        """Data from model values ``x`` (B, ...); float64 where there is a scale, as data may need its digits."""
        return self.data_of_file(self.to_file(x))

    def data_of_file(self, floats: Tensor) -> Tensor:
        """Data from floats as files hold them."""
        return 2 * floats - 1 if self._halved else floats

    def from_file(self, floats: Tensor) -> Tensor:
        """Model values of floats (B, ...) as files hold them."""
        if self.plain:
            return floats
        scaled: Tensor = (floats.double() - _along(self.shift, floats)) / _along(self.scale, floats)
        return scaled.to(floats.dtype)

    def to_file(self, x: Tensor) -> Tensor:
        """Floats as files hold them, from model values ``x`` (B, ...)."""
        return x if self.plain else x.double() * _along(self.scale, x) + _along(self.shift, x)

    def images(self, x: Tensor, rounding: Rounding = "nearest") -> Tensor:
        """Grey levels of model values ``x`` (B, C, H, W), clamped: uint8, or int32 where there are more than 256.

        ``nearest`` to v / (L - 1), or ``floor`` below it; ``bins``: of a density, the v whose [v, v + 1) / L it is in.
        """
        levels, unit = self.levels or 256, self.to_file(x)
        unit = (unit + 1) / 2 if self.centered else unit
        found = unit * levels if rounding == "bins" else unit * (levels - 1)
        found = found.round() if rounding == "nearest" else found.floor()
        return found.clamp(0, levels - 1).to(torch.uint8 if levels <= 256 else torch.int32)

    def shown(self, x: Tensor) -> tuple[Tensor, str | None]:
        """Data on [-1, 1] to be drawn, and a sentence where that is not what they are: floats are scaled to fit."""
        data = self.decode(x)
        if self.levels is not None or data.ndim < 4:
            return data, None
        known = data[data.isfinite()]
        low, high = (float(known.min()), float(known.max())) if known.numel() else (0.0, 0.0)
        width = high - low or 1.0
        return 2 * (data - low) / width - 1, f"floats, scaled: black is {low:.4g}, white {high:.4g}"

    def log_volume(self, shape: tuple[int, ...]) -> float:
        """log |d data / d model| of an event in nats: a log density of the data is that of the model minus this."""
        numbers = math.prod(shape)
        scaled = numbers // len(self.scale) * math.fsum(map(math.log, self.scale))
        return scaled + (numbers * math.log(2) if self._halved else 0.0)

    def onto(self, other: Units) -> tuple[float, float] | None:
        """(a, b) such that a x + b has ``other`` units; None where no single pair does that for all numbers."""
        ends = [_ends(self), _ends(other)]
        if any(end is None for end in ends):
            return None
        (scale, shift), (other_scale, other_shift) = ends  # type: ignore[misc]
        return scale / other_scale, (shift - other_shift) / other_scale


def stored_levels(events: Tensor) -> int | None:
    """The grey levels of events by their type alone: 256 for uint8, 65536 for other integers, None for floats."""
    return None if events.is_floating_point() else 256 if events.dtype == torch.uint8 else 65536


def columns(given: float | Sequence[float] | None, default: float) -> tuple[float, ...]:
    """One number, or several, as :class:`Units` holds them; ``default`` where none is given."""
    value = default if given is None else given
    return tuple(map(float, value)) if isinstance(value, Sequence) else (float(value),)


def _ends(units: Units) -> tuple[float, float] | None:
    """(a, b) of data = a x + b, where it is one pair."""
    if len(set(units.scale)) > 1 or len(set(units.shift)) > 1:
        return None
    a, b = units.scale[0], units.shift[0]
    return (2 * a, 2 * b - 1) if units._halved else (a, b)


def _along(values: tuple[float, ...], like: Tensor) -> Any:
    """A float, or float64 numbers (1, C, 1, ...) to go with ``like`` (B, C, ...)."""
    if len(values) == 1:
        return values[0]
    return _column(values, like.device).reshape(1, -1, *[1] * (like.ndim - 2))


@lru_cache(maxsize=64)
def _column(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Kept, as copying it to a GPU waits for the GPU."""
    return torch.tensor(values, dtype=torch.float64, device=device)
