"""Digests of Python source and of files: equal where nothing changed, whatever either is called.

Source is read once in a process, where it was imported from: what counts is the code that runs.

- Of a module in an installed distribution the module itself counts; the distribution's version stands for the rest.
- Of one in a local file, a checkout or an editable installation every ``.py`` file of its package counts, and of every
  other package that it imports and that is not installed either.

A file counts by its content; from 1 GiB on by its size and the time of its last change. The folder of a checkpoint, or
of a training run, counts by its (newest) index, which has the hashes of the weights; any other folder by the names,
sizes and times of the files below it, without hidden ones, as they were when this process first looked.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sys
import sysconfig
from collections.abc import Mapping
from contextlib import suppress
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scoresde_core.errors import FileError

from ..models.checkpoint import INDEX, newest

LARGE = 2**30
"""Bytes from which on a file is not read."""
_ELSEWHERE = {"torch", "numpy", "attr", "attrs", *sys.stdlib_module_names}
"""What is no part of a component, or has a version that rows hold anyway."""
_LIBRARIES = ("purelib", "platlib", "stdlib", "platstdlib")
_UNKNOWN = secrets.token_hex(8)
"""Stands for source that cannot be read, such as a notebook's: no other process may take its own for the same."""
_IMPORT = re.compile(
    rb"^[ \t]*(?:from[ \t]+([A-Za-z_]\w*)[\w.]*[ \t]+import\b|import[ \t]+([\w., \t]+?)[ \t]*(?:[#;].*)?\r?$)",
    re.MULTILINE,
)


def digest(*contents: Any) -> str:
    """16 hexadecimal digits of some bytes, one after another."""
    found = hashlib.blake2b(digest_size=8)
    for content in contents:
        found.update(content)
    return found.hexdigest()


@cache
def of_source(module: str) -> Mapping[str, str]:
    """The digests of the source that an imported module stands for, by module or package."""
    top = module.partition(".")[0]
    if top in _ELSEWHERE:
        return {}
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return {top: _UNKNOWN}
    if _is_installed(Path(file)):
        return {module: digest(_bytes(Path(file)))}
    found: dict[str, str] = {}
    waiting = {top}
    while waiting:
        package = waiting.pop()
        if found_in := _package(package):
            found[package], imported = found_in
            waiting |= imported - found.keys() - _ELSEWHERE
    return found


@cache
def _package(name: str) -> tuple[str, set[str]] | None:
    """The digest of a top-level package or module, and what it imports; None where it is installed or not there."""
    contents = {
        path.relative_to(root).as_posix() if path != root else "": _bytes(path)
        for root in reversed(_roots(name))  # of files by one name the first is what is imported
        for path in ([root] if root.is_file() else _python_files(root))
    }
    if not contents:
        return None
    parts = [part for name, content in sorted(contents.items()) for part in (name.encode(), digest(content).encode())]
    imported = {
        words.split()[0].partition(".")[0]
        for content in contents.values()
        for package, modules in _IMPORT.findall(content)
        for words in (package or modules).decode().split(",")
        if words.strip()
    }
    return digest(*parts), imported


def _roots(name: str) -> list[Path]:
    """The folders of a top-level package, or the file of a module, unless it is installed."""
    module = sys.modules.get(name)
    try:
        spec = None if module is not None else find_spec(name)
    except (ImportError, ValueError):
        spec = None
    folders = getattr(module, "__path__", None) or getattr(spec, "submodule_search_locations", None)
    file = getattr(module, "__file__", None) or getattr(spec, "origin", None)
    places = [Path(place) for place in folders or ([file] if file else [])]
    return [place for place in places if place.exists() and not _is_installed(place)]


def _python_files(folder: Path) -> list[Path]:
    """Every .py file below a package's folder; a folder whose name is no identifier holds nothing to import."""
    found = []
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name.isidentifier() and name != "__pycache__"]
        found += [Path(here, name) for name in names if name.endswith(".py")]
    return found


@cache
def _libraries() -> list[Path]:
    return [Path(path).resolve() for name, path in sysconfig.get_paths().items() if name in _LIBRARIES]


def _is_installed(path: Path) -> bool:
    """Whether a path lies where packages are installed; a link there to a checkout does not."""
    path = path.resolve()
    return not {"site-packages", "dist-packages"}.isdisjoint(path.parts) or any(map(path.is_relative_to, _libraries()))


def _bytes(path: Path) -> bytes:
    """A file, or the archive that a path leads into."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error


def of_path(path: Path) -> str:
    """The digest of a file or folder."""
    try:
        if path.is_dir():
            return _of_folder(path.resolve())
        stat = path.stat()
        if stat.st_size >= LARGE:
            return digest(f"{stat.st_size} {stat.st_mtime_ns}".encode())
        return _of_file(path.resolve(), stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error


@lru_cache(maxsize=1024)
def _of_file(path: Path, size: int, changed: int) -> str:
    return digest(path.read_bytes())


@cache
def _of_folder(path: Path) -> str:
    index = newest(path) / INDEX
    if index.is_file():
        return digest(index.read_bytes())
    found = []
    for here, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if name[0] != "." and name != "__pycache__")
        found.append(os.path.relpath(here, path))
        for name in sorted(name for name in names if name[0] != "."):
            with suppress(FileNotFoundError):  # a link to nothing
                stat = os.stat(os.path.join(here, name))
                found.append(f"{name} {stat.st_size} {stat.st_mtime_ns}")
    return digest("\n".join(found).encode())
