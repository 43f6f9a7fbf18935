"""Subjects, checks and results: which components are checked, by what, and what came out.

A check is a function of a :class:`Subject` with one idea, named after it and told in the first line of its docstring.
It raises ``AssertionError`` with a sentence, the value found and the value expected, or :class:`Skip` with the reason
why it does not apply. A component whose own checks were all skipped has shown nothing: that is a failure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from importlib import import_module
from typing import Any, Literal, get_args, get_origin

import attrs

from ..components import Spec, parameters, parse
from ..errors import PluginError, ScoreSDEError, UnknownName, UsageError, near_misses
from ..kinds import KINDS, find_kind
from ..registry import Entry, Registry, missing_requirements

SUITES: Mapping[str, str] = {
    "sdes": "sdes",
    "predictors": "predictors",
    "correctors": "correctors",
    "samplers": "samplers",
    "grids": "grids",
    "targets": "targets",
    "evaluators": "evaluators",
    "conditions": "conditions",
    "losses": "losses",
    "extractors": "extractors",
    "checkpoints": "checkpoints",
}
"""The module in this package that holds a kind's own checks; every kind has those of :mod:`.components` as well."""

State = Literal["passed", "failed", "skipped"]


class Skip(Exception):
    """A check does not apply; the message says why."""


@attrs.define(eq=False)
class Subject:
    """A component under test, and the registry that its partners come from."""

    registry: Registry
    entry: Entry
    params: Mapping[str, Any] = attrs.field(factory=dict)
    outcomes: dict[str, Result] = attrs.field(factory=dict, init=False)
    """What became of the checks that were run so far, by their names."""

    @property
    def kind(self) -> str:
        """The plural name of its kind."""
        return self.entry.row.kind

    @property
    def name(self) -> str:
        """Its name as it would be typed: bare where that is enough, with its parameters."""
        try:
            alone = self.registry.find(self.kind, self.entry.row.name) is self.entry
        except UsageError:
            alone = False
        return str(Spec(self.entry.row.name if alone else self.entry.qualified, dict(self.params)))

    @cached_property
    def cls(self) -> type:
        """Its class."""
        return self.registry.load(self.kind, self.entry.qualified)

    @cached_property
    def component(self) -> Any:
        """It, built from its parameters; :class:`Skip` where it needs some that were not given."""
        if self.needs:
            raise Skip(
                f"{', '.join(self.needs)} is required: check '{self.entry.row.name}[{self.needs[0]}=...]', "
                f"or give the class an example = {{{self.needs[0]!r}: ...}}"
            )
        return self.build()

    @property
    def needs(self) -> list[str]:
        """Its required parameters that neither the caller nor the class's ``example`` gives; none for a file."""
        if KINDS[self.kind].data:
            return []
        return [p.name for p in parameters(self.cls) if p.default is attrs.NOTHING and p.name not in self.given]

    @property
    def given(self) -> dict[str, Any]:
        """The parameters it is built with: its class's ``example``, where it has one, then the caller's."""
        known = {p.name for p in parameters(self.cls)}
        example = getattr(self.cls, "example", {})
        return {**{name: value for name, value in example.items() if name in known}, **self.params}

    def build(self, **changed: Any) -> Any:
        """A new one, with some parameters changed."""
        return self.registry.create(self.kind, Spec(self.entry.qualified, {**self.given, **changed}))

    def variants(self) -> list[tuple[str, Any]]:
        """It, and one more for every other value of a switch (bool) or choice (Literal) among its parameters."""
        found = [(self.name, self.component)]
        for parameter in parameters(self.cls):
            choices: Iterable[Any] = (True, False) if parameter.type is bool else ()
            if get_origin(parameter.type) is Literal:
                choices = get_args(parameter.type)
            current = self.given.get(parameter.name, parameter.default)
            for value in choices:
                if value == current or parameter.name in self.params:
                    continue
                label = Spec(self.entry.row.name, {**self.params, parameter.name: value})
                with suppress(UsageError):  # a value that the other parameters rule out
                    found.append((str(label), self.build(**{parameter.name: value})))
        return found

    def partners(self, kind: str) -> list[tuple[str, Any]]:
        """The components of another kind that build by name alone; those that do not are their owners' business."""
        found = []
        for entry in self.registry.entries(kind):
            with suppress(ScoreSDEError):
                found.append((entry.row.name, self.registry.create(kind, entry.qualified)))
        return found


Check = Callable[[Subject], None]


@attrs.frozen
class Result:
    """What became of one check of one component."""

    kind: str
    name: str
    plugin: str
    check: str
    state: State
    reason: str
    seconds: float
    error: BaseException | None = attrs.field(default=None, repr=False)


@attrs.frozen(eq=False)
class Case:
    """One check of one component."""

    subject: Subject
    check: Check

    @property
    def id(self) -> str:
        """``kind:name:check``."""
        return f"{self.subject.kind}:{self.subject.name}:{self.check.__name__}"

    def run(self) -> Result:
        """Run it, from a fixed state of torch's global generator, which is left as it was."""
        import torch

        started, error = time.perf_counter(), None
        state: State = "passed"
        reason = ""
        try:
            missing = missing_requirements(self.subject.entry.row)
            if missing:
                raise Skip(f"needs {', '.join(missing)}, which is not installed")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.check(self.subject)
        except Skip as skip:
            state, reason = "skipped", str(skip)
        except Exception as raised:  # a component may raise anything
            state, error = "failed", raised
            # The first line is ours; pytest, where it rewrites assertions, adds the values below it.
            told = str(raised).partition("\n")[0]
            ours = told and isinstance(raised, AssertionError | ScoreSDEError)
            reason = told if ours else f"{type(raised).__name__}: {told}"
        name, seconds, subject = self.check.__name__, time.perf_counter() - started, self.subject
        result = Result(subject.kind, subject.name, subject.entry.owner, name, state, reason, seconds, error)
        subject.outcomes[name] = result
        return result


def checks(kind: str) -> list[Check]:
    """Every check of a kind, in order: those of any component, the kind's own, and that one of its own has run."""
    from . import components

    own = own_checks(kind)
    return [*components.CHECKS, *own, *([components.something_was_checked] if own else [])]


def own_checks(kind: str) -> list[Check]:
    """The checks that only this kind has."""
    return list(import_module(f".{SUITES[kind]}", __package__).CHECKS) if kind in SUITES else []


def subjects(
    registry: Registry, kind: str | None = None, name: str | None = None, dist: str | None = None
) -> list[Subject]:
    """The components to check: one by kind and name (which may hold parameters), or all of a kind or distribution."""
    if name is not None:
        if kind is None:
            raise UsageError(f"{name!r} is a name without its kind: say which kind of component it is")
        spec = parse(name)
        if spec.params:
            # A slip in them is the caller's, and no fault of the component, which every check would blame.
            with suppress(PluginError):
                registry.create(kind, spec)
        return [Subject(registry, registry.find(kind, spec.name), spec.params)]
    entries = registry.entries(kind)
    if dist is not None:
        owners = [status.owner for status in registry.statuses]
        if dist not in owners:
            raise UnknownName(f"no plugin is called {dist!r}.{near_misses(dist, owners)}")
        entries = [entry for entry in entries if entry.owner == dist]
    if not entries:
        where = f" of {dist}" if dist is not None else ""
        what = find_kind(kind).name if kind else "components"
        raise UsageError(f"there are no {what}{where} to check: see 'scoresde plugins'")
    return [Subject(registry, entry) for entry in entries]


def cases(found: Iterable[Subject]) -> list[Case]:
    """All cases of some subjects."""
    return [Case(subject, check) for subject in found for check in checks(subject.kind)]


def run(registry: Registry, kind: str, name: str) -> list[Result]:
    """The results of one component."""
    return [case.run() for case in cases(subjects(registry, find_kind(kind).name, name))]


assert set(SUITES) <= set(KINDS)
