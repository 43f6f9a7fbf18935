"""The registry: every component by kind and name, resolved to a class on first use.

>>> registry = load_registry()
>>> registry.create("correctors", "langevin[snr=0.1]")
LangevinCorrector(snr=0.1, n_steps=1, norm='batch')
"""

import importlib
import importlib.metadata
import importlib.resources
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import attrs
from . import plugins
from .components import HANDED, Spec, build, parameters, parse
from .errors import AmbiguousName, PluginError, ScoreSDEError, UnknownName, UsageError, near_misses
from .importing import importing
from .kinds import KINDS, find_kind, kind_of
from .manifest import Row

OURS = "scoresde"
"""The distribution of the bundled components."""


@attrs.frozen
class Entry:
    """A registered component and its owner: the distribution or local file that it came from."""

    row: Row
    owner: str

    @property
    def qualified(self) -> str:
        """The unique name, ``owner:name``."""
        return f"{self.owner}:{self.row.name}"


class Registry:
    """The components of all loaded plugins, and the status of every plugin."""

    def __init__(self, statuses: list[plugins.Status], hook: Any) -> None:
        self.statuses, self.hook = statuses, hook
        self._names: dict[str, dict[str, list[Entry]]] = {kind: {} for kind in KINDS}
        self._classes: dict[tuple[str, str], type] = {}
        self._entries: dict[type, Entry | None] = {}
        for entry in (Entry(row, status.owner) for status in statuses for row in status.rows):
            names = self._names[entry.row.kind]
            for name in {entry.row.name, *entry.row.aliases}:
                names.setdefault(name, []).append(entry)
                names.setdefault(f"{entry.owner}:{name}", []).append(entry)

    def entries(self, kind: str | None = None) -> list[Entry]:
        """The components of one kind (plural or singular) or of all kinds, in order of registration."""
        kinds = [find_kind(kind).name] if kind else list(KINDS)
        return list({id(e): e for k in kinds for entries in self._names.get(k, {}).values() for e in entries}.values())

    @cached_property
    def clashes(self) -> bool:
        """Whether any bare name belongs to several components."""
        return any(len(found) > 1 for names in self._names.values() for name, found in names.items() if ":" not in name)

    def claims(self, kind: str, name: str) -> list[Entry]:
        """The components with this name, ``owner:name`` or alias; several if plugins clash."""
        return self._names[find_kind(kind).name].get(name, [])

    def find(self, kind: str, name: str) -> Entry:
        """The component with this name, ``owner:name`` or alias."""
        singular, claims = find_kind(kind).singular, self.claims(kind, name)
        if len(claims) == 1:
            return claims[0]
        if claims and len({entry.owner for entry in claims}) == 1:
            raise AmbiguousName(f"{claims[0].owner} registers the {singular} {claims[0].row.name!r} twice: rename one")
        if claims:
            qualified = " or ".join(repr(entry.qualified) for entry in claims)
            owners = " and ".join(entry.owner for entry in claims)
            raise AmbiguousName(f"{owners} both register the {singular} {name!r}: write {qualified}")
        failed = [status.owner for status in self.statuses if status.state in ("failed", "incompatible")]
        also = f" ({', '.join(failed)} did not load: see 'scoresde plugins')" if failed else ""
        names = [known for known in self._names[find_kind(kind).name] if ":" not in known]
        raise UnknownName(f"no {singular} is called {name!r}.{near_misses(name, names)}{also}")

    def shown_name(self, entry: Entry) -> str:
        """The bare name if it is unambiguous, else ``owner:name``."""
        try:
            return entry.row.name if self.find(entry.row.kind, entry.row.name) is entry else entry.qualified
        except AmbiguousName:
            return entry.qualified

    def entry_of(self, cls: type) -> Entry | None:
        """The entry under which a class is registered, or None."""
        if cls not in self._entries:
            self._entries[cls] = next((entry for entry in self.entries() if self._is(entry, cls)), None)
        return self._entries[cls]

    def _is(self, entry: Entry, cls: type) -> bool:
        """Whether ``entry`` refers to ``cls``, whose module may differ from the one that the entry names."""
        target = entry.row.target
        module, _, name = target.partition(":") if isinstance(target, str) else (None, "", "")
        if target is cls or (module, name) == (cls.__module__, cls.__qualname__):
            return True
        try:
            return name == cls.__qualname__ and self.load(entry.row.kind, entry.qualified) is cls
        except ScoreSDEError:
            return False

    def typed(self, component: Any) -> Spec | None:
        """A component as it would be typed, without parameters at their defaults; None if its class is unregistered."""
        entry = self.entry_of(type(component))
        if entry is None:
            return None
        inside = {}
        for parameter in parameters(type(component)):
            value = getattr(component, parameter.name)
            if value != parameter.default:
                inside[parameter.name] = str(self.typed(value) or value) if attrs.has(type(value)) else value
        return Spec(self.shown_name(entry), inside)

    def load(self, kind: str, name: str) -> type:
        """The class of a component, imported on first use and checked against its contract."""
        entry = self.find(kind, name)
        if KINDS[entry.row.kind].data:
            return KINDS[entry.row.kind].load_contract()  # type: ignore[no-any-return]
        key = (entry.row.kind, entry.qualified)
        if key not in self._classes:
            self._classes[key] = _resolve(entry)
        return self._classes[key]

    def create(self, kind: str, component: Any, **defaults: Any) -> Any:
        """Make a component from ``"name[key=value]"`` or a :class:`~scoresde_core.components.Spec`; keep an instance.

        ``defaults`` are parameters for those that the text omits; ones that the component does not have are ignored.
        """
        singular, data = find_kind(kind).singular, find_kind(kind).data
        if not isinstance(component, str | Spec):
            if not isinstance(component, find_kind(kind).load_contract()):
                raise UsageError(f"expected a {singular} or its name, got {component!r}")
            return component
        spec = parse(component) if isinstance(component, str) else component
        if data:
            entry = self.find(kind, spec.name)
            return _read(entry, spec).clear(self, (entry.owner, OURS))
        cls = self.load(kind, spec.name)
        known = {field.alias or field.name: field for field in attrs.fields(cls)} if attrs.has(cls) else {}
        params = {**{k: v for k, v in defaults.items() if k in known}, **spec.params}
        handed = {name: self for name, field in known.items() if HANDED in field.metadata}
        return build(cls, params, f"{singular} {spec.name!r}", self._convert, **handed)

    def _convert(self, contract: type, value: Any) -> Any:
        kind = kind_of(contract)
        if kind is None:
            raise TypeError
        made = self.create(kind, value)
        if not isinstance(made, contract):
            raise ValueError(f"{type(made).__name__} is no {contract.__name__}")
        return made


@contextmanager
def _using(entry: Entry, verb: str) -> Iterator[None]:
    """Around the use of an entry's target: checks its requirements, and turns any error into a PluginError."""
    missing = missing_requirements(entry.row)
    if missing:
        raise PluginError(f"{entry.qualified} needs {', '.join(missing)}: pip install {' '.join(missing)}")
    try:
        with importing(entry.owner):
            yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything
        why = plugins.one_line(error)
        raise PluginError(f"{entry.qualified} ({entry.row.target}) cannot be {verb}: {why}") from error


def _read(entry: Entry, spec: Spec) -> Any:
    kind = KINDS[entry.row.kind]
    if spec.params:
        label = f"{kind.singular} {spec.name!r}"
        raise UsageError(f"{label} takes no parameters in brackets, got {spec}: use --set or a file")
    module, _, path = entry.row.target.partition(":")
    folder, _, name = path.rpartition("/")
    with _using(entry, "read"):
        place = importlib.resources.files(module)
        place = place.joinpath(folder) if folder else place
    return kind.load_contract().read(place, name)


def _resolve(entry: Entry) -> type:
    row, kind = entry.row, KINDS[entry.row.kind]
    cls = row.target
    with _using(entry, "loaded"):
        if isinstance(cls, str):
            module, _, attribute = cls.partition(":")
            cls = getattr(importlib.import_module(module), attribute)
    contract = kind.load_contract()
    if not (isinstance(cls, type) and issubclass(cls, contract)):
        raise PluginError(f"{entry.qualified} ({row.target}) is not a {contract.__module__}.{contract.__qualname__}")
    abstract = sorted(getattr(cls, "__abstractmethods__", ()))
    if abstract:
        raise PluginError(f"{entry.qualified} lacks {', '.join(abstract)}, which every {kind.singular} needs")
    return cls


def missing_requirements(row: Row) -> list[str]:
    """The distributions that a component requires and that are not installed."""
    return [name for name in row.requires if not list(importlib.metadata.distributions(name=name))]


def load_registry(
    points: Iterable[EntryPoint] | None = None, local: Iterable[Path | str] = (),
    disabled: Iterable[str] | None = None, imports: bool = True,
) -> Registry:  # fmt: skip
    """A registry of the given entry points (all installed ones by default) and local registry files.

    ``SCORESDE_REGISTRY`` names more local files; one that cannot be used is an error. ``SCORESDE_DISABLE_PLUGINS`` is
    the default of ``disabled``. Without ``imports`` no plugin is imported, and components from hooks are missing.
    """
    foreign = [Path(name) for name in os.environ.get("SCORESDE_REGISTRY", "").split(os.pathsep) if name]
    named = [*map(Path, local), *foreign]
    files = list({path.resolve(): path for path in reversed(named)}.values())  # each once
    blocked = os.environ.get("SCORESDE_DISABLE_PLUGINS", "").split(",") if disabled is None else disabled
    found = plugins.discover() if points is None else points
    statuses, manager = plugins.load_all(found, reversed(files), blocked, imports)
    for status, path in zip(reversed(statuses), files, strict=False):
        if isinstance(status.error, ScoreSDEError):
            raise status.error
        if path in foreign:
            status.detail = f"{len(status.rows)} components of {path.absolute()}, code that SCORESDE_REGISTRY names"
    return Registry(statuses, manager.hook)


@cache
def default_registry() -> Registry:
    """The registry of everything installed, loaded once."""
    return load_registry()


def handed_registry() -> Any:
    """A field for a component that looks names up: the registry that makes the component, else the default one."""
    return attrs.field(factory=default_registry, kw_only=True, repr=False, eq=False, metadata={HANDED: True})


def create(kind: str, component: Any, **defaults: Any) -> Any:
    """:meth:`Registry.create` on the default registry."""
    return default_registry().create(kind, component, **defaults)
