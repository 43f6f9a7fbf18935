"""Finished batches on disk: one file each, which appears whole or not at all.

    parts/likelihood-3f2a...9c/about.json           format, version, settings of the measure
    parts/likelihood-3f2a...9c/000012.safetensors   tensors of batch 12, and its record as JSON in the header

The name of a folder has a hash of everything that its numbers depend on: weights, model, settings of the measure,
device and versions. Other settings go to another folder; nothing is mixed or replaced.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
from safetensors import SafetensorError
from torch import Tensor
from scoresde_core import FileError
from scoresde_run.machine import files
from ..tensor_file import Format

FORMAT = Format("scoresde-evaluation-part", 1, "part of an evaluation")
ABOUT = "about.json"
_UNREADABLE = (FileError, SafetensorError, OSError, KeyError, ValueError)


@attrs.frozen(eq=False)
class Part:
    """The result of a batch: tensors on the CPU, and plain data."""

    tensors: dict[str, Tensor] = attrs.field(factory=dict)
    record: dict[str, Any] = attrs.field(factory=dict)


class Parts:
    """The batches of one measure of one model, below ``folder``."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        text = json.dumps(
            {"format": FORMAT.name, "version": FORMAT.version, "measure": name, **settings}, sort_keys=True
        )
        self.folder = folder / f"{name}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
        self._about = json.dumps(json.loads(text), indent=1) + "\n"

    def has(self, k: int) -> bool:
        """Whether batch ``k`` is finished, and its file as it was written."""
        with suppress(*_UNREADABLE):
            FORMAT.read(self._path(k))
            return True
        return False

    def save(self, k: int, part: Part) -> None:
        """Write batch ``k``."""
        if not (self.folder / ABOUT).exists():
            files.write(self.folder / ABOUT, self._about)
        FORMAT.write(self._path(k), part.tensors, {"record": json.dumps(part.record)})

    def load(self, k: int) -> Part:
        """Read batch ``k``, which must be finished."""
        try:
            tensors, about = FORMAT.read(self._path(k))
            return Part(tensors, json.loads(about["record"]))
        except _UNREADABLE as error:
            raise FileError(f"cannot read {self._path(k)}: {error}; remove it and repeat the command") from error

    def all(self, count: int) -> Iterator[Part]:
        """Read the batches 0 .. ``count`` - 1, one after another."""
        return map(self.load, range(count))

    def _path(self, k: int) -> Path:
        return self.folder / f"{k:06d}.safetensors"
