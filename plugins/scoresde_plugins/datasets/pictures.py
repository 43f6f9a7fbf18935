"""Pictures: image files in a folder, an archive, a database or a packed array, decoded on access."""

import io
import os
import warnings
import zipfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import attrs
import numpy as np
import torch
from attrs.validators import and_, gt, le, optional
from torch import Tensor
from scoresde_core import FileError, UsageError
from scoresde_run import Dataset, Split
from scoresde_run.machine import inputs
from .picture_file import Records, Source, Stored, opened

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}

Broken = Literal["fail", "skip"]
BROKEN_HELP = "what to do with a file that cannot be decoded: fail, or skip it with a warning"
Size = int | tuple[int, int]
"""The side of a square in pixels, or height and width."""
SIZE_HELP = "side in pixels, or [height, width]"
deep = optional(and_(gt(256), le(65536)))  # validates a number of grey levels of more than 8 bits


def positive(instance: Any, attribute: "attrs.Attribute[Any]", value: Size) -> None:
    """Validate that a size is positive."""
    if min(sides(value)) < 1:
        raise ValueError(f"{attribute.name} must be at least 1, got {value}")


def sides(size: Size) -> tuple[int, int]:
    """Return height and width."""
    return (size, size) if isinstance(size, int) else size


@attrs.frozen
class Folder(Source):
    """The image files below a folder and linked folders, in the order of their paths, without hidden ones."""

    root: Path

    def names(self) -> list[str]:
        found = []
        for folder, below, files in os.walk(self.root, followlinks=True):
            below[:] = [name for name in below if not name.startswith(".")]
            here = Path(folder).relative_to(self.root)
            found += [(here / name).as_posix() for name in files]
        return [name for name in sorted(found) if _is_picture(name)]

    def read(self, name: str) -> bytes:
        return inputs.regular(self.root / name, inputs.PICTURE).read_bytes()


@attrs.frozen
class Archive(Source):
    """The image files in a zip file, in the order of their paths, without resource forks that some systems add."""

    path: Path

    def names(self) -> list[str]:
        with inputs.reading(self.path, "a zip file"):
            listed = opened(zipfile.ZipFile, self.path).namelist()
        return sorted(n for n in listed if _is_picture(n) and not n.startswith("__MACOSX/"))

    def read(self, name: str) -> bytes:
        file = opened(zipfile.ZipFile, self.path)
        inputs.check_member(file.getinfo(name), inputs.PICTURE)
        return file.read(name)


@attrs.frozen
class Fit:
    """A central crop of ``crop`` pixels, then the largest central part of the shape of ``size``, resized to it.

    RGB or grey. ``size=None`` keeps a picture as it is. Both filters are antialiased. Photographs are rotated as their
    EXIF data say. Transparent parts become white, not the colours stored there.
    """

    size: Size | None = None
    crop: int | None = None
    grey: bool = False
    filter: Literal["bicubic", "bilinear"] = "bicubic"
    levels: int = 256

    def decode(self, stored: Stored) -> Tensor:
        """Return uint8 (1 or 3, H, W), or int32 (1, H, W) of more than 256 levels; a decoder may raise anything."""
        from PIL import Image, ImageOps

        with Image.open(io.BytesIO(stored)) if isinstance(stored, bytes) else Image.fromarray(stored) as opened:
            deep = self.levels > 256
            if opened.mode.startswith(("I", "F")) != deep:  # PIL would clip their values at 255
                bits = "16 bits: leave levels out" if deep else "8 bits: convert it, or set grey=true and levels=65536"
                raise ValueError(f"its pixels have the format {opened.mode!r}, not {bits}")
            try:
                image: Image.Image = ImageOps.exif_transpose(opened)
            except Exception:  # a damaged tag; damaged pixels are found below
                image = opened.copy()
        if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("F" if deep else "L" if self.grey else "RGB")
        if self.crop is not None:
            if min(image.size) < self.crop:
                raise ValueError(f"{image.width} x {image.height} pixels are less than the crop of {self.crop}")
            left, top = (image.width - self.crop) // 2, (image.height - self.crop) // 2
            image = image.crop((left, top, left + self.crop, top + self.crop))
        if self.size is not None:
            height, width = sides(self.size)
            image = ImageOps.fit(image, (width, height), Image.Resampling[self.filter.upper()])
        array = torch.from_numpy(np.array(image))
        if deep:
            if float(array.max()) >= self.levels + 0.5 * (self.size is not None):
                raise ValueError(f"it has grey levels up to {float(array.max()):g}, not below levels={self.levels}")
            array = array.round().clamp(0, self.levels - 1).int()
        return array.unsqueeze(0) if self.grey else array.permute(2, 0, 1).contiguous()


@attrs.frozen(eq=False)
class Pictures:
    """The events behind names of a source; a broken one may be replaced by the next, so that the order stays."""

    source: Source
    names: Sequence[Any]
    fit: Fit
    broken: Broken = "fail"
    where: str = ""

    def __attrs_post_init__(self) -> None:
        if not self.names:
            remedy = "give a folder, a zip or a .tfrecords file of images"
            raise FileError(f"there is no image file in {self.where!r}: {remedy}")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        for step in range(len(self)):
            if (found := self._decode((index + step) % len(self))) is not None:
                return found
        raise FileError(f"no picture in {self.where} can be read")

    def all(self) -> Tensor:
        """Return all readable pictures, uint8 (N, C, H, W)."""
        found: list[Tensor] = []
        for index, name in enumerate(self.names):
            if (picture := self._decode(index)) is None:
                continue
            if found and picture.shape != found[0].shape:
                sizes = f"{name}: {tuple(picture.shape[1:])}, the first: {tuple(found[0].shape[1:])}"
                raise FileError(f"the pictures in {self.where} differ in size ({sizes}): set size=")
            found.append(picture)
        if not found:
            raise FileError(f"no picture in {self.where} can be read")
        return torch.stack(found)

    def _decode(self, index: int) -> Tensor | None:
        try:
            return self.fit.decode(self.source.read(self.names[index]))
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, zlib.error, ... on damaged files
            why = " ".join(str(error).partition(" <_io.BytesIO")[0].split())
            message = f"cannot read the image {self.names[index]} in {self.where}: {why}"
            if self.broken == "fail":
                raise FileError(f"{message} (broken=skip skips such files)") from error
            warnings.warn(f"{message}; skipped", stacklevel=2)
            return None


def _is_picture(name: str) -> bool:
    """Whether a path is an image file, and not a resource fork (``._1.png``) that some systems add."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not name.endswith("/")


def check_labelled(broken: Broken) -> None:
    """Raise UsageError if pictures may be skipped: labels go by position, and would shift."""
    if broken == "skip":
        raise UsageError("labels need every picture: set broken=fail, and remove the files that cannot be read")


def source_at(path: str) -> Source:
    """Return the folder, zip file or file of TensorFlow records at ``path``."""
    if path.lower().endswith((".tfrecords", ".tfrecord")):
        return Records(Path(path))
    return Archive(Path(path)) if path.lower().endswith(".zip") else Folder(Path(path))


class PictureDataset(Dataset):
    """Base class of data sets of image files: define ``open``, and ``size`` or ``shape``."""

    levels = 256
    size: Size | None
    grey: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        assert self.size is not None
        return (1 if self.grey else 3, *sides(self.size))

    @abstractmethod
    def open(self, split: Split = "train") -> Pictures:
        """The pictures of a split, decoded on access."""

    def load(self, split: Split = "train") -> Tensor:
        return self.open(split).all()
