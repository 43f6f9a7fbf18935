"""Finished batches on disk: one file each, which appears whole or not at all.

    parts/likelihood-3f2a...9c/about.json           format, version, settings of the measure
    parts/likelihood-3f2a...9c/000012.safetensors   tensors of batch 12, and its record as JSON in the header

The name of a folder has a hash of everything that its numbers depend on: weights, model, settings of the measure,
device and versions. Other settings go to another folder; nothing is mixed or replaced.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import safetensors
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from scoresde_core.errors import FileError
from scoresde_run.machine import files

FORMAT = "scoresde-evaluation-part"
VERSION = 1
ABOUT = "about.json"


@attrs.frozen(eq=False)
class Part:
    """The result of a batch: tensors on the CPU, and plain data."""

    tensors: dict[str, Tensor] = attrs.field(factory=dict)
    record: dict[str, Any] = attrs.field(factory=dict)


class Parts:
    """The batches of one measure of one model, below ``folder``."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        text = json.dumps({"format": FORMAT, "version": VERSION, "measure": name, **settings}, sort_keys=True)
        self.folder = folder / f"{name}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
        self._about = json.dumps(json.loads(text), indent=1) + "\n"

    def has(self, k: int) -> bool:
        """Whether batch ``k`` is finished, and its file readable."""
        try:
            with safetensors.safe_open(self._path(k), "pt") as file:
                return _is_ours(file.metadata())
        except (OSError, SafetensorError):
            return False

    def save(self, k: int, part: Part) -> None:
        """Write batch ``k``."""
        about = {"format": FORMAT, "version": str(VERSION), "record": json.dumps(part.record)}
        contiguous = {name: value.detach().cpu().contiguous() for name, value in part.tensors.items()}
        if not (self.folder / ABOUT).exists():
            files.write(self.folder / ABOUT, self._about)
        files.write(self._path(k), save(contiguous, about))

    def load(self, k: int) -> Part:
        """Read batch ``k``, which must be finished."""
        try:
            with safetensors.safe_open(self._path(k), "pt") as file:
                if not _is_ours(file.metadata()):
                    raise FileError(f"{self._path(k)} is not part of an evaluation, or of a newer version: remove it")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
                return Part(tensors, json.loads(file.metadata()["record"]))
        except (OSError, SafetensorError) as error:
            raise FileError(f"cannot read {self._path(k)}: {error}; remove it and repeat the command") from error

    def all(self, count: int) -> Iterator[Part]:
        """Read the batches 0 .. ``count`` - 1, one after another."""
        return map(self.load, range(count))

    def _path(self, k: int) -> Path:
        return self.folder / f"{k:06d}.safetensors"


def _is_ours(metadata: Mapping[str, str] | None) -> bool:
    return bool(metadata) and metadata.get("format") == FORMAT and metadata.get("version") == str(VERSION)  # type: ignore[union-attr]
