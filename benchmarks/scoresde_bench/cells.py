"""Cells: the combinations of a sweep, each with its components built.

A cell's key is a hash of everything that its result depends on: components with all their parameters, and the
versions of the distributions they come from. The noise depends on the seed alone, so cells share their random
numbers and differ by what they compare.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

import attrs

from scoresde_core.cli.rows import SCHEMA, describe
from scoresde_core.sampler import Sampler, skip

from .subjects import Subject

TITLE = ("target", "checkpoint", "network", "sde", "sampler", "predictor", "corrector", "grid")


@attrs.frozen(slots=False)
class Cell:
    """One combination: its names as they are shown, its components, and the numbers that fix the run.

    An axis that the sampler does not use is None.
    """

    names: dict[str, Any]
    subject: Subject
    sampler: Sampler
    steps: int | None
    seed: int
    dtype: str
    compile: str
    """Mode of torch.compile for its network, or none."""
    samples: int
    batch_size: int
    device: str
    evaluators: tuple[str, ...]
    versions: dict[str, str]
    timing: bool
    request: dict[str, Any]
    """The block of a suite that has this cell alone, as plain data."""

    @property
    def parameters(self) -> dict[str, Any]:
        """Every parameter of every component, as plain data."""
        parts = {**self.subject.parameters, "sampler": self.sampler}
        return {name: describe(component) for name, component in parts.items()}

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits that name this cell's content."""
        content = {
            "schema": SCHEMA,
            "names": self.names,
            "parameters": self.parameters,
            "numbers": [self.steps, self.seed, self.dtype, self.samples, self.batch_size, self.device],
            "evaluators": self.evaluators,
            "versions": self.versions,
            **({"timing": True} if self.timing else {}),
            **({"compile": self.compile} if self.compile != "none" else {}),
        }
        text = json.dumps(content, sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def skip(self) -> str | None:
        """Why this combination cannot work, or None."""
        if self.compile != "none" and not self.subject.has_network:
            return "there is nothing to compile: an exact score has no network"
        return skip(self.sampler, self.subject.sde, self.subject.shape)

    @property
    def title(self) -> str:
        """The axes in one line."""
        shown = [self.names.get(axis) for axis in TITLE]
        steps = [] if self.steps is None else [f"{self.steps} steps"]
        compiled = [] if self.compile == "none" else [f"compiled ({self.compile})"]
        return " · ".join([*filter(None, shown), *steps, f"seed {self.seed}", self.dtype, *compiled])
