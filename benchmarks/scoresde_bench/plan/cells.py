"""Cells: the combinations of a sweep, each with its components built.

A cell's key is a hash of everything that its result depends on: components and evaluators with all their parameters,
the versions of their plugins, their source, and the content of the files that they read
(:mod:`scoresde_run.results.fingerprint`). The noise depends on the seed alone, so cells with one seed share their
random numbers.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
from scoresde_core import Evaluator, Sampler, skip
from scoresde_run.results.fingerprint import Depends, Fingerprint, key_of
from scoresde_run.results.rows import SCHEMA
from ..report.labels import NAME_AXES
from .axes import COMPONENT_AXES, LEARNED_AXES
from .problem import Problem
from .score_sources import ScoreSource


@attrs.frozen(slots=False)
class Cell:
    """One combination: its names as shown, its built components, and its numbers.

    The name of an axis that the sampler does not use is None.
    """

    names: dict[str, Any]
    source: ScoreSource
    sampler: Sampler
    judges: Mapping[str, Evaluator]  # its evaluators, by their text
    seed: int
    dtype: str
    precision: str  # autocast dtype of its network
    compile: str  # mode of torch.compile for its network, or ``none``
    samples: int
    batch_size: int
    device: str
    fingerprint: Fingerprint
    timing: bool
    problem: Problem | None = None  # what its samples are given
    files: tuple[str, ...] | None = None  # files that count for the key; None: all that exist

    @property
    def steps(self) -> int | None:
        """The sampler's step count; None if it chooses its own steps."""
        inner = getattr(self.sampler, "sampler", None)  # inside its guidance
        sampler = inner if isinstance(inner, Sampler) else self.sampler
        return getattr(sampler, "steps", None) if "steps" in sampler.uses else None

    @property
    def evaluators(self) -> tuple[str, ...]:
        """The texts of its evaluators."""
        return tuple(self.judges)

    @property
    def request(self) -> dict[str, Any]:
        """The cell as plain data (a block of a suite), from which another process builds it."""
        # A checkpoint or preset defines its SDE; a checkpoint also its network.
        implied = {"sde": not self.source.chooses_sde, "network": self.names.get("checkpoint") is not None}
        axes = (*COMPONENT_AXES, *LEARNED_AXES, "known")
        found = {axis: self.names.get(axis) for axis in axes if not implied.get(axis)}
        found |= {axis: getattr(self, axis) for axis in ("steps", "seed", "dtype", "precision", "compile")}
        numbers = {"samples": self.samples, "batch_size": self.batch_size, "timing": self.timing}
        numbers |= {} if self.problem is None else {"observations": self.problem.count}
        single = {axis: [value] for axis, value in found.items() if value is not None}
        return {**single, "evaluator": [*self.judges], **numbers}

    @property
    def _parts(self) -> dict[str, Any]:
        given = {} if self.problem is None else self.problem.parameters
        return {**self.source.parameters, "sampler": self.sampler, **given}

    @property
    def parameters(self) -> dict[str, Any]:
        """Every parameter of every component, as plain data."""
        found: dict[str, Any] = self.fingerprint.describe(self._parts)
        return found

    @cached_property
    def depends(self) -> Depends:
        """Versions of the plugins, and digests of source and files."""
        found = self.fingerprint.depends(self._parts, tuple(self.judges.values()))
        files = {path: digest for path, digest in found["files"].items() if self.files is None or path in self.files}
        return {**found, "files": files}

    @property
    def combination(self) -> dict[str, Any]:
        """The names and numbers of the cell, without versions, source and files."""
        return {
            "names": self.names,
            "numbers": [self.steps, self.seed, self.dtype, self.samples, self.batch_size, self.device],
            "evaluators": self.evaluators,
            **({"timing": True} if self.timing else {}),
            **({"precision": self.precision} if self.precision != "float32" else {}),
            **({"compile": self.compile} if self.compile != "none" else {}),
        }

    @cached_property
    def key(self) -> str:
        """Hash of everything that the result depends on, 16 hexadecimal digits."""
        judges = self.fingerprint.describe(tuple(self.judges.values()))
        return key_of([SCHEMA, self.combination, self.parameters, judges], self.depends)

    @property
    def skip(self) -> str | None:
        """The reason why this combination cannot work, or None."""
        if self.compile != "none" and not self.source.has_network:
            return "nothing to compile: an exact score has no network"
        if self.precision != "float32" and not self.source.has_network:
            return f"no network to run in {self.precision}: this is an exact score"
        if self.precision != "float32" and self.dtype != "float32":
            return f"a network in {self.dtype} cannot run in {self.precision}: use --dtype float32"
        unknown = None if self.source.has_network else self.source.sde.skip_target(self.source.target)
        unfit = unknown or skip(self.sampler, self.source.sde, self.source.shape)
        if self.problem is not None:
            unfit = unfit or self.problem.refusal(self.sampler, self.source)
        return unfit or self.source.lacks or self.sampler.skip_model(self.source.view)

    @property
    def title(self) -> str:
        """The axes in one line."""
        shown = [self.names.get(axis) for axis in NAME_AXES]
        steps = [] if self.steps is None else [f"{self.steps} steps"]
        lowered = [] if self.precision == "float32" else [f"network in {self.precision}"]
        compiled = [] if self.compile == "none" else [f"compiled ({self.compile})"]
        return " · ".join([*filter(None, shown), *steps, f"seed {self.seed}", self.dtype, *lowered, *compiled])


def folder_of(cells: Sequence[Cell]) -> Path:
    """The default folder of results: named after the combinations, so that it is found again after source edits."""
    combinations = sorted(json.dumps(cell.combination, sort_keys=True) for cell in cells)
    return Path("scoresde-runs") / hashlib.blake2b("".join(combinations).encode(), digest_size=4).hexdigest()
