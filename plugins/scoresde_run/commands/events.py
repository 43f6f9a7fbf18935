"""The events that a command reads: of a data set, or of the user's files.

    mnist, npz[path=a.npz]          a data set, by its name
    here/a.npz, a.npy, a.csv        an array of images or points
    a.png, ./folder                 an image, or the images in a folder in the order of their names

Files are not split, cropped or resized. Integers are grey levels; floats are in the units of the training data or, for
images, in the model's range.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from scoresde_core import OURS, UnknownName, UsageError, parse
from ..data import array_file
from ..data.dataset import Dataset, Events, rows
from ..machine import inputs
from ..models.model import find_dataset, plan_data
from .opened import OpenedModel

_LOOKED_AT = 256
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def open_events(text: str | None, opened: OpenedModel) -> Events:
    """Open the events named ``text`` (None: the model's own data): integers as stored, or floats of the data."""
    if (dataset := find_events(text, opened)) is None:
        return read_events(Path(str(text)), opened)
    events = dataset.open(opened.arguments.split)
    if len(events):
        _check_kind(events[0], opened, text or opened.data)
    return events


def find_events(text: str | None, opened: OpenedModel) -> Dataset | None:
    """The data set that :func:`open_events` reads; None for files."""
    registry, download = opened.registry, opened.arguments.download
    if text is None:
        if opened.plan is not None:
            return plan_data(opened.plan, registry, download)[0]
        return registry.create("datasets", f"{OURS}:exact", target=opened.target)  # type: ignore[no-any-return]
    if Path(text).suffix.lower() in (*array_file.SUFFIXES, *PICTURES) or ("/" in text and "[" not in text):
        return None
    try:
        return find_dataset(parse(text), opened.shape, registry, download)
    except UnknownName as error:
        hint = f" (a folder of images is written with a slash: ./{text})" if Path(text).is_dir() else ""
        raise UsageError(f"{error}{hint}") from error


def take(events: Events, indices: Sequence[int]) -> Tensor:
    """Stack the events at ``indices``; an index out of range is a :class:`UsageError`."""
    if wrong := [index for index in indices if not 0 <= index < len(events)]:
        raise UsageError(f"there is no event {wrong[0]}: there are {len(events)}, 0 to {len(events) - 1}")
    return rows(events, indices)


def subset(size: int, count: int | None) -> list[int]:
    """``count`` of ``size`` indices (None: all), spread evenly, because a set may be sorted by class."""
    count = size if count is None else min(count, size)
    return [index * size // count for index in range(count)]


def read_events(path: Path, opened: OpenedModel, shape: tuple[int, ...] | None = None) -> Tensor:
    """Read all events of a file or folder: grey levels, or floats of the data; with a ``shape`` as stored."""
    if not path.exists():
        raise UsageError(f"there is no file or folder {path}")
    own = shape or opened.shape
    array = array_file.read(path) if path.suffix in array_file.SUFFIXES else _pictures(path, own)
    if array.dtype.kind != "f" and array.dtype not in ("uint8", "uint16"):
        raise UsageError(f"{path} holds {array.dtype} values: give images as uint8 0 to 255, other events as floats")
    events = _arranged(torch.from_numpy(array.astype("int32") if array.dtype == "uint16" else array), own, path)
    if shape is not None:
        return events
    if events.is_floating_point():
        _check_range(events, opened, path)
        return opened.units.data_of_file(events)
    _check_kind(events, opened, str(path))
    return events


def read_latents(path: Path, opened: OpenedModel) -> Tensor:
    """Read the latents (N, *shape) of a file, as float32."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    latents = _arranged(torch.from_numpy(array_file.read(path, wanted=("latents",))), opened.shape, path)
    if not latents.is_floating_point() or not bool(latents.isfinite().all()):
        raise UsageError(f"{path} must hold finite floats as latents, got {latents.dtype} values")
    return latents.float()


def _pictures(path: Path, shape: tuple[int, ...]) -> Any:
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UsageError(f"{path} holds images, but events have shape {list(shape)}: give an .npz or .npy file")
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"there is no image in {path}")
    found = []
    for file in files:
        with inputs.picture(file) as image:
            width, height = image.size
            if (height, width) != shape[1:]:
                raise UsageError(f"{file} has {height} x {width} pixels, the model {shape[1]} x {shape[2]}: resize it")
            found.append(np.asarray(image.convert("L" if shape[0] == 1 else "RGB")))
    return np.stack(found)


def _arranged(events: Tensor, shape: tuple[int, ...], path: Path) -> Tensor:
    """Arrange events as (N, *shape), from channels first, channels last, or no axis of channels."""
    found = tuple(events.shape[1:])
    if not len(events):
        raise UsageError(f"{path} is empty")
    if found == shape:
        return events
    if len(shape) == 3 and found == (*shape[1:], shape[0]):
        return events.permute(0, 3, 1, 2).contiguous()
    if len(shape) == 3 and shape[0] == 1 and found == shape[1:]:
        return events.unsqueeze(1)
    raise UsageError(f"{path} has events of shape {list(found)}, the model {list(shape)}")


def _check_kind(events: Tensor, opened: OpenedModel, name: str) -> None:
    """Refuse grey levels for a model of floats. (Those of a target are on [-1, 1].)"""
    if not events.is_floating_point() and opened.units.levels is None and opened.target is None:
        floats = f"but the model's data are floats ({opened.data}): give floats in their units"
        raise UsageError(f"{name} holds grey levels, {floats}")


def _check_range(events: Tensor, opened: OpenedModel, path: Path) -> None:
    """Refuse images and fields that exceed the range of the model's events, if it is known, by more than half of it."""
    if len(opened.shape) != 3 or (opened.units.levels is None and opened.target is None):
        return
    low, high = opened.units.range
    if opened.units.levels is None and opened.target is not None:
        low, high = map(float, opened.target.sample(_LOOKED_AT).aminmax())
    slack, known = (high - low) / 2, events[~events.isnan()]
    least, most = map(float, known.aminmax()) if known.numel() else (low, high)
    if least < low - slack or most > high + slack:
        given = f"{path} has values from {least:.4g} to {most:.4g}, the model's events in [{low:.4g}, {high:.4g}]"
        raise UsageError(f"{given}: scale them, or store uint8 grey levels, which are scaled here")
