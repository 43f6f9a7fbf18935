"""``scoresde check``: the conformance suite on one component, one distribution, or everything."""

from __future__ import annotations

import argparse
from typing import Any

from ..registry import Registry

NAMES = ("check",)


def configure(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("check", help="the conformance suite on a component or an installed package")
    parser.set_defaults(run=_check)


def _check(arguments: argparse.Namespace, registry: Registry) -> int:
    return 0
