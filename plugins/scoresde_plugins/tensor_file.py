"""Safetensors files with a format name and a version in their metadata."""

from collections.abc import Mapping
from pathlib import Path

import attrs
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from scoresde_core import FileError
from scoresde_run.machine import files, inputs
from scoresde_run.machine.digest import DIGEST, of_tensors


@attrs.frozen
class Format:
    """A format: its name and newest version, and the phrase that messages use for such a file."""

    name: str
    version: int
    what: str

    def write(self, path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Write ``tensors`` and ``metadata``; raise FileError if the file cannot be written."""
        ready = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        about = {"format": self.name, "version": str(self.version), **metadata}
        files.write(Path(path), save(ready, {**about, DIGEST: of_tensors(ready, about)}))

    def read(self, path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the tensors and the metadata; raise FileError for another format or a newer version.

        A damaged file raises SafetensorError, OSError, KeyError or ValueError.
        """
        with safe_open(inputs.whole(Path(path)), framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            if metadata.get("format") != self.name:
                raise FileError(f"{path} is not {self.what}: its format is {metadata.get('format')!r}")
            if int(metadata["version"]) > self.version:
                why = f"{path} has format version {metadata['version']}, this release reads up to {self.version}"
                raise FileError(f"{why}: update scoresde")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # The first files had no digest.
        if metadata.pop(DIGEST, None) not in (None, of_tensors(tensors, metadata)):
            raise ValueError("its digest does not match its content")
        return tensors, metadata
