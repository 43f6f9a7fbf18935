"""Pictures of samples: a grid of images as a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ..data.units import Units

_GAP = 2


def drawable(shape: tuple[int, ...]) -> bool:
    """Whether events of ``shape`` are images of one or three channels."""
    return len(shape) == 3 and shape[0] in (1, 3)


def to_pixels(x: Tensor, units: Units | None = None) -> NDArray[Any]:
    """Convert images (n, C, H, W), in a model's units or on [-1, 1], to uint8 or uint16 (n, H, W, C), rounded."""
    from ..data.units import Units

    pixels: NDArray[Any] = (units or Units()).images(x).permute(0, 2, 3, 1).contiguous().numpy()
    return pixels if pixels.dtype == "uint8" else pixels.astype("uint16")


def draw(path: Path, units: Units, *sides: Tensor, columns: int | None = None) -> str | None:
    """Write a grid of events (n, C, H, W), each with its ``sides`` next to each other; return how floats are scaled."""
    import numpy as np
    import torch

    shown, note = units.shown(torch.cat(sides))
    pixels = to_pixels(shown.nan_to_num())
    write(np.concatenate(np.split(pixels, len(sides)), axis=2), path, columns, note)
    return note


def write(pixels: NDArray[np.uint8], path: Path, columns: int | None = None, note: str | None = None) -> None:
    """Write a grid in reading order, as square as possible unless ``columns``; ``note`` is the PNG's description."""
    import numpy as np
    from PIL import Image, PngImagePlugin

    about = PngImagePlugin.PngInfo()
    if note is not None:
        about.add_text("Description", note)
    sheet = tiled(pixels, columns or int(np.ceil(np.sqrt(len(pixels)))))
    Image.fromarray(sheet if sheet.shape[-1] == 3 else sheet[..., 0]).save(path, format="PNG", pnginfo=about)


def tiled(pixels: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Arrange (n, H, W, C) as one picture in reading order, with gaps of zeros."""
    import numpy as np

    n, height, width, channels = pixels.shape
    sheet = np.zeros(((height + _GAP) * -(-n // columns) - _GAP, (width + _GAP) * columns - _GAP, channels), np.uint8)
    for index, image in enumerate(pixels):
        top, left = (height + _GAP) * (index // columns), (width + _GAP) * (index % columns)
        sheet[top : top + height, left : left + width] = image
    return sheet
