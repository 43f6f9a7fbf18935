"""The dependencies of a result as plain data: components, their source, and the files that they read.

Components are described by registered name (``sde scoresde:vp``) and parameters, wherever their classes live. Their
source and files are described by digests (:mod:`.digests`). The files of a component are those that its method
``files()`` lists or, without this method, those that its parameters name.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

import attrs
import numpy as np
import torch
from scoresde_core import KINDS, Registry
from scoresde_core.components import HANDED
from .digests import digest, of_path, of_source

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_PLAIN = (bool, int, float, str, type(None))
Depends = dict[str, dict[str, str]]


@attrs.define(eq=False)
class Fingerprint:
    """Describes components of ``registry`` and their dependencies."""

    registry: Registry

    def describe(self, value: Any) -> Any:
        """Describe a component as plain data: its name, its parameters, and other fields of its repr."""
        if isinstance(value, np.ndarray) and value.dtype.kind not in "biufc":
            value = value.tolist()
        if isinstance(value, torch.Tensor | np.ndarray):
            tensor = torch.as_tensor(np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value)
            content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            return f"{value.dtype} {tuple(value.shape)} {digest(content)}"
        if isinstance(value, Mapping):
            return {str(name): self.describe(item) for name, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            found = [self.describe(item) for item in value]
            return found if isinstance(value, list | tuple) else sorted(found, key=repr)
        if isinstance(value, _PLAIN):
            return str(value) if isinstance(value, float) and not math.isfinite(value) else value
        entry = self.registry.entry_of(type(value))
        name = f"{KINDS[entry.row.kind].singular} {entry.qualified}" if entry else type(value).__qualname__
        if attrs.has(type(value)):
            known = {"type": name} | ({"class": type(value).__qualname__} if entry else {})
            return known | {alias: self.describe(item) for alias, item in _described(value)}
        return name if entry else _ADDRESS.sub("", str(value))

    def depends(self, *parts: Any) -> Depends:
        """The ``versions`` of plugins, ``sources`` by package or module, and ``files`` by path, of all ``parts``."""
        known = {status.owner: status.version for status in self.registry.statuses if status.state == "ok"}
        owners, sources, files = {"scoresde"}, dict[str, str](), dict[str, str]()
        for part in _components(parts):
            entry = self.registry.entry_of(type(part))
            owners |= {entry.owner} if entry else set()
            for cls in type(part).__mro__:
                sources |= of_source(cls.__module__)
            files |= {str(path): of_path(path) for path in _files(part) if os.path.exists(path)}
        versions = {owner: known[owner] for owner in owners if owner in known}
        return {name: dict(sorted(found.items())) for name, found in
                (("versions", versions), ("sources", sources), ("files", files))}  # fmt: skip


def placeless(depends: Depends) -> dict[str, Any]:
    """Dependencies without paths: versions, and digests of sources and files."""
    return {"versions": depends["versions"], **{name: sorted(depends[name].values()) for name in ("sources", "files")}}


def key_of(content: Any, depends: Depends) -> str:
    """16 hexadecimal digits that identify plain ``content`` and its dependencies."""
    return digest(json.dumps([content, placeless(depends)], sort_keys=True).encode())


def _described(component: Any) -> Iterator[tuple[str, Any]]:
    for field in attrs.fields(type(component)):
        if HANDED not in field.metadata and (field.init or (field.repr and not field.name.startswith("_"))):
            yield field.alias or field.name, getattr(component, field.name)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(item)
    else:
        yield value


def _components(value: Any) -> Iterator[Any]:
    for leaf in _leaves(value):
        if not isinstance(leaf, (*_PLAIN, torch.Tensor, np.ndarray, Path)):
            yield leaf
            if attrs.has(type(leaf)):
                yield from _components([item for _, item in _described(leaf)])


def _files(component: Any) -> Iterable[Path]:
    """The files that a component lists, or that its fields name."""
    declared = getattr(component, "files", None)
    if callable(declared):
        return map(Path, declared())
    if not attrs.has(type(component)):
        return []
    names = _fields(type(component))  # type: ignore[arg-type]  # mypy takes no class for hashable
    values = _leaves([getattr(component, name, None) for name in names])
    return [Path(text) for text in values if isinstance(text, Path) or (isinstance(text, str) and text)]


@cache
def _fields(cls: Any) -> list[str]:
    """The fields that may name a file; a ``Literal`` cannot."""
    try:
        hints = get_type_hints(cls)
    except NameError:  # a name imported under TYPE_CHECKING
        hints = {}
    return [field.name for field in attrs.fields(cls) if get_origin(hints.get(field.name)) is not Literal]
