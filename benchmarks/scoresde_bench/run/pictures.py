"""Pictures of samples as PNG: a grid of images, or a scatter plot of points in the plane."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scoresde_run.machine import files
from scoresde_run.results.picture import tiled, to_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

TILE = 56
"""Small images are magnified by an integer factor until their longer side has at least this many pixels."""
POINTS = 2000


def sample_grid(samples: Tensor, path: str | Path, columns: int = 8, rows: int = 4) -> Path | None:
    """Write the first ``columns * rows`` samples to ``path`` and return it; None if there is nothing to draw.

    ``samples`` (n, C, H, W) in [-1, 1] become tiles in reading order, grey for C = 1, RGB for C = 3, else the mean of
    the channels in grey; (n, 2) become a scatter plot of at most 2,000 points. Values beyond the range are clipped, nan
    is black; points with a nan are left out. Raises FileError if ``path`` cannot be written.
    """
    if columns < 1 or rows < 1:
        raise ValueError(f"a grid needs at least 1 column and 1 row, got {columns} and {rows}")
    shape, path = tuple(samples.shape[1:]), Path(path)
    if 0 in samples.shape or not (shape == (2,) or len(shape) == 3):
        return None
    with files.replacing(path) as temporary:
        if shape == (2,):
            _scatter(samples[:POINTS].detach().float().cpu().numpy(), temporary)
        else:
            _tiles(samples[: columns * rows].detach().float().cpu(), temporary, columns)
    return path


def _tiles(images: Tensor, path: Path, columns: int) -> None:
    from PIL import Image

    if images.shape[1] not in (1, 3):
        images = images.mean(dim=1, keepdim=True)
    pixels = to_pixels(images.nan_to_num(nan=-1.0, posinf=1.0, neginf=-1.0))
    # The last channel is opacity: the gaps between tiles are transparent.
    sheet = tiled(np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=-1), min(columns, len(pixels)))
    factor = max(1, math.ceil(TILE / max(images.shape[2:])))
    Image.fromarray(sheet.repeat(factor, axis=0).repeat(factor, axis=1)).save(path, format="PNG", optimize=True)


def _scatter(points: NDArray[np.float32], path: Path) -> None:
    """Draw points in a square around the origin whose size is a round number."""
    from PIL import Image

    points = points[~np.isnan(points).any(axis=1)]
    finite = np.abs(points[np.isfinite(points).all(axis=1)])
    limit = _round_up(float(np.quantile(finite, 0.995)) * 1.05) if finite.size else 1.0
    canvas, frame, cloud = _plane(limit)
    canvas.restore_region(frame)
    cloud.set_offsets(np.clip(points, -limit, limit))
    cloud.axes.draw_artist(cloud)
    Image.fromarray(np.asarray(canvas.buffer_rgba())).save(path, format="PNG")


@lru_cache(maxsize=8)
def _plane(limit: float) -> tuple[Any, Any, Any]:
    """A canvas, its image without points, and the points to move; cached because drawing ticks is slow."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    neutral = "#808890"
    figure = Figure(figsize=(4.0, 4.0), dpi=120, facecolor="none")
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.1, 0.08, 0.87, 0.87))
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", facecolor="none")
    axes.tick_params(colors=neutral, labelsize=8, length=3)
    axes.grid(color=neutral, alpha=0.2, linewidth=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set(color=neutral, alpha=0.5)
    canvas.draw()
    frame = canvas.copy_from_bbox(figure.bbox)
    cloud = axes.scatter([], [], s=4.0, color="#3a8fd0", alpha=0.55, linewidths=0, clip_on=False)
    return canvas, frame, cloud


def _round_up(value: float) -> float:
    """Round up to 1, 1.5, 2, 3, 4, 5, 6 or 8 times a power of ten; 1 for 0, inf and nan."""
    if not 0 < value < math.inf:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(digit * power for digit in (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0) if digit * power >= value)
