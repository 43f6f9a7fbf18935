"""Commands: what ``scoresde NAME`` runs. A plugin adds one as it adds any other component."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod

from .registry import Registry


class Command(ABC):
    """A subcommand; ``fit_target`` in the registry is ``scoresde fit-target`` on the command line."""

    @abstractmethod
    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""

    @abstractmethod
    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        """Do it; returns the exit code. Raise a :class:`~scoresde_core.errors.ScoreSDEError` for one clear line."""
