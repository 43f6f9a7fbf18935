"""Importing a plugin: redirects what it prints, and reads what can be known without the import."""

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.machinery import ModuleSpec
from itertools import accumulate
from pathlib import Path
from typing import Any

from . import manifest
from .hookspecs import PREFIX

FILE = "registry.yaml"
_HOOKS = re.compile(rf"\bhookimpl\b|\b{PREFIX}(register_|on_|api\b)|^\s*from\s+\S+\s+import\s+\*", re.MULTILINE)


@contextmanager
def importing(owner: str) -> Iterator[None]:
    """Around the import of a plugin: what it prints goes to stderr at the end, and an interrupt names it."""
    printed = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    try:
        with redirect_stdout(printed):
            yield
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(f"while the plugin {owner} was imported")
        raise
    finally:
        for line in printed.buffer.getvalue().decode(errors="replace").splitlines():
            print(f"{owner}: {line}", file=sys.stderr)


def find_spec(name: str) -> ModuleSpec | None:
    """The spec of a module, found without importing it or its parent packages; None where that is impossible."""
    spec, path = None, None
    for inner in accumulate(name.split("."), "{}.{}".format):
        try:
            known = sys.modules[inner].__spec__ if inner in sys.modules else None
            spec = known or next(filter(None, (finder.find_spec(inner, path) for finder in sys.meta_path)))
            path = list(spec.submodule_search_locations or [])
        except (ImportError, AttributeError, KeyError, ValueError, StopIteration):  # some finders need the package
            return None
    return spec


def manifest_of(spec: ModuleSpec) -> manifest.Manifest | None:
    """The ``registry.yaml`` in a package or beside a module of one, also in a zip file; None if there is none."""
    loader: Any = spec.loader
    # A module outside any package shares its folder with others, so a file there is not its own.
    beside = [os.path.dirname(spec.origin)] if spec.origin and spec.parent else []
    for folder in spec.submodule_search_locations or beside:
        path = Path(folder, FILE)
        try:
            content = loader.get_data(str(path)) if hasattr(loader, "get_data") else path.read_bytes()
        except OSError:
            if path.exists():
                raise
            continue
        return manifest.parse(content.decode(), str(path))
    return None


def may_have_hooks(spec: ModuleSpec) -> bool:
    """Whether the source of a module mentions hooks or a star import; True if the source cannot be read."""
    if spec.origin is None:
        return False  # a package without __init__.py
    loader: Any = spec.loader
    source = loader.get_source(spec.name) if hasattr(loader, "get_source") else None
    return source is None or bool(_HOOKS.search(source))
