"""Checks of all components of any kind: loading, building and documentation."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import attrs

from scoresde_core.components import parameters
from scoresde_core.errors import near_misses
from scoresde_core.kinds import KINDS

from .candidate import Candidate, Skip, own_checks


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
    assert repr(built) == repr(candidate.build()), (
        f"{candidate.name} built twice gives {built!r} and {candidate.build()!r}"
    )


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


CHECKS = (
    loads_as_its_kind,
    is_an_attrs_class,
    builds,
    is_documented,
    defaults_are_of_their_types,
    names_its_exemptions,
)


def something_was_checked(candidate: Candidate) -> None:
    """At least one check of its own kind has run; if all are skipped, this fails."""
    candidate.release()  # this check is the last
    own = [check.__name__ for check in own_checks(candidate.kind)]
    if not set(own) <= set(candidate.outcomes):
        raise Skip("some of its checks were not part of this run")
    results = [candidate.outcomes[name] for name in own]
    reasons = "; ".join(dict.fromkeys(result.reason for result in results))
    idle = all(result.state in ("skipped", "exempt") for result in results)
    assert not idle, f"all {len(own)} checks were skipped: {reasons}"
