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
from scoresde_core import Command, Registry, UsageError
from scoresde_run.machine.visible import visible

if TYPE_CHECKING:
    from .candidate import Result
    from .suite import Case

STATES = ("failed", "exempt", "passed", "skipped")
"""In the order of the counts; a component's state is the worst among its checks."""
SLOWEST, WORTH_TELLING = 3, 0.5


@attrs.frozen
class CheckCommand(Command):
    """Checks a component or an installed package: ``scoresde check KIND NAME``."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("kind", nargs="?", metavar="KIND", help="check the components of this kind")
        add("name", nargs="?", metavar="NAME", help="check this component, with parameters as in 'vp[beta_max=10]'")
        add("--dist", metavar="D", help="check the components of this installed package")
        text = "quick: seconds per component; full: all bundled counterparts in all variants (default: quick)"
        add("--level", default="quick", choices=("quick", "full"), help=text)
        add("-v", "--verbose", action="store_true", help="print a line per check on a terminal too")
        add("--json", action="store_true", help="print JSON")

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        if arguments.name is not None and arguments.dist is not None:
            why = f"NAME and --dist are both given: use the name {arguments.dist}:{arguments.name}, or omit NAME"
            raise UsageError(why)
        from .suite import candidates, cases

        # A plugin that was named must be loaded; otherwise a disabled one was left out on purpose.
        passing = ("ok",) if arguments.dist is not None else ("ok", "disabled")
        asked = [s for s in registry.statuses if arguments.kind is None and arguments.dist in (None, s.owner)]
        broken = {status.owner: status.detail for status in asked if status.state not in passing}
        chosen = (arguments.kind, arguments.name, arguments.dist, arguments.level)
        results = _run([] if arguments.dist is not None and broken else cases(candidates(registry, *chosen)))
        if arguments.json:
            found = list(results)
            records = [attrs.asdict(result, filter=lambda field, _: field.name != "error") for result in found]
            print(json.dumps({"level": arguments.level, "checks": records, "not_loaded": broken}, indent=2))
        else:
            # On a terminal each component has one line, unless there is only one component.
            by_check = arguments.verbose or arguments.name is not None or not sys.stdout.isatty()
            found = _print(results, by_check)
            for owner, reason in broken.items():
                print(f"failed   plugin {owner}: {reason}")
            _print_summary(found, broken, arguments.level)
        return 1 if broken or any(result.state == "failed" for result in found) else 0


def _run(cases: list[Case]) -> Iterator[Result]:
    shown, terminal = sys.stderr.isatty(), getattr(sys.stderr, "raw", sys.stderr)
    for k, case in enumerate(cases):
        if shown:
            text = f"[{k + 1}/{len(cases)}] {case.candidate.kind} {case.candidate.name}: {case.name}"
            print(f"\r\033[K{visible(text)[:100]}", end="", file=terminal, flush=True)
        result = case.run()
        if shown:
            print("\r\033[K", end="", file=terminal, flush=True)
        yield result


def _print(results: Iterable[Result], by_check: bool) -> list[Result]:
    """Print a line for each component, and below it its finished checks, or its failures and exemptions alone."""
    found: list[Result] = []
    for (kind, name), group in groupby(results, key=lambda result: (result.kind, result.name)):
        if by_check:
            print(f"{kind} {name}")
            for result in group:
                word = "ok" if result.state == "passed" else result.state
                reason = f": {result.reason}" if result.reason else ""
                print(f"  {word:7} {_time(result.seconds):>7}  {result.check}{reason}", flush=True)
                found.append(result)
            continue
        part = list(group)
        states = {result.state for result in part}
        state = next(state for state in STATES if state in states)
        seconds = sum(result.seconds for result in part)
        print(f"{state:8} {kind} {name}: {_counts(part)} in {_time(seconds)}", flush=True)
        # If nothing could be checked, each reason is printed once.
        idle = states == {"skipped"}
        told = {result.reason: result for result in part if result.reason and (idle or result.state != "skipped")}
        for result in told.values():
            print(f"         {result.check}: {result.reason}", flush=True)
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
    """Print the failures again, which may have scrolled away, the slowest checks, and the totals."""
    components = len({(result.kind, result.name) for result in results})
    failed = [result for result in results if result.state == "failed"]
    if components > 1:
        for result in failed:
            print(f"failed   {result.kind} {result.name} {result.check}: {result.reason}")
    slow = sorted((r for r in results if r.seconds > WORTH_TELLING), key=lambda result: -result.seconds)[:SLOWEST]
    if slow:
        print(f"slowest: {', '.join(f'{r.kind} {r.name} {r.check} {_time(r.seconds)}' for r in slow)}")
    plugins = f"; {len(broken)} plugin{'s' * (len(broken) > 1)} not loaded" if broken else ""
    checks = f"{len(results)} checks at level {level}: {_counts(results)}" if results else "nothing was checked"
    seconds = sum(result.seconds for result in results)
    print(f"{components} component{'s' * (components != 1)}, {checks} in {_time(seconds)}{plugins}")
