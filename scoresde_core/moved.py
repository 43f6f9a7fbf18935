"""Modules and names that moved in this version: the old ones still import, with a :class:`DeprecationWarning`."""

import sys
import warnings
from functools import cache
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


@cache
def table(part: str) -> dict[str, str]:
    """The new names of old ``modules``, and the modules of the core's former ``names``; read when one is asked for."""
    import json
    from pkgutil import get_data

    # JSON, which is read in a hundredth of YAML's time: every import from the package asks for its former names.
    return json.loads(get_data("scoresde_core", "moved.json") or b"")[part]  # type: ignore[no-any-return]


class Moved:
    """Imports a module by its old name; it is the last finder, so other imports cost nothing more."""

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        """A spec for an old name, which may have modules inside, else None."""
        known = fullname.startswith("scoresde_") and fullname in table("modules")
        return ModuleSpec(fullname, self, is_package=True) if known else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave that to importlib."""

    def exec_module(self, module: ModuleType) -> None:
        """Take the names from the new module, which is imported on first use, and warn."""
        new = table("modules")[module.__name__]
        vars(module)["__getattr__"] = lambda name: getattr(import_module(new), name)
        warn(module.__name__, new)


def former(module: str, name: str) -> Any:
    """The name that ``module`` exported before, with a warning; ``AttributeError`` if it never did."""
    if name.startswith("_") or name not in table("names"):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warn(f"{module}.{name}", f"{table('names')[name]}.{name}")
    return getattr(import_module(table("names")[name]), name)


def warn(old: str, new: str) -> None:
    """Warn at the line that uses the old name."""
    frame = sys._getframe()
    while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] in (__package__, "importlib"):
        frame = frame.f_back
    text = f"{old} moved to {new}: the old name will go in the next version"
    heard = frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(text, DeprecationWarning, frame.f_code.co_filename, frame.f_lineno, registry=heard)


sys.meta_path.append(Moved())
