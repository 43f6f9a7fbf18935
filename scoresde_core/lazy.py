"""Packages whose names are imported on first use.

The stub ``__init__.pyi`` of such a package says where each name is from; type checkers read the same file.
"""

import ast
from collections.abc import Callable
from importlib import import_module
from importlib.util import resolve_name
from pkgutil import get_data
from typing import Any


def homes(package: str) -> dict[str, str]:
    """The module of every name that ``package`` exports."""
    found: dict[str, str] = {}
    for node in ast.parse(get_data(package, "__init__.pyi") or b"").body:
        if isinstance(node, ast.ImportFrom):
            home = resolve_name("." * node.level + (node.module or ""), package)
            for name in (alias.name for alias in node.names):
                found |= homes(home) if name == "*" else {name: home}
    return found


def attach(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of ``package``."""
    known = homes(package)

    def find(name: str) -> Any:
        if name not in known:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(known[name]), name)

    return find, lambda: sorted(known), sorted(known)
