"""Your own images: a folder or zip of image files, TensorFlow records, or an array in an ``.npz`` file.

The test split has a path of its own, or is every k-th image in the order of the names or of the array.
"""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import numpy as np
import torch
from attrs.validators import and_, ge, gt, lt, optional
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.errors import FileError
from scoresde_run.data.dataset import Dataset, Split
from scoresde_run.machine import inputs

from . import examples, pictures
from .labels import Classes, labels


@attrs.frozen
class _HeldOut(Dataset):
    """A path and its test split: a second path, or a share of the first."""

    path: str = param(help="path of the images")
    test: str | None = param(None, "path of the test split; null: hold out a share", kw_only=True)
    test_share: float = param(0.1, "share of the images held out as the test split", and_(gt(0), lt(1)), kw_only=True)

    def files(self) -> list[str]:
        return [self.path, *([] if self.test is None else [self.test])]

    def place(self, split: Split) -> str:
        return self.path if split == "train" or self.test is None else self.test

    def rows(self, count: int, split: Split) -> Tensor:
        """Return the indices of a split among the ``count`` events at its path."""
        if self.test is not None:
            return torch.arange(count)
        every = max(2, round(1 / self.test_share))
        held_out = torch.arange(count) % every == every - 1
        return (held_out if split == "test" else ~held_out).nonzero().flatten()


@attrs.frozen
class ImageFolderDataset(_HeldOut, pictures.PictureDataset):
    """All image files in a folder or a .zip, resized to ``size`` after the largest central crop of that shape.

    Or all images in a .tfrecords file of StyleGAN's tool, such as ffhq-r08.tfrecords. Classes are read from a
    ``dataset.json`` at the top, as the tools of StyleGAN and EDM write it, else from the folders of the files.
    """

    example: ClassVar = staticmethod(examples.image_folder)

    size: pictures.Size = param(32, pictures.SIZE_HELP, pictures.positive)
    grey: bool = param(False, "one grey channel instead of three")
    crop: int | None = param(None, "side of a central crop before resizing, in pixels", optional(ge(1)))
    broken: pictures.Broken = param("fail", pictures.BROKEN_HELP)
    classes: Classes = param("auto", "source of labels. auto: dataset.json if there is one, else folders")

    @property
    def shape(self) -> tuple[int, ...]:
        return (1 if self.grey else 3, *pictures.sides(self.size))

    def open(self, split: Split = "train") -> pictures.Pictures:
        place = self.place(split)
        source = pictures.source_at(place)
        names = source.names()
        picked = [names[row] for row in self.rows(len(names), split).tolist()]
        if names and not picked:
            raise FileError(f"{place!r} has {len(names)} images, too few for a {split} split: set test_share=")
        return pictures.decoded(source, picked, pictures.Fit(self.size, self.crop, self.grey), self.broken, place)

    def known(self, split: Split = "train") -> dict[str, Tensor]:
        """``labels`` from ``dataset.json``, or the numbers of the folders sorted by name; none for a single folder."""
        found = labels(self.place(split), self.path, self.classes)
        if found is None:
            return {}
        pictures.check_labelled(self.broken)
        return {"labels": found[self.rows(len(found), split)]}


@attrs.frozen
class NPZDataset(_HeldOut):
    """An array in an ``.npz`` file: images or floats.

    Images are uint8 or uint16, (N, H, W), (N, H, W, C) or (N, C, H, W). Floats are points (N, D) or fields (N, C, H,
    W).
    """

    example: ClassVar = staticmethod(examples.npz)

    key: str = param("images", "name of the array in the file")
    labels: str | None = param(None, "name of the array of classes, integers from 0; null: none")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one event, from the file's header."""
        shape, dtype = _header(self.path, self.key)
        if _are_floats(self.path, self.key, shape, dtype):
            return shape[1:]
        return (1, *shape[1:]) if len(shape) == 3 else (shape[3], *shape[1:3]) if _channels_last(shape) else shape[1:]

    @property
    def levels(self) -> int | None:
        """256 or 65536 by the type of the array; None for floats."""
        return {"u1": 256, "u2": 65536}.get(_header(self.path, self.key)[1].str[1:])

    def load(self, split: Split = "train") -> Tensor:
        """uint8 or int32 (N, C, H, W), or floats (N, D) or (N, C, H, W)."""
        events = _read(self.place(split), self.key)
        return events if self.test is not None else events[self.rows(len(events), split)]

    def known(self, split: Split = "train") -> dict[str, Tensor]:
        if self.labels is None:
            return {}
        labels = _read_labels(self.place(split), self.labels)
        return {"labels": labels[self.rows(len(labels), split)]}


def _header(path: str, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and dtype of an array, without reading it."""
    with inputs.arrays(path) as file:
        if key not in file.names:
            raise FileError(f"{path} has no array {key!r}, only {', '.join(file.names)}: npz[key=...]")
        return file.header(key)


def _are_floats(path: str, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether the events are floats and not images; raise FileError if they are neither."""
    if dtype.kind == "f" and len(shape) in (2, 4):
        return True
    if dtype not in (np.uint8, np.uint16) or len(shape) not in (3, 4):
        raise FileError(
            f"{key!r} in {path} must be uint8 or uint16 images, or float points (N, D) or fields (N, C, H, W), got "
            f"{dtype} {shape}: choose another array, npz[key=...]"
        )
    return False


def _channels_last(shape: tuple[int, ...]) -> bool:
    return shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4)


def _read(path: str, key: str) -> Tensor:
    shape, dtype = _header(path, key)
    if _are_floats(path, key, shape, dtype):
        return _floats(path, key)
    array = _array(path, key)
    events = torch.from_numpy(array if dtype == np.uint8 else array.astype(np.int32))
    if events.ndim == 3:
        return events.unsqueeze(1)
    return events.permute(0, 3, 1, 2).contiguous() if _channels_last(shape) else events


def _floats(path: str, key: str) -> Tensor:
    """Return float32 (N, ...), or float64 if rounding would move values by 1e-3 of a channel's or column's std."""
    exact = torch.from_numpy(_array(path, key).astype(np.float64))
    if not bool(exact.isfinite().all()):
        raise FileError(f"{key!r} in {path} has values that are not finite: remove them")
    events = exact.float()
    by_column = (0, *range(2, events.ndim))
    off, spread = (events - exact).abs().amax(by_column), exact.std(by_column)
    return exact if bool((off > 1e-3 * spread).any()) else events


def _read_labels(path: str, key: str) -> Tensor:
    shape, dtype = _header(path, key)
    if len(shape) != 1 or dtype.kind not in "iu":
        raise FileError(f"{key!r} in {path} must be integers (N,), one per event, got {dtype} {shape}")
    return torch.from_numpy(_array(path, key).astype(np.int64))


def _array(path: str, key: str) -> np.ndarray[Any, Any]:
    with inputs.arrays(path) as file:
        return file[key]
