"""Pictures of events of any shape as a PNG: tiles of images, of slices or of curves, or points in the plane."""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from ..data.units import Units
from ..machine import files

_GAP, _WIDE, _HIGH = 2, 120, 72  # between tiles, and the size of a tile of curves, in pixels
TILES, POINTS = 256, 2000
NEUTRAL, COLOURS = "#808890", ("#3a8fd0", "#d0743a", "#3aa86b", "#a05ab8")


def to_pixels(x: Tensor, units: Units | None = None) -> NDArray[Any]:
    """Images (n, C, H, W) in a model's units or on [-1, 1] as uint8 or uint16 (n, H, W, C); others keep their axes."""
    levels = (units or Units()).images(x)
    pixels: NDArray[Any] = (levels.permute(0, 2, 3, 1) if levels.ndim == 4 else levels).contiguous().numpy()
    return pixels if pixels.dtype == "uint8" else pixels.astype("uint16")


def draw(
    path: Path, units: Units, *sides: Tensor, columns: int | None = None, count: int = TILES, least: int = 1,
    clear: bool = False,
) -> str | None:  # fmt: skip
    """Write a picture of the first ``count`` events (n, *shape); return how floats are scaled.

    Images (C, H, W) are tiles in reading order, as square as possible unless ``columns``, with their ``sides`` next to
    each other; other than 1 or 3 channels are shown by their mean. Volumes (C, H, W, D) are their middle slices; (D,),
    (C, L) and all other shapes are curves, and (2,) at most 2,000 points, a colour a side. Images are magnified until
    their longer side has ``least`` pixels; gaps are black, or transparent if ``clear``. nan is black, or left out.
    """
    from PIL import Image, PngImagePlugin

    many = POINTS if sides[0].shape[1:] == (2,) else count
    shown, note = units.shown(torch.cat([side[:many] for side in sides]))
    parts = shown.detach().float().cpu().chunk(len(sides))
    columns = min(len(parts[0]), columns or math.ceil(math.sqrt(len(parts[0]))))
    if shown.ndim in (4, 5):
        sheet = _tiles(parts, columns, least, clear)
    elif shown.shape[1:] == (2,):
        sheet = _scatter([part.numpy() for part in parts])
    else:
        curves = torch.stack(parts, 1).flatten(0, 1)  # grey levels as they are stored, in their range
        sheet, note = _curves(curves if units.levels is None else curves.clamp(-1, 1), columns * len(parts))
    about = PngImagePlugin.PngInfo()
    if note is not None:
        about.add_text("Description", note)
    with files.replacing(path) as temporary:
        image = Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet)
        image.save(temporary, format="PNG", pnginfo=about, optimize=clear)
    return note


def _tiles(parts: Sequence[Tensor], columns: int, least: int, clear: bool) -> NDArray[Any]:
    """Arrange images on [-1, 1] in reading order; the last channel is opacity if ``clear``."""
    images = torch.cat([_slices(part) if part.ndim == 5 else part for part in parts], 3)
    images = images if images.shape[1] in (1, 3) else images.mean(1, keepdim=True)
    pixels = to_pixels(images.nan_to_num(nan=-1.0, posinf=1.0, neginf=-1.0))
    pixels = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], -1) if clear else pixels
    n, height, width, channels = pixels.shape
    sheet = np.zeros(((height + _GAP) * -(-n // columns) - _GAP, (width + _GAP) * columns - _GAP, channels), np.uint8)
    for index, image in enumerate(pixels):
        top, left = (height + _GAP) * (index // columns), (width + _GAP) * (index % columns)
        sheet[top : top + height, left : left + width] = image
    factor = max(1, math.ceil(least / max(height, width)))
    return sheet.repeat(factor, axis=0).repeat(factor, axis=1)


def _slices(x: Tensor) -> Tensor:
    """The middle slices of volumes (n, C, H, W, D) across each axis, next to each other, (n, C, max(H, W), 2 D + W)."""
    middle = [x.select(axis, x.shape[axis] // 2) for axis in (2, 3, 4)]
    high = max(part.shape[2] for part in middle)
    return torch.cat([torch.nn.functional.pad(part, (0, 0, 0, high - part.shape[2]), value=-1.0) for part in middle], 3)


def _curves(x: Tensor, columns: int) -> tuple[NDArray[Any], str]:
    """Curves of events (n, L) or (n, C, L), all on one scale, which the second value says."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    x = x if x.shape[-1] > 1 else x.repeat_interleave(2, -1)  # a number is a level line
    values = (x.unsqueeze(1) if x.ndim == 2 else x.flatten(2)).numpy()
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    rows, tile = -(-len(values) // columns), np.arange(len(values)).reshape(-1, 1, 1)
    along = tile % columns + np.linspace(0.05, 0.95, values.shape[2])
    up = 0.05 + 0.9 * (values - low) / (high - low or 1.0) - tile // columns - 1
    figure = Figure(figsize=(columns * _WIDE / 100, rows * _HIGH / 100), dpi=100, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, columns), ylim=(-rows, 0), frameon=False)
    axes.hlines(range(-rows + 1, 0), 0, columns, NEUTRAL, linewidth=0.5)
    axes.vlines(range(1, columns), -rows, 0, NEUTRAL, linewidth=0.5)
    lines = np.stack(np.broadcast_arrays(along, up), -1).reshape(-1, values.shape[2], 2)
    axes.add_collection(LineCollection(list(lines), linewidths=0.9, colors=COLOURS[: values.shape[1]]))
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()), f"curves: the bottom of a tile is {low:.4g}, its top {high:.4g}"


def _scatter(sides: Sequence[NDArray[Any]]) -> NDArray[Any]:
    points = np.concatenate(sides)
    colours = np.repeat(range(len(sides)), len(sides[0]))[::-1]
    kept = ~np.isnan(points).any(axis=1)
    finite = np.abs(points[np.isfinite(points).all(axis=1)])
    reach = float(np.quantile(finite, 0.995)) * 1.05 if finite.size else 0.0
    power = 10.0 ** math.floor(math.log10(reach or 1.0))
    limit = power * math.ceil(reach / power) or 1.0
    canvas, frame, cloud = _plane(limit)
    canvas.restore_region(frame)
    cloud.set_offsets(np.clip(points[kept], -limit, limit))
    cloud.set_facecolors([COLOURS[colour] for colour in colours[kept]])
    cloud.axes.draw_artist(cloud)
    return np.asarray(canvas.buffer_rgba())


@lru_cache(maxsize=8)
def _plane(limit: float) -> tuple[Any, Any, Any]:
    """A canvas, its image without points, and the points to move; cached because drawing ticks is slow."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.0, 4.0), dpi=120, facecolor="none")
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.1, 0.08, 0.87, 0.87))
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", facecolor="none")
    axes.tick_params(colors=NEUTRAL, labelsize=8, length=3)
    axes.grid(color=NEUTRAL, alpha=0.2, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set(color=NEUTRAL, alpha=0.5)
    canvas.draw()
    frame = canvas.copy_from_bbox(figure.bbox)
    cloud = axes.scatter([], [], s=4.0, alpha=0.55, linewidths=0, clip_on=False)
    return canvas, frame, cloud
