"""Labels of image files: from a ``dataset.json``, as the tools of StyleGAN and EDM write it, or from their folders.

These tools pack images into folders of a thousand, ``00000/img00000000.png``, which are not classes. Beside them

    {"labels": [["00000/img00000000.png", 6], ["00000/img00000001.png", 9], ...]}

holds the classes, or null if there are none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde_core.errors import FileError
from scoresde_run.machine import inputs

from .pictures import Archive, Folder, Source, source_at

INDEX = "dataset.json"
Classes = Literal["auto", "folders"]


def labels(place: str, path: str, classes: Classes) -> Tensor | None:
    """Return the class of each image at ``place``, int64 (N,), or None; ``path`` has the training images."""
    source = source_at(place)
    if classes == "auto" and isinstance(source, Folder | Archive):
        text = _index(source)
        if text is not None:
            return _listed(text, source.names(), place)
    return _by_folder(source, place, path, classes)


def _by_folder(source: Source, place: str, path: str, classes: Classes) -> Tensor | None:
    """Return the number of each image's folder among those of ``path``, sorted by name; None if there is only one."""
    known = sorted(set(_folders(source_at(path))))
    if len(known) < 2:
        return None
    if classes == "auto" and all(re.fullmatch(r"\d{5,}", name) for name in known):
        raise FileError(
            f"{path!r} has the folders {known[0]} to {known[-1]}, which the tools of StyleGAN and EDM number without "
            f"meaning, and no {INDEX} with the classes: add it, or set classes=folders if they are classes"
        )
    folders = _folders(source)
    strange = sorted(set(folders) - set(known))
    if strange:
        raise FileError(f"{place!r} has a folder {strange[0]!r} that {path!r} does not have: it is not a class")
    number = {name: k for k, name in enumerate(known)}
    return torch.tensor([number[folder] for folder in folders])


def _folders(source: Source) -> list[str]:
    return [name.rpartition("/")[0] for name in source.names()]


def _index(source: Folder | Archive) -> bytes | None:
    try:
        return source.read(INDEX)
    except (OSError, KeyError):
        return None


def _listed(text: bytes, names: list[str], place: str) -> Tensor | None:
    """Return the classes of ``names`` by the index ``text``; None if it says that there are none."""
    where = f"{INDEX} of {Path(place)}"
    try:
        found: Any = inputs.loads(text)["labels"]
        by_name = None if found is None else {str(name).replace("\\", "/"): label for name, label in found}
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f"cannot read the {where}: {error}; expected {{'labels': [[name, class], ...]}}") from error
    if by_name is None:
        return None
    missing = [name for name in names if name not in by_name]
    if missing:
        raise FileError(f"the {where} has no label for {missing[0]} ({len(missing)} of {len(names)} lack one)")
    wrong = [name for name in names if type(by_name[name]) is not int or by_name[name] < 0]
    if wrong:
        what = f"the label {by_name[wrong[0]]!r} for {wrong[0]}"
        raise FileError(f"the {where} has {what}: classes must be integers from 0")
    return torch.tensor([by_name[name] for name in names])
