"""Commands: the subcommands of ``scoresde``, which plugins add like any other component."""

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
        """Run the command and return its exit code; a :class:`~scoresde_core.errors.ScoreSDEError` is one line."""
