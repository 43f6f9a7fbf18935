"""Finding and loading plugins, each by itself: one that fails leaves a status with its reason, and no residue.

A plugin is an entry point of the group ``scoresde.plugins`` that names a module. The module may implement hooks
(:mod:`scoresde_core.hookspecs`), have a ``registry.yaml`` beside it (:mod:`scoresde_core.manifest`), or both. Its rows
are staged, and taken over only when all of it has loaded. A module with such a file and without hooks is not imported
before one of its components is used. What a plugin prints while it is imported goes to stderr, under its name.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import attrs
import pluggy

from . import manifest
from .errors import ManifestError, PluginError, ScoreSDEError, near_misses
from .hookspecs import API, PREFIX, add_hooks
from .importing import find_spec, importing, manifest_of, may_have_hooks
from .kinds import KINDS, declare

GROUP = "scoresde.plugins"
State = Literal["ok", "failed", "disabled", "incompatible"]


@attrs.define
class Status:
    """What became of a plugin: ``owner`` is its distribution, ``detail`` the reason in one line."""

    owner: str
    version: str
    state: State
    detail: str = ""
    rows: list[manifest.Row] = attrs.field(factory=list)
    error: BaseException | None = None


def new_manager() -> pluggy.PluginManager:
    """A pluggy manager that knows our hooks and has discovered nothing."""
    manager = pluggy.PluginManager("scoresde")
    add_hooks(manager)
    return manager


def discover() -> list[EntryPoint]:
    """Every installed plugin's entry point; in a plain checkout also those its own pyproject.toml declares."""
    found = list(importlib.metadata.entry_points(group=GROUP))
    return found if any(point.dist and point.dist.name == "scoresde" for point in found) else [*_checkout(), *found]


def _checkout() -> list[EntryPoint]:
    """The entry points of the checkout around this package, whose package folders are put on the import path."""
    root = Path(__file__).parents[1]
    if not (root / "pyproject.toml").is_file():
        return []
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    for folder in project["tool"]["setuptools"]["package-dir"].values():
        parent = str((root / folder).parent)
        if parent not in sys.path:
            sys.path.insert(0, parent)
    declared = project["project"]["entry-points"][GROUP]
    return [EntryPoint(name, value, GROUP) for name, value in declared.items()]


def load_all(
    manager: pluggy.PluginManager,
    points: Iterable[EntryPoint],
    local: Iterable[Path],
    disabled: Iterable[str],
    imports: bool = True,
) -> list[Status]:
    """Load every plugin and local registry file; the order is that of their names, ours first.

    Without ``imports`` rows of files are read, and nothing is imported.
    """
    ordered = sorted(points, key=lambda point: (_owner(point) != "scoresde", _owner(point), point.name))
    blocked = {_normal(name): name.strip() for name in disabled if name.strip()}
    names = {_normal(name): name for point in ordered for name in (point.name, _owner(point))}
    for unknown in (name for key, name in blocked.items() if key not in names):
        near = near_misses(unknown, list(dict.fromkeys(names.values())))
        print(f"warning: no plugin that could be disabled is called {unknown!r}.{near}", file=sys.stderr)
    found = [_load(manager, point, set(blocked), imports) for point in ordered]
    return found + [_load_file(manager, path) for path in local]


def _normal(name: str) -> str:
    """A name as indexes compare it: case, and which of -, _ and . it has, do not matter."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def disabled_by_environment() -> list[str]:
    """The names in ``SCORESDE_DISABLE_PLUGINS``, separated by commas."""
    return os.environ.get("SCORESDE_DISABLE_PLUGINS", "").split(",")


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.name


def _load(manager: pluggy.PluginManager, point: EntryPoint, blocked: set[str], imports: bool) -> Status:
    status = Status(_owner(point), point.dist.version if point.dist else "checkout", "ok")
    if blocked & {_normal(status.owner), _normal(point.name)}:
        status.state, status.detail = "disabled", "named in SCORESDE_DISABLE_PLUGINS"
        return status
    plugin: Any = None
    try:
        spec = None if ":" in point.value else find_spec(point.value)
        file = manifest_of(spec) if spec else None
        if not imports or (file is not None and spec and not may_have_hooks(spec)):
            _take(status, manager, file or manifest.Manifest(), point.value)
            return status
        with importing(status.owner):
            loaded = point.load()
        if manager.is_registered(loaded):
            raise PluginError(f"{point.value} is loaded already: another entry point names it too")
        plugin = loaded  # ours to take out again
        with importing(status.owner):
            _take(status, manager, _manifest_of(manager, plugin, file), point.value)
    except KeyboardInterrupt:
        raise
    except manifest.NewerAPI as error:
        status.state, status.detail, status.error = "incompatible", str(error), error
    except BaseException as error:  # a plugin may raise anything, SystemExit too
        status.state, status.detail, status.error = "failed", one_line(error), error
    if status.state != "ok" and plugin is not None and manager.is_registered(plugin):
        manager.unregister(plugin)
    return status


def _load_file(manager: pluggy.PluginManager, path: Path) -> Status:
    status = Status(path.stem, "local file", "ok")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # so that a module beside the file can be named as a target
    try:
        _take(status, manager, manifest.read(path), str(path))
    except Exception as error:
        status.state, status.detail, status.error = "failed", one_line(error), error
    return status


def _take(status: Status, manager: pluggy.PluginManager, found: manifest.Manifest, source: str) -> None:
    """Take over what a plugin declares, once all of it has loaded."""
    rows = _distinct(found.rows, source)
    for kind in found.kinds:
        declare(kind)
    add_hooks(manager)
    status.rows = rows


def _manifest_of(manager: pluggy.PluginManager, plugin: Any, of_file: manifest.Manifest | None) -> manifest.Manifest:
    """What a loaded plugin declares: in the file beside it, then through its hooks."""
    source = getattr(plugin, "__name__", repr(plugin))
    wanted = getattr(plugin, "scoresde_api", API)
    if wanted > API:
        raise manifest.NewerAPI(source, [f"needs api {wanted}, this version has api {API}: upgrade scoresde"])
    spec = find_spec(source) if of_file is None and isinstance(plugin, ModuleType) else None
    file = of_file or (spec and manifest_of(spec)) or manifest.Manifest()
    rows = list(file.rows)
    _check_hook_names(manager, plugin)
    manager.register(plugin)
    hooks = [h for h in manager.get_hookcallers(plugin) or [] if h.name.startswith(f"{PREFIX}register_")]
    for hook in hooks:
        for implementation in hook.get_hookimpls():
            if implementation.plugin is plugin:
                register = _Register(hook.name.removeprefix(f"{PREFIX}register_"), rows)
                implementation.function(*[register] * len(implementation.argnames))
    if not rows and not manager.get_hookcallers(plugin):
        raise PluginError(f"{source} registers nothing: add a registry.yaml beside it or a {PREFIX}register_... hook")
    return manifest.Manifest(rows, file.kinds)


def _distinct(rows: list[manifest.Row], source: str) -> list[manifest.Row]:
    names = [(row.kind, name) for row in rows for name in (row.name, *row.aliases)]
    twice = sorted({f"{kind}.{name}" for kind, name in names if names.count((kind, name)) > 1})
    if twice:
        raise PluginError(f"{source} registers {', '.join(twice)} twice")
    return rows


def _check_hook_names(manager: pluggy.PluginManager, plugin: Any) -> None:
    """A name that looks like a hook but is none, or lacks its marker, would be silently ignored by pluggy."""
    specs = [name for name in dir(manager.hook) if name.startswith(PREFIX)]
    for name in dir(plugin):
        marked = manager.parse_hookimpl_opts(plugin, name) is not None
        named = name.startswith((f"{PREFIX}register_", f"{PREFIX}on_")) and callable(getattr(plugin, name))
        if (marked or named) and name not in specs:
            raise PluginError(f"there is no hook {name!r}.{near_misses(name, specs)}")
        if named and not marked:
            raise PluginError(f"{name} lacks the @hookimpl marker of scoresde_core")


@attrs.frozen
class _Register:
    """The callback that a registration hook receives; rows go to a staging list."""

    kind: str
    rows: list[manifest.Row]

    def __call__(self, name: str, target: Any, **fields: Any) -> None:
        """Stage one component; faults are reported as for a manifest row."""
        problems: list[str] = []
        row = manifest.check_row(KINDS[self.kind], name, {"target": target, **fields}, problems)
        if row is None:
            raise ManifestError(f"{PREFIX}register_{self.kind}", problems)
        self.rows.append(row)


def one_line(error: BaseException) -> str:
    """An exception as one line: our own errors say it all, others need their type."""
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, ScoreSDEError) else f"{type(error).__name__}: {text}"
