"""``scoresde check``: the conformance suite on one component, one distribution, or everything."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING

import attrs

from scoresde_core.command import Command
from scoresde_core.errors import UsageError, near_misses
from scoresde_core.registry import Registry

if TYPE_CHECKING:
    from .candidate import Result
    from .suite import Case

STATES = ("failed", "exempt", "passed", "skipped")
"""In the order in which they are counted; a component's state is the worst that its checks have."""
SLOWEST, WORTH_TELLING = 3, 0.5


@attrs.frozen
class CheckCommand(Command):
    """The conformance suite on a component or an installed package: ``scoresde check KIND NAME``."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Which components, at which level, and how to print."""
        parser.add_argument("kind", nargs="?", metavar="KIND", help="check the components of this kind")
        parser.add_argument(
            "name", nargs="?", metavar="NAME", help="check this one; parameters in place, 'vp[beta_max=10]'"
        )
        parser.add_argument("--dist", metavar="D", help="check the components of this installed package")
        parser.add_argument(
            "--level",
            default="quick",
            choices=("quick", "full"),
            help="quick: seconds a component; full: with every bundled counterpart in every variant (default: quick)",
        )
        parser.add_argument("-v", "--verbose", action="store_true", help="a line a check on a terminal too")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        """Check; returns 1 where a check failed."""
        return _check(arguments, registry)


def _check(arguments: argparse.Namespace, registry: Registry) -> int:
    if arguments.name is not None and arguments.dist is not None:
        raise UsageError(
            f"give KIND NAME or --dist, not both; {arguments.dist}:{arguments.name} names a component of it"
        )
    broken = _not_loaded(registry, arguments)
    results = _run(_cases(registry, arguments, bool(broken)))
    # On a terminal many lines would scroll by: there a component has one, unless there is but one component.
    one = arguments.name is not None
    if arguments.json:
        found = list(results)
    else:
        lines = arguments.verbose or one or not sys.stdout.isatty()
        found = _print_checks(results) if lines else _print_components(results)
    if arguments.json:
        records = [attrs.asdict(result, filter=lambda field, _: field.name != "error") for result in found]
        print(json.dumps({"level": arguments.level, "checks": records, "not_loaded": broken}, indent=2))
    else:
        for owner, reason in broken.items():
            print(f"failed   plugin {owner}: {reason}")
        _print_summary(found, broken, arguments.level)
    return 1 if broken or any(result.state == "failed" for result in found) else 0


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


def _cases(registry: Registry, arguments: argparse.Namespace, broken: bool) -> list[Case]:
    if arguments.dist is not None and broken:
        return []
    from .suite import candidates, cases

    return cases(candidates(registry, arguments.kind, arguments.name, arguments.dist, arguments.level))


def _run(cases: list[Case]) -> Iterator[Result]:
    """The results, one by one; meanwhile a terminal is shown what is running."""
    shown = sys.stderr.isatty()
    for k, case in enumerate(cases):
        if shown:
            text = f"[{k + 1}/{len(cases)}] {case.candidate.kind} {case.candidate.name}: {case.name}"
            print(f"\r\033[K{text[:100]}", end="", file=sys.stderr, flush=True)
        result = case.run()
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        yield result


def _print_checks(results: Iterable[Result]) -> list[Result]:
    """A line for a component, and one below it for each check, as soon as it is done."""
    found: list[Result] = []
    for result in results:
        if not found or (found[-1].kind, found[-1].name) != (result.kind, result.name):
            print(f"{result.kind} {result.name}")
        state = "ok" if result.state == "passed" else result.state
        reason = f": {result.reason}" if result.reason else ""
        print(f"  {state:7} {_time(result.seconds):>7}  {result.check}{reason}", flush=True)
        found.append(result)
    return found


def _print_components(results: Iterable[Result]) -> list[Result]:
    """A line for a component, and below it what is to be known of it: what failed, and its exemptions."""
    found: list[Result] = []
    for _, group in groupby(results, key=lambda result: (result.kind, result.name)):
        part = list(group)
        states = {result.state for result in part}
        state = next(state for state in STATES if state in states)
        seconds = sum(result.seconds for result in part)
        print(f"{state:8} {part[0].kind} {part[0].name}: {_counts(part)} in {_time(seconds)}")
        idle = states == {"skipped"}
        # Of a component of which nothing could be checked, the reason is told once.
        told = {result.reason: result for result in part if result.reason and (idle or result.state != "skipped")}
        for result in told.values():
            print(f"         {result.check}: {result.reason}")
        sys.stdout.flush()
        found += part
    return found


def _counts(results: list[Result]) -> str:
    """``12 passed, 1 skipped``."""
    counts: Counter[str] = Counter(result.state for result in results)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def _time(seconds: float) -> str:
    """``12 ms`` or ``3.4 s``."""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _print_summary(results: list[Result], broken: dict[str, str], level: str) -> None:
    """What failed once more, where it has scrolled by; what took long; and the totals."""
    components = len({(result.kind, result.name) for result in results})
    failed = [result for result in results if result.state == "failed"]
    if components > 1:
        for result in failed:
            print(f"failed   {result.kind} {result.name} {result.check}: {result.reason}")
    slowest = sorted(results, key=lambda result: -result.seconds)[:SLOWEST]
    if slowest and slowest[0].seconds > WORTH_TELLING:
        told = (f"{r.kind} {r.name} {r.check} {_time(r.seconds)}" for r in slowest if r.seconds > WORTH_TELLING)
        print(f"slowest: {', '.join(told)}")
    plugins = f"; {len(broken)} plugin{'s' * (len(broken) > 1)} not loaded" if broken else ""
    checks = f"{len(results)} checks at level {level}: {_counts(results)}" if results else "nothing was checked"
    seconds = sum(result.seconds for result in results)
    print(f"{components} component{'s' * (components != 1)}, {checks} in {_time(seconds)}{plugins}")
