"""Small files of noise, with which the conformance suite checks the data sets that read files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scoresde_core.components import Spec

COUNT, SIDE = 20, 8


def _images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)


def _encoded() -> list[bytes]:
    from PIL import Image

    found = []
    for image in _images():
        with io.BytesIO() as file:
            Image.fromarray(image).save(file, "png")
            found.append(file.getvalue())
    return found


def image_folder(folder: Path) -> dict[str, Any]:
    """Write images to the folders of two classes."""
    for k, data in enumerate(_encoded()):
        place = folder / "ab"[k % 2] / f"{k:02}.png"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(data)
    return {"path": str(folder), "size": SIDE}


def npz(folder: Path) -> dict[str, Any]:
    """Write an array of images, and their labels."""
    np.savez(folder / "images.npz", images=_images(), classes=np.arange(COUNT) % 3)
    return {"path": str(folder / "images.npz"), "labels": "classes"}


def jpeg_archive(folder: Path) -> dict[str, Any]:
    """Write both splits, with labels."""
    encoded = _encoded()
    for split, part in (("train", encoded[5:]), ("test", encoded[:5])):
        offsets = np.cumsum([0, *map(len, part)])
        data = np.frombuffer(b"".join(part), dtype=np.uint8)
        np.savez(folder / f"{split}.npz", jpeg=data, offsets=offsets, labels=np.arange(len(part)) % 3)
    return {"path": str(folder)}


def resized(folder: Path) -> dict[str, Any]:
    """Write an array of images, to crop, resize and pad."""
    return {"data": Spec("npz", npz(folder)), "crop": 6, "size": 4, "padding": 1}
