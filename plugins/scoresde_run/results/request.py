"""What a command was asked for, so that the same command after its success has nothing to do.

The index of a result, a YAML file or the header of a safetensors file, has the entry ``asked``: 16 hexadecimal digits
of the options as typed, and of what they name: source of components, content of files and weights, versions, device.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from scoresde_core import Registry
from ..machine import document
from ..machine.digest import SEAL, digest_of
from ..machine.files import check_new, new_folder
from ..models.checkpoint import file_hash
from .fingerprint import Fingerprint, key_of

ASKED = "asked"
_OTHER = ("out", "debug", "registry", "download", "run", "asked")
"""Entries that change no result: where it goes, and the parser's own."""


def digits(registry: Registry, arguments: argparse.Namespace, *parts: Any, **named: Any) -> str:
    """The digits of a command: its options, the components ``parts``, and what else the options name."""
    typed = {name: str(value) for name, value in vars(arguments).items() if name not in _OTHER}
    fingerprint = Fingerprint(registry)
    content = {"typed": typed, "named": fingerprint.describe({**named, "torch": str(torch.__version__)})}
    return key_of(content, fingerprint.depends(*parts))


def sealed(record: Mapping[str, Any], folder: Path, *files: str) -> str:
    """The text of an index: ``record``, the sha256 of the ``files`` beside it in ``folder``, and the digest of all."""
    index = {**record, "sha256": {name: file_hash(folder / name) for name in files}}
    return document.dump({**index, SEAL: digest_of(document.load(document.dump(index)), SEAL)})


def write(folder: Path, index: str, record: Mapping[str, Any], files: Callable[[Path], Sequence[str]]) -> str:
    """Make ``folder`` of what ``files(scratch)`` writes, whose names it returns, and ``index``; say what is there."""
    with new_folder(folder) as scratch:
        names = files(scratch)
        (scratch / index).write_text(sealed(record, scratch, *names), encoding="utf-8")
    return f"wrote {', '.join(str(folder / name) for name in [*names, index])}"


def check_place(path: Path, index: str = "") -> None:
    """Raise :class:`FileError` where ``path`` exists without the ``index`` of a result, or cannot be made."""
    if not (path / index if index else path).is_file():
        check_new(path)


def finished(path: Path, asked: str, index: str = "") -> bool:
    """Whether ``path`` is the result that was ``asked`` for, and say so; :class:`FileError` for anything else."""
    if not path.exists():
        return False
    if _stored(path / index if index else path) != asked:
        check_new(path)
    print(f"{path} is the result of this command already")
    return True


def _stored(index: Path) -> Any:
    try:
        if index.suffix == ".yaml":
            known = document.load(index.read_text(encoding="utf-8"))
        else:
            with safe_open(index, "pt") as file:
                known = file.metadata()
    except (OSError, ValueError, yaml.YAMLError, SafetensorError):
        return None
    return known.get(ASKED) if isinstance(known, Mapping) else None
