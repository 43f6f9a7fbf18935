"""Pictures of samples: a grid of images as a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

_GAP = 2


def drawable(shape: tuple[int, ...]) -> bool:
    """Whether events of ``shape`` are images of one or three channels."""
    return len(shape) == 3 and shape[0] in (1, 3)


def to_pixels(x: Tensor) -> NDArray[np.uint8]:
    """Images (n, C, H, W) in [-1, 1] as uint8 (n, H, W, C), rounded to the nearest value."""
    pixels: NDArray[np.uint8] = (
        x.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    )
    return pixels


def write(pixels: NDArray[np.uint8], path: Path, columns: int | None = None) -> None:
    """A grid of ``columns``, or as square as it gets, in reading order, with black gaps."""
    import numpy as np
    from PIL import Image

    n, height, width, channels = pixels.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    sheet = np.zeros(((height + _GAP) * rows - _GAP, (width + _GAP) * columns - _GAP, channels), np.uint8)
    for index, image in enumerate(pixels):
        top, left = (height + _GAP) * (index // columns), (width + _GAP) * (index % columns)
        sheet[top : top + height, left : left + width] = image
    Image.fromarray(sheet if channels == 3 else sheet[..., 0]).save(path, format="PNG")
