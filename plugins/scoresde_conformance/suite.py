"""Candidates, checks and results: which components are checked, by what, and with what result.

A check is a function of a :class:`Candidate` that tests one thing, which its name and the first line of its docstring
state. It raises ``AssertionError`` with a sentence that gives the value found and the value expected, or :class:`Skip`
with the reason why it does not apply. If all checks of a component's own kind are skipped, that is a failure, because
nothing is known about the component.

Both levels have the same checks; ``quick`` tries fewer combinations of variants and counterparts. A component
that fails a check by definition declares this in its class: ``exempt = {"check": "reason"}``.
"""

import inspect
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

import attrs
from scoresde_core import KINDS, Registry, find_kind, parameters, parse
from scoresde_core.errors import PluginError, ScoreSDEError, UnknownName, UsageError, near_misses
from scoresde_core.registry import missing_requirements
from .candidate import Candidate, Check, Depth, Outcome, Result, Skip, own_checks


def loads_as_its_kind(candidate: Candidate) -> None:
    """The target imports, and completely implements the contract of its kind."""
    assert issubclass(candidate.cls, KINDS[candidate.kind].load_contract())


def is_an_attrs_class(candidate: Candidate) -> None:
    """The class itself is an attrs class: its fields are its schema, its command line and its help."""
    cls = candidate.cls
    assert "__attrs_attrs__" in vars(cls), f"{cls.__qualname__} is not an attrs class: decorate it with @attrs.frozen"


def builds(candidate: Candidate) -> None:
    """It builds from its defaults, and building twice gives equal components."""
    built = candidate.component
    assert isinstance(built, candidate.cls), f"{candidate.name} built {built!r}, not a {candidate.cls.__qualname__}"
    again = candidate.build()
    assert repr(built) == repr(again), f"{candidate.name} built twice gives {built!r} and {again!r}"


def is_documented(candidate: Candidate) -> None:
    """Its row has a summary, its class its own docstring, and every parameter a help text."""
    cls = candidate.cls
    assert candidate.entry.row.summary, "its registry row has no summary"
    # vars() sees the class's own docstring only.
    assert inspect.cleandoc(vars(cls).get("__doc__") or ""), f"{cls.__qualname__} has no docstring"
    silent = [p.name for p in parameters(cls) if not p.help]
    assert not silent, f'{", ".join(silent)} of {cls.__qualname__} has no help: write param(default, "help")'


def defaults_are_of_their_types(candidate: Candidate) -> None:
    """Every default is accepted as a parameter, so that the parameters in a result row can be run again."""
    if KINDS[candidate.kind].data:
        raise Skip("a file has no parameters")
    plain = (bool, int, float, str, tuple, type(None))
    for parameter in parameters(candidate.cls):
        if parameter.name in candidate.given or candidate.needs:
            continue
        if parameter.default is not attrs.NOTHING and isinstance(parameter.default, plain):
            candidate.build(**{parameter.name: parameter.default})


def names_its_exemptions(candidate: Candidate) -> None:
    """``exempt``, if the class has it, maps names of checks of its kind to reasons."""
    declared = getattr(candidate.cls, "exempt", {})
    assert isinstance(declared, Mapping), f"exempt is {declared!r}, expected a dictionary of checks and reasons"
    known = [check.__name__ for check in own_checks(candidate.kind)]
    for name, reason in declared.items():
        assert name in known, f"exempt names {name!r}, not a check of {candidate.kind}.{near_misses(name, known)}"
        assert isinstance(reason, str) and reason.strip(), f"exempt gives no reason for {name}"  # noqa: PT018


EVERY = (loads_as_its_kind, is_an_attrs_class, builds, is_documented, defaults_are_of_their_types, names_its_exemptions)


def something_was_checked(candidate: Candidate) -> None:
    """At least one check of its own kind has run, unless a library is missing, or it judges samples given y."""
    candidate.cached.clear()  # this check is the last; else a run would hold all data sets and networks at its end
    own = [check.__name__ for check in own_checks(candidate.kind)]
    if not set(own) <= set(candidate.outcomes):
        raise Skip("some of its checks were not part of this run")
    results = [candidate.outcomes[name] for name in own]
    reasons = "; ".join(dict.fromkeys(result.reason for result in results))
    idle = all(result.state in ("skipped", "exempt") for result in results)
    given = "observed" in getattr(candidate.cls, "needs", ())  # the suite draws no posterior
    if idle and (given or "pip install" in reasons):
        raise Skip(reasons)
    assert not idle, f"all {len(own)} checks were skipped: {reasons}"


@attrs.frozen(eq=False)
class Case:
    """One check of one component."""

    candidate: Candidate
    check: Check

    @property
    def id(self) -> str:
        """``kind:name:check``."""
        return f"{self.candidate.kind}:{self.candidate.name}:{self.check.__name__}"

    def run(self) -> Result:
        """Run the check, with a fixed state of torch's global generator, which is restored."""
        import torch

        started = time.perf_counter()
        state: Outcome = "passed"
        error: BaseException | None = None
        reason = ""
        self.candidate.trying = ""
        try:
            missing = missing_requirements(self.candidate.entry.row)
            if missing:
                raise Skip(f"needs {', '.join(missing)}, which is not installed")
            reason = self.candidate.exempt.get(self.name, "")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.check(self.candidate)
            reason = reason and f"the check passes, so this exemption is not needed: {reason}"
        except Skip as skip:
            state, reason = "skipped", str(skip)
        except (AssertionError, UsageError) as raised:
            # The first line is ours; pytest's assertion rewriting adds values below it.
            state, error = ("exempt", None) if reason else ("failed", raised)
            reason = reason or self._told(str(raised).partition("\n")[0] or type(raised).__name__)
        except Exception as raised:  # a component may raise anything
            state, error = "failed", raised
            told = str(raised).partition("\n")[0]
            reason = self._told(told if isinstance(raised, ScoreSDEError) else f"{type(raised).__name__}: {told}")
        seconds, candidate = time.perf_counter() - started, self.candidate
        result = Result(candidate.kind, candidate.name, candidate.entry.owner, self.name, state, reason, seconds, error)
        candidate.outcomes[self.name] = result
        return result

    @property
    def name(self) -> str:
        """The name of the check."""
        return self.check.__name__

    def _told(self, sentence: str) -> str:
        return f"{KINDS[self.candidate.kind].singular} {self.candidate.trying or self.candidate.name}: {sentence}"


def checks(kind: str) -> list[Check]:
    """Return all checks of a kind, in order: those of any component, the kind's own, and that one of these has run."""
    own = own_checks(kind)
    return [*EVERY, *own, *([something_was_checked] if own else [])]


def candidates(
    registry: Registry, kind: str | None = None, name: str | None = None, dist: str | None = None, level: Depth = "full"
) -> list[Candidate]:
    """Return the components to check: one by kind and name (with parameters), or all of a kind or distribution."""
    if name is not None:
        if kind is None:
            raise UsageError(f"{name!r} is a name without a kind: give the kind of the component")
        spec = parse(name)
        candidate = Candidate(registry, registry.find(kind, spec.name), spec.params, level)
        if spec.params:
            # An error in the parameters is the caller's, and not to be reported by every check.
            with suppress(PluginError, Skip):
                candidate.component  # noqa: B018
        return [candidate]
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
    return [Candidate(registry, entry, level=level) for entry in entries]


def cases(found: Iterable[Candidate]) -> list[Case]:
    """Return all cases of some candidates."""
    return [Case(candidate, check) for candidate in found for check in checks(candidate.kind)]


def run(registry: Registry, kind: str, name: str, level: Depth = "full") -> list[Result]:
    """Return the results of one component."""
    return [case.run() for case in cases(candidates(registry, find_kind(kind).name, name, level=level))]
