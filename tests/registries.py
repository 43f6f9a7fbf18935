"""Registries of a few components, for tests, and what the conformance suite finds wrong with them."""

import pytest
from scoresde_conformance.suite import candidates, cases
from scoresde_core.manifest import Row
from scoresde_core.plugins import Status
from scoresde_core.registry import Registry, load_registry

load_registry()  # which declares the kinds of other packages


def registry_of(*rows, owner="wrong", more=()):
    """A registry of one plugin with rows (kind, name, class), and of further plugins (statuses)."""
    staged = [Row(kind, name, cls, "under test") for kind, name, cls in rows]
    return Registry([Status(owner, "1.0", "ok", rows=staged), *more], hook=None)


def failures(kind, cls, *, only=None, level="quick", name="subject"):
    """What the suite finds wrong with a class, check -> reason; of one check alone where ``only`` names it."""
    registry = registry_of((kind, "subject", cls))
    chosen = [case for case in cases(candidates(registry, kind, name, level=level)) if only in (None, case.name)]
    assert chosen, f"there is no check {only}"
    results = [case.run() for case in chosen]
    return {result.check: result.reason for result in results if result.state == "failed"}


def wrong(*rows):
    """Cases (class, check, words), called after their class."""
    return pytest.mark.parametrize(("cls", "check", "words"), rows, ids=[row[0].__name__ for row in rows])


def names_it(kind, cls, check, words):
    """That check fails, with these words."""
    found = failures(kind, cls, only=check)
    assert check in found, f"{cls.__name__} passes {check}"
    assert words in found[check]
