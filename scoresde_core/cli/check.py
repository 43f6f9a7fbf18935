"""``scoresde check``: the conformance suite on one component, one distribution, or everything."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import UsageError, near_misses
from ..registry import Registry

if TYPE_CHECKING:
    from ..conformance.suite import Result

NAMES = ("check",)


def configure(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("check", help="the conformance suite on a component or an installed package")
    parser.add_argument("kind", nargs="?", metavar="KIND", help="check the components of this kind")
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="check this one; parameters in place, 'vp[beta_max=10]'"
    )
    parser.add_argument("--dist", metavar="D", help="check the components of this installed package")
    parser.add_argument("-v", "--verbose", action="store_true", help="one line a check, with its time")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_check)


def _check(arguments: argparse.Namespace, registry: Registry) -> int:
    if arguments.name is not None and arguments.dist is not None:
        raise UsageError(
            f"give KIND NAME or --dist, not both; {arguments.dist}:{arguments.name} names a component of it"
        )
    broken = _not_loaded(registry, arguments)
    results = _results(registry, arguments, bool(broken))
    if arguments.json:
        results = list(results)
        records = [attrs.asdict(result, filter=lambda field, _: field.name != "error") for result in results]
        print(json.dumps({"checks": records, "not_loaded": broken}, indent=2))
    else:
        results = _print(results, arguments.verbose)
        for owner, reason in broken.items():
            print(f"failed   plugin {owner}: {reason}")
        _print_summary(results, broken)
    return 1 if broken or any(result.state == "failed" for result in results) else 0


def _not_loaded(registry: Registry, arguments: argparse.Namespace) -> dict[str, str]:
    """The plugins that failed among those that are checked, with their reasons."""
    if arguments.kind is not None:
        return {}
    owners = [status.owner for status in registry.statuses]
    if arguments.dist is not None and arguments.dist not in owners:
        raise UsageError(f"no plugin is called {arguments.dist!r}.{near_misses(arguments.dist, owners)}")
    wanted = {arguments.dist} if arguments.dist is not None else set(owners)
    found = [status for status in registry.statuses if status.owner in wanted]
    # A plugin that was named must be there; among all of them, a disabled one was left out on purpose.
    passing = {"ok"} if arguments.dist is not None else {"ok", "disabled"}
    return {status.owner: status.detail for status in found if status.state not in passing}


def _results(registry: Registry, arguments: argparse.Namespace, broken: bool) -> Iterable[Result]:
    if arguments.dist is not None and broken:
        return []
    from ..conformance.suite import cases, subjects

    found = subjects(registry, arguments.kind, arguments.name, arguments.dist)
    return (case.run() for case in cases(found))


def _print(results: Iterable[Result], verbose: bool) -> list[Result]:
    """One line a component as soon as it is done, with what failed below it; or one line a check."""
    done: list[Result] = []
    for _, group in groupby(results, key=lambda result: (result.kind, result.name)):
        part = []
        for result in group:
            part.append(result)
            if verbose:
                reason = f": {result.reason}" if result.reason else ""
                name = f"{result.kind} {result.name} {result.check}"
                print(f"{result.state:8} {result.seconds:6.2f} s  {name}{reason}", flush=True)
        if not verbose:
            _print_component(part)
        done += part
    return done


def _print_component(results: list[Result]) -> None:
    state, seconds = _state(results), sum(result.seconds for result in results)
    print(f"{state:8} {results[0].kind} {results[0].name}: {_counts(results)} in {seconds:.1f} s")
    # A component of which nothing could be checked says why, once.
    told = {result.reason: result for result in results if result.state == state} if state != "passed" else {}
    for result in told.values():
        print(f"         {result.check}: {result.reason}")
    sys.stdout.flush()


def _state(results: list[Result]) -> str:
    """Of a component: failed, if anything did; skipped, if nothing passed."""
    states = {result.state for result in results}
    return next(state for state in ("failed", "passed", "skipped") if state in states)


def _counts(results: list[Result]) -> str:
    """``12 passed, 1 skipped``."""
    counts = Counter(result.state for result in results)
    return ", ".join(f"{counts[state]} {state}" for state in ("failed", "passed", "skipped") if counts[state])


def _print_summary(results: list[Result], broken: dict[str, str]) -> None:
    components = len({(result.kind, result.name) for result in results})
    plugins = f"; {len(broken)} plugin{'s' * (len(broken) > 1)} not loaded" if broken else ""
    checks = f"{len(results)} checks: {_counts(results)}" if results else "nothing was checked"
    print(f"{components} component{'s' * (components != 1)}, {checks}{plugins}")
