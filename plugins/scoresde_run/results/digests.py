"""Digests of Python source and of files, which do not depend on names.

Source is read once in a process, from where it was imported. The digest of a module in an installed distribution covers
the module, as the version covers the rest. That of a module in a local file, a checkout or an editable installation
covers every ``.py`` file of its package, and of every other package that it imports and that is not installed either.

The digest of a file covers its content or, from 1 GiB on, its size and modification time. That of the folder of a
checkpoint or a training run covers its (newest) index, which has the hashes of the weights. That of any other folder
covers the names, sizes and times of the files below it but hidden ones, as first seen by this process.
"""

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

from scoresde_core import FileError
from ..machine import inputs
from ..models.checkpoint import INDEX, newest

LARGE = 2**30  # files of this many bytes or more are not read
_ELSEWHERE = {"torch", "numpy", "attr", "attrs", *sys.stdlib_module_names}
"""Modules that belong to no component, or whose version rows record."""
_LIBRARIES = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib", "platstdlib")]
_UNKNOWN = secrets.token_hex(8)
"""The digest of source that cannot be read, such as a notebook's; it differs in every process."""
_IMPORT = re.compile(
    rb"^[ \t]*(?:from[ \t]+([A-Za-z_]\w*)[\w.]*[ \t]+import\b|import[ \t]+([\w., \t]+?)[ \t]*(?:[#;].*)?\r?$)",
    re.MULTILINE,
)


def digest(content: Any) -> str:
    """16 hexadecimal digits that identify bytes."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


@cache
def of_source(module: str) -> Mapping[str, str]:
    """The digests of an imported module's source, by module or package."""
    if (top := module.partition(".")[0]) in _ELSEWHERE:
        return {}
    if (file := getattr(sys.modules.get(module), "__file__", None)) is None:
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
    """The digest of a top-level package or module, and its imports; None if it is installed or missing."""
    contents = {
        path.relative_to(root).as_posix() if path != root else "": _bytes(path)
        for root in reversed(_roots(name))  # the first of several files of one name is imported
        for path in ([root] if root.is_file() else root.rglob("*.py"))
        if path.is_file() and "__pycache__" not in path.parts
        if all(map(str.isidentifier, path.relative_to(root).parts[:-1]))
    }
    if not contents:
        return None
    listed = "".join(name + digest(content) for name, content in sorted(contents.items()))
    imported = {
        words.split()[0].partition(".")[0]
        for content in contents.values()
        for package, modules in _IMPORT.findall(content)
        for words in (package or modules).decode().split(",")
        if words.strip()
    }
    return digest(listed.encode()), imported


def _roots(name: str) -> list[Path]:
    """The folders of a top-level package, or the file of a module; none if it is installed."""
    module = sys.modules.get(name)
    try:
        spec = None if module is not None else find_spec(name)
    except (ImportError, ValueError):
        spec = None
    folders = getattr(module, "__path__", None) or getattr(spec, "submodule_search_locations", None)
    file = getattr(module, "__file__", None) or getattr(spec, "origin", None)
    places = [Path(place) for place in folders or ([file] if file else [])]
    return [place for place in places if place.exists() and not _is_installed(place)]


def _is_installed(path: Path) -> bool:
    path = path.resolve()
    return not {"site-packages", "dist-packages"}.isdisjoint(path.parts) or any(map(path.is_relative_to, _LIBRARIES))


def _bytes(path: Path) -> bytes:
    """Read a file, or the archive that contains it."""
    while not path.exists() and path != path.parent:
        path = path.parent
    with inputs.reading(path):
        return path.read_bytes()


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
    if (index := newest(path) / INDEX).is_file():
        return digest(index.read_bytes())
    found = []
    for here, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if name[0] != "." and name != "__pycache__")
        found.append(os.path.relpath(here, path))
        for name in sorted(name for name in names if name[0] != "."):
            with suppress(FileNotFoundError):  # a broken link
                stat = os.stat(os.path.join(here, name))
                found.append(f"{name} {stat.st_size} {stat.st_mtime_ns}")
    return digest("\n".join(found).encode())
