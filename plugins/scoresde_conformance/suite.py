"""Candidates, checks and results: which components are checked, by what, and with what result.

A check is a function of a :class:`Candidate` that tests one thing, which its name and the first line of its docstring
state. It raises ``AssertionError`` with a sentence that gives the value found and the value expected, or :class:`Skip`
with the reason why it does not apply. If all checks of a component's own kind are skipped, that is a failure, because
nothing is known about the component.

Both levels have the same checks; ``quick`` tries fewer combinations of variants and counterparts. A component
that fails a check by definition declares this in its class: ``exempt = {"check": "reason"}``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress

import attrs

from scoresde_core.components import parse
from scoresde_core.errors import PluginError, ScoreSDEError, UnknownName, UsageError, near_misses
from scoresde_core.kinds import KINDS, find_kind
from scoresde_core.registry import Registry, missing_requirements

from . import components
from .candidate import Candidate, Check, Depth, Outcome, Result, Skip, own_checks


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
        except AssertionError as raised:
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
        """Return a failure message that names the component, the variant and the counterpart."""
        return f"{KINDS[self.candidate.kind].singular} {self.candidate.trying or self.candidate.name}: {sentence}"


def checks(kind: str) -> list[Check]:
    """Return all checks of a kind, in order: those of any component, the kind's own, and that one of these has run."""
    own = own_checks(kind)
    return [*components.CHECKS, *own, *([components.something_was_checked] if own else [])]


def candidates(
    registry: Registry,
    kind: str | None = None,
    name: str | None = None,
    dist: str | None = None,
    level: Depth = "full",
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
