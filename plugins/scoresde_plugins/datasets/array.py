"""Your own numbers: images, signals, volumes, fields or rows of a table, in a file."""

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from scoresde_core import FileError, UsageError, param
from scoresde_run import Events, Split
from scoresde_run.data import array_file
from scoresde_run.machine import inputs
from .files import HeldOut
from .picture_file import opened
from .pictures import deep

LARGE, _CHUNK = 2**30, 1024  # an ``.npy`` array of more bytes stays on the disk; rows that are looked at together


def images(folder: Path) -> dict[str, Any]:
    """Write an array of images, and their labels."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", images=pixels, classes=np.arange(20) % 3)
    return {"path": str(folder / "images.npz"), "labels": "classes"}


@attrs.frozen
class ArrayDataset(HeldOut):
    """An array with an event a row, in a file: grey levels of 8 or 16 bits (uint8, uint16), or floats of 16 to 64.

    Grey levels (N, H, W), (N, H, W, C) or (N, C, H, W) are images. All else is as it is, (N, ...), channels first;
    (N,) is one column. An ``.npy`` array above 1 GiB stays on the disk: events are read as they are asked for. Other
    arrays (N, ...) of an ``.npz`` file with as many rows are known of the events by their names, such as y or mask.
    """

    example: ClassVar = staticmethod(images)

    key: str | None = param(None, "name of the array in an .npz file; null: the only one, or images")
    labels: str | None = param(
        None, "classes, integers from 0: an array of the .npz file, a column of the table, or another file; null: none"
    )
    _levels: int | None = param(None, "grey levels of a uint16 array, such as 4096; null: by its type", deep)

    def files(self) -> list[str]:
        """The paths of both splits, and of the labels."""
        return [*super().files(), *self._apart]

    @property
    def shape(self) -> tuple[int, ...]:
        header = self._header("train")
        return tuple(as_events(np.empty((0, *header.shape[1:]), header.dtype)).shape[1:])

    @property
    def levels(self) -> int | None:
        """256 or 65536 by the type of the array, unless stated; None for floats."""
        found = {"u1": 256, "u2": 65536}.get(self._header("train").dtype.str[1:])
        if self._levels is not None and found != 65536:
            raise UsageError(f"levels={self._levels} is of uint16 arrays, not of {self.path}: leave it out")
        return self._levels or found

    def open(self, split: Split = "train") -> Events:
        header = self._header(split)
        if Path(self.place(split)).suffix != ".npy" or header.nbytes <= LARGE:
            return self.load(split)
        _check_finite(self.place(split), header)
        return Mapped(Path(self.place(split)), self.rows(len(header), split))

    def load(self, split: Split = "train") -> Tensor:
        """Grey levels as uint8 or int32, or floats as float32 (float64 if a column needs the digits)."""
        self._header(split)
        array = self._read(split)
        _check_finite(self.place(split), array)
        if self._levels is not None and array.max(initial=0) >= (self.levels or 0):
            raise FileError(f"{self.place(split)} has grey levels up to {array.max()}, not below levels={self._levels}")
        events = _rounded(as_events(array))
        return events if self.test is not None else events[self.rows(len(events), split)]

    def known(self, split: Split = "train") -> dict[str, Tensor]:
        """``labels``, and the other arrays of an ``.npz`` file that have a row an event, by name."""
        path, count = Path(self.place(split)), len(self._header(split))
        found = {name: _beside(path, name) for name in array_file.beside(path, self.key) if name != self.labels}
        if self.labels is not None:
            found["labels"] = self._labels(split)
        for name, values in found.items():
            if len(values) != count:
                raise FileError(f"{path} has {count} events and {len(values)} {name}: give each event one")
        return {name: values[self.rows(count, split)] for name, values in found.items()}

    def _header(self, split: Split) -> NDArray[Any]:
        """An array of the shape and type of the events; FileError if they are neither grey levels nor floats."""
        header = self._read(split, header=True)
        if header.dtype.kind != "f" and header.dtype.str[1:] not in ("u1", "u2"):
            wanted = "uint8 or uint16 images, or float events of any shape"
            found = f"{header.dtype} {header.shape}: choose another array, key=..., or convert it"
            raise FileError(f"{self.place(split)} must be {wanted}, got {found}")
        return header

    def _read(self, split: Split, header: bool = False) -> NDArray[Any]:
        path = Path(self.place(split))
        found = array_file.read(path, self.key, header=header)
        return np.delete(found, array_file.column(path, str(self.labels)), 1) if self._in_table(path) else found

    def _in_table(self, path: Path) -> bool:
        return path.suffix in array_file.TABLES and self.labels is not None and not self._apart

    @property
    def _apart(self) -> list[str]:
        """The file of the labels, if they have one of their own."""
        return [self.labels] if self.labels is not None and self.labels.endswith(array_file.SUFFIXES) else []

    def _labels(self, split: Split) -> Tensor:
        path, name = Path(self.place(split)), self.labels
        if self._apart:
            if self.test is not None:
                remedy = "with test=, give .npz files that have both arrays"
                raise UsageError(f"{name} has the labels of one split: {remedy}")
            path, name = Path(self._apart[0]), None
        in_table = self._in_table(path)
        labels = array_file.read(path, None if in_table else name, ("labels",))
        labels = labels[:, array_file.column(path, str(name))] if in_table else labels
        labels = labels[:, 0] if labels.shape[1:] == (1,) else labels
        if labels.ndim != 1 or (labels % 1 != 0).any() or labels.min(initial=0) < 0:
            found = f"{labels.dtype} {labels.shape}"
            raise FileError(f"{self.labels!r} in {path} must be integers from 0 (N,), one per event, got {found}")
        return torch.from_numpy(labels.astype(np.int64))


_map = partial(inputs.array, mapped=True)


@attrs.frozen(eq=False)
class Mapped:
    """Rows of an ``.npy`` file, read on access."""

    path: Path
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        row = int(self.rows[index])
        return as_events(np.array(opened(_map, self.path)[row : row + 1]))[0]


def as_events(array: NDArray[Any]) -> Tensor:
    """Grey levels as uint8 or int32, with the channels of images first; floats of 16 bits as float32."""
    array = array[:, None] if array.ndim == 1 else array
    kind = array.dtype.str[1:]
    events = torch.from_numpy(array.astype({"u2": "i4", "f2": "f4"}.get(kind, kind), copy=False))
    if events.is_floating_point() or events.ndim not in (3, 4):
        return events
    if events.ndim == 3:
        return events.unsqueeze(1)
    last = events.shape[3] in (1, 3, 4) and events.shape[1] not in (1, 3, 4)
    return events.permute(0, 3, 1, 2).contiguous() if last else events


def _check_finite(path: str | Path, values: NDArray[Any]) -> None:
    for start in range(0, len(values) if values.dtype.kind == "f" else 0, _CHUNK):
        part = np.isfinite(values[start : start + _CHUNK]).reshape(len(values[start : start + _CHUNK]), -1).all(1)
        if not part.all():
            row = start + int(part.argmin())
            raise FileError(f"row {row} of {path}, counted from 0, has values that are not finite: remove the row")


def _rounded(exact: Tensor) -> Tensor:
    """float64 (N, ...) as float32, unless rounding would move values by 1e-3 of a channel's or column's std."""
    events, by_column = exact.float(), (0, *range(2, exact.ndim))
    if exact.dtype != torch.float64:
        return exact
    off, spread = (events - exact).abs().amax(by_column), exact.std(by_column)
    return exact if bool((off > 1e-3 * spread).any()) else events


def _beside(path: Path, name: str) -> Tensor:
    array = array_file.read(path, name)
    _check_finite(f"{name!r} in {path}", array)
    return as_events(array if array.dtype in (np.uint8, np.uint16) else array.astype(np.float32))
