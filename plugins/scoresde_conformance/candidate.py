"""A component under test, and the results of its checks."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import attrs
from scoresde_core import KINDS, OURS, Entry, Registry, Spec, UsageError, parameters

SUITES = (
    "sdes", "predictors", "correctors", "samplers", "grids", "targets", "evaluators", "conditions", "losses",
    "extractors", "networks", "datasets", "dequantizers", "checkpoints", "operators", "guidances",
)  # fmt: skip
"""The kinds with their own checks, in the modules of this package with their names."""
SHARED = {"sdes": ("wide",), "predictors": ("steps",), "correctors": ("steps",)}
"""Further modules with checks of a kind."""

Outcome = Literal["passed", "failed", "skipped", "exempt"]
Depth = Literal["quick", "full"]
T = TypeVar("T")


class Skip(Exception):
    """A check does not apply; the message says why."""


@attrs.define(eq=False)
class Candidate:
    """A component under test, and the registry of its counterparts."""

    registry: Registry
    entry: Entry
    params: Mapping[str, Any] = attrs.field(factory=dict)
    level: Depth = "full"
    outcomes: dict[str, Result] = attrs.field(factory=dict, init=False)  # the results of the checks so far, by name
    trying: str = attrs.field(default="", init=False)
    """The variant and the counterpart of the running check, which its failure names; empty between trials."""
    cached: dict[Hashable, Any] = attrs.field(factory=dict, init=False, repr=False)

    @property
    def full(self) -> bool:
        """Whether to try every combination."""
        return self.level == "full"

    @property
    def kind(self) -> str:
        """The plural name of its kind."""
        return self.entry.row.kind

    @property
    def name(self) -> str:
        """Its name as typed: without the owner if that is unambiguous, with its parameters."""
        return str(Spec(self.registry.shown_name(self.entry), dict(self.params)))

    @cached_property
    def cls(self) -> type:
        return self.registry.load(self.kind, self.entry.qualified)

    @cached_property
    def component(self) -> Any:
        """The component, built from its parameters; :class:`Skip` if it needs some that were not given."""
        if self.needs:
            why = f"{', '.join(self.needs)} is required: check '{self.entry.row.name}[{self.needs[0]}=...]'"
            raise Skip(f"{why}, or give the class an example = {{{self.needs[0]!r}: ...}}")
        return self.build()

    @property
    def needs(self) -> list[str]:
        """Its required parameters that neither the caller nor the class's ``example`` gives; none for a file."""
        if KINDS[self.kind].data:
            return []
        return [p.name for p in parameters(self.cls) if p.default is attrs.NOTHING and p.name not in self.given]

    @property
    def given(self) -> dict[str, Any]:
        """Its parameters: its class's ``example``, if there is one, then the caller's.

        An example that needs files is a static method, called with an empty folder to write them to, unless the caller
        gives all required parameters. Other examples are not used if they conflict with the caller's parameters.
        """
        return {**self._example, **self.params}

    @cached_property
    def _example(self) -> dict[str, Any]:
        known = {p.name: p for p in parameters(self.cls)}
        example = getattr(self.cls, "example", {})
        if callable(example):
            if all(name in self.params for name, p in known.items() if p.default is attrs.NOTHING):
                return {}
            folder = Path(tempfile.mkdtemp(prefix="scoresde-check-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            example = example(folder)
        example = {name: value for name, value in example.items() if name in known}
        if example and self.params and not self._takes({**example, **self.params}) and self._takes(self.params):
            return {}
        return example

    def _takes(self, params: Mapping[str, Any]) -> bool:
        try:
            self.registry.create(self.kind, Spec(self.entry.qualified, dict(params)))
        except UsageError:
            return False
        return True

    @property
    def exempt(self) -> Mapping[str, str]:
        """The checks from which its class is exempt, each with the reason."""
        declared = getattr(self.cls, "exempt", {})
        return declared if isinstance(declared, Mapping) else {}

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return ``compute()``, cached for other checks with the same ``key``."""
        if key not in self.cached:
            self.cached[key] = compute()
        return self.cached[key]  # type: ignore[no-any-return]

    def build(self, **changed: Any) -> Any:
        """Return a new component, with some parameters changed."""
        return self.registry.create(self.kind, Spec(self.entry.qualified, {**self.given, **changed}))

    def changes(self) -> list[Mapping[str, Any]]:
        """Return the parameter changes of its variants: every other value of a switch (bool) or a choice (Literal).

        And those in the class's tuple ``variants``. Parameters that the caller gave do not change.
        """
        found: list[Mapping[str, Any]] = []
        for parameter in parameters(self.cls):
            choices: Iterable[Any] = (True, False) if parameter.type is bool else ()
            if get_origin(parameter.type) is Literal:
                choices = get_args(parameter.type)
            current = self.given.get(parameter.name, parameter.default)
            found += [{parameter.name: value} for value in choices if value != current]
        return [change for change in (*found, *getattr(self.cls, "variants", ())) if not set(change) & set(self.params)]

    def variants(self) -> list[tuple[str, Any]]:
        """Return it, and a component for each of :meth:`changes` that its other parameters allow."""
        found = [(self.name, self.component)]
        for change in self.changes():
            with suppress(UsageError):
                label = Spec(self.registry.shown_name(self.entry), {**self.params, **change})
                found.append((str(label), self.build(**change)))
        return found

    def counterpart(self, entry: Entry, *, shipped: bool = True) -> str | None:
        """Return the name of an entry to combine this one with: of its own distribution, or ``shipped``; else None."""
        # Not that of another third party: this one would be blamed for its faults.
        known = shipped if entry.owner == OURS else entry.owner == self.entry.owner
        return self.registry.shown_name(entry) if known else None

    def partners(self, kind: str, *, shipped: bool = True) -> list[tuple[str, Any]]:
        """Return the counterparts of a kind that build by name alone, each with its name."""
        found = []
        for entry in self.registry.entries(kind):
            name = self.counterpart(entry, shipped=shipped)
            if name is not None:
                with suppress(Exception):  # its own checks report this
                    found.append((name, self.registry.create(kind, entry.qualified)))
        return found


Check = Callable[[Candidate], None]
Shape = tuple[int, ...]


def kept(compute: Callable[[Candidate], T]) -> Callable[[Candidate], T]:
    """A function of a candidate whose result its other checks share, with what was tried for it."""

    def ask(candidate: Candidate) -> T:
        found, candidate.trying = candidate.once(compute, lambda: (compute(candidate), candidate.trying))
        return found

    return ask


def first_accepted(tried: Iterable[T], refusal: Callable[[T], str | None], what: str = "shape tried") -> T:
    """Return the first without a ``refusal``; :class:`Skip` if all are refused."""
    reasons = []
    for each in tried:
        reason = refusal(each)
        if reason is None:
            return each
        reasons.append(reason)
    raise Skip(f"it refuses every {what}: {reasons[0]}")


@attrs.frozen
class Result:
    """The result of one check of one component."""

    kind: str
    name: str
    plugin: str
    check: str
    state: Outcome
    reason: str
    seconds: float
    error: BaseException | None = attrs.field(default=None, repr=False)


def own_checks(kind: str) -> list[Check]:
    """Return the checks that only this kind has: the public functions (candidate) -> None of its modules."""
    names = (kind, *SHARED.get(kind, ())) if kind in SUITES else ()
    annotations = ({"candidate": Candidate, "return": None}, {"candidate": "Candidate", "return": "None"})
    found = [item for name in names for item in vars(import_module(f".{name}", __package__)).items()]
    return [f for name, f in found if name[0] != "_" and getattr(f, "__annotations__", None) in annotations]
