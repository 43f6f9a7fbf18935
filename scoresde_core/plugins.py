"""Finding and loading plugins, each in isolation: a failed one leaves a status with the reason, and nothing else.

A plugin is an entry point of the group ``scoresde.plugins`` that names a module. The module may implement hooks
(:mod:`scoresde_core.hookspecs`), have a ``registry.yaml`` beside it (:mod:`scoresde_core.manifest`), or both. Its rows
are staged and only registered once all of it has loaded. A module that has such a file and no hooks is not imported
until one of its components is used. What a plugin prints on import goes to stderr, prefixed with its name.
"""

import importlib.metadata
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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


@attrs.define
class Status:
    """The outcome of loading a plugin: ``owner`` is its distribution, ``detail`` the reason in one line."""

    owner: str
    version: str
    state: Literal["ok", "failed", "disabled", "incompatible"] = "ok"
    detail: str = ""
    rows: list[manifest.Row] = attrs.field(factory=list)
    error: BaseException | None = None


def discover() -> list[EntryPoint]:
    """The entry points of all installed plugins; in a plain checkout also those that its pyproject.toml declares."""
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
    points: Iterable[EntryPoint], local: Iterable[Path], disabled: Iterable[str], imports: bool = True
) -> tuple[list[Status], pluggy.PluginManager]:
    """Load every plugin and local registry file, in order of name with ours first; their statuses and the hooks.

    Without ``imports`` the rows of files are read, and nothing is imported.
    """
    manager = pluggy.PluginManager("scoresde")
    add_hooks(manager)
    ordered = sorted(points, key=lambda point: (_owner(point) != "scoresde", _owner(point), point.name))
    blocked = {_normal(name): name.strip() for name in disabled if name.strip()}
    names = {_normal(name): name for point in ordered for name in (point.name, _owner(point))}
    for unknown in (name for key, name in blocked.items() if key not in names):
        near = near_misses(unknown, list(dict.fromkeys(names.values())))
        print(f"warning: cannot disable the unknown plugin {unknown!r}.{near}", file=sys.stderr)
    found = [_load(manager, point, set(blocked), imports) for point in ordered]
    return found + [_load_file(manager, path) for path in local], manager


def _normal(name: str) -> str:
    """A distribution's name as package indexes compare it: case does not matter, and -, _ and . are the same."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.name


@contextmanager
def _recorded(status: Status) -> Iterator[None]:
    """Records an error in ``status``. A plugin may raise anything, SystemExit too."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        status.state = "incompatible" if isinstance(error, manifest.NewerAPI) else "failed"
        status.detail, status.error = one_line(error), error


def _load(manager: pluggy.PluginManager, point: EntryPoint, blocked: set[str], imports: bool) -> Status:
    status = Status(_owner(point), point.dist.version if point.dist else "checkout")
    if blocked & {_normal(status.owner), _normal(point.name)}:
        status.state, status.detail = "disabled", "named in SCORESDE_DISABLE_PLUGINS"
        return status
    plugin: Any = None
    with _recorded(status):
        spec = None if ":" in point.value else find_spec(point.value)
        file = manifest_of(spec) if spec else None
        if not imports or (file is not None and spec and not may_have_hooks(spec)):
            _take(status, manager, file or manifest.Manifest(), point.value)
            return status
        with importing(status.owner):
            loaded = point.load()
        if manager.is_registered(loaded):
            raise PluginError(f"{point.value} is already loaded: another entry point names it too")
        plugin = loaded  # ours to unregister
        with importing(status.owner):
            _take(status, manager, _manifest_of(manager, plugin, file), point.value)
    if status.state != "ok" and plugin is not None and manager.is_registered(plugin):
        manager.unregister(plugin)
    return status


def _load_file(manager: pluggy.PluginManager, path: Path) -> Status:
    status = Status(path.stem, "local file")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # so that a target can name a module beside the file
    with _recorded(status):
        _take(status, manager, manifest.read(path), str(path))
    return status


def _take(status: Status, manager: pluggy.PluginManager, found: manifest.Manifest, source: str) -> None:
    names = [f"{row.kind}.{name}" for row in found.rows for name in (row.name, *row.aliases)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PluginError(f"{source} registers {', '.join(twice)} twice")
    for kind in found.kinds:
        declare(kind)
    add_hooks(manager)
    status.rows = found.rows


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
    hooks = manager.get_hookcallers(plugin) or []
    for hook in (hook for hook in hooks if hook.name.startswith(f"{PREFIX}register_")):
        register = _staging(hook.name, rows)
        for implementation in hook.get_hookimpls():
            if implementation.plugin is plugin:
                implementation.function(*[register] * len(implementation.argnames))
    if not rows and not hooks:
        raise PluginError(f"{source} registers nothing: add a registry.yaml beside it or a {PREFIX}register_... hook")
    return manifest.Manifest(rows, file.kinds)


def _check_hook_names(manager: pluggy.PluginManager, plugin: Any) -> None:
    """Refuse functions that look like a hook but have an unknown name or no marker: pluggy would ignore them."""
    specs = [name for name in dir(manager.hook) if name.startswith(PREFIX)]
    for name in dir(plugin):
        marked = manager.parse_hookimpl_opts(plugin, name) is not None
        named = name.startswith((f"{PREFIX}register_", f"{PREFIX}on_")) and callable(getattr(plugin, name))
        if (marked or named) and name not in specs:
            raise PluginError(f"unknown hook {name!r}.{near_misses(name, specs)}")
        if named and not marked:
            raise PluginError(f"{name} lacks the @hookimpl marker of scoresde_core")


def _staging(hook: str, rows: list[manifest.Row]) -> Callable[..., None]:
    """The callback for a registration hook: adds one component to ``rows``, checked like a row of a file."""

    def register(name: str, target: Any, **fields: Any) -> None:
        problems: list[str] = []
        kind = KINDS[hook.removeprefix(f"{PREFIX}register_")]
        row = manifest.check_row(kind, name, {"target": target, **fields}, problems)
        if row is None:
            raise ManifestError(hook, problems)
        rows.append(row)

    return register


def one_line(error: BaseException) -> str:
    """An exception as one line; one that is not ours starts with its type."""
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, ScoreSDEError) else f"{type(error).__name__}: {text}"
