"""Cells: every combination of a sweep, each built and checked before any work starts.

A cell's key is a hash of everything that its result depends on: components with all their parameters, and the
versions of the distributions they come from. The noise depends on the seed alone, so cells share their random
numbers and differ by what they compare.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from scoresde_core.cli.rows import SCHEMA, describe
from scoresde_core.components import Spec, parameters, parse, split
from scoresde_core.errors import UsageError
from scoresde_core.registry import Registry
from scoresde_core.sampler import Sampler, skip

from .subjects import Subject

COMPONENT_AXES = {
    "target": "targets",
    "sde": "sdes",
    "sampler": "samplers",
    "predictor": "predictors",
    "corrector": "correctors",
    "grid": "grids",
}
SAMPLER_AXES = ("predictor", "corrector", "grid", "steps")
TITLE = ("target", "checkpoint", "network", "sde", "sampler", "predictor", "corrector", "grid")


@attrs.frozen
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
    samples: int
    batch_size: int
    device: str
    evaluators: tuple[str, ...]
    versions: dict[str, str]

    @property
    def parameters(self) -> dict[str, Any]:
        """Every parameter of every component, as plain data."""
        parts = {**self.subject.parameters, "sampler": self.sampler}
        return {name: describe(component) for name, component in parts.items()}

    @property
    def key(self) -> str:
        """16 hexadecimal digits that name this cell's content."""
        content = {
            "schema": SCHEMA,
            "names": self.names,
            "parameters": self.parameters,
            "numbers": [self.steps, self.seed, self.dtype, self.samples, self.batch_size, self.device],
            "evaluators": self.evaluators,
            "versions": self.versions,
        }
        text = json.dumps(content, sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def skip(self) -> str | None:
        """Why this combination cannot work, or None."""
        return skip(self.sampler, self.subject.sde, self.subject.shape)

    @property
    def title(self) -> str:
        """The axes in one line."""
        shown = [self.names.get(axis) for axis in TITLE]
        steps = [] if self.steps is None else [f"{self.steps} steps"]
        return " · ".join([*filter(None, shown), *steps, f"seed {self.seed}", self.dtype])


def sweep(registry: Registry, kind: str, texts: Iterable[str]) -> list[Spec]:
    """The components that ``texts`` name; a list given to a parameter that takes none expands to several."""
    specs: list[Spec] = []
    for text in itertools.chain.from_iterable(split(text) for text in texts):
        spec = parse(text.strip())
        takes_list = {p.name: p.takes_list for p in parameters(registry.load(kind, spec.name))}
        choices = []
        for name, value in spec.params.items():
            many = isinstance(value, list) and (not takes_list.get(name, False) or _nested(value))
            choices.append([(name, choice) for choice in value] if many else [(name, value)])
        specs += [Spec(spec.name, dict(chosen)) for chosen in itertools.product(*choices)]
    return _unique(specs)


def _nested(value: Sequence[Any]) -> bool:
    return bool(value) and all(isinstance(item, list) for item in value)


def expand(
    registry: Registry,
    subjects: Sequence[Subject],
    axes: dict[str, list[Any]],
    asked: frozenset[str],
    *,
    samples: int,
    batch_size: int,
    device: str,
    evaluators: tuple[str, ...],
) -> list[Cell]:
    """Every cell of the product of ``subjects`` and ``axes``, without repetition; ``asked`` are those the user gave.

    Raises before any work for a component that cannot be built, or an axis that no sampler in the sweep uses.
    """
    for kind in ("predictor", "corrector", "grid"):
        for spec in axes[kind]:
            registry.create(COMPONENT_AXES[kind], spec)
    versions = {status.owner: status.version for status in registry.statuses if status.state == "ok"}
    cells: dict[str, Cell] = {}
    used: set[str] = set()
    product = itertools.product(
        subjects, axes["sampler"], *(axes[name] for name in SAMPLER_AXES), axes["seed"], axes["dtype"]
    )
    for subject, sampler_spec, *chosen, seed, dtype in product:
        given = dict(zip(SAMPLER_AXES, chosen, strict=True))
        uses = registry.create("samplers", sampler_spec).uses & (set(given) - set(sampler_spec.params))
        sampler = registry.create("samplers", sampler_spec, **{name: given[name] for name in uses})
        used |= uses
        shown = {name: str(value) if name in uses else None for name, value in given.items() if name != "steps"}
        parts = [*subject.components, ("samplers", sampler_spec.name)]
        parts += [(COMPONENT_AXES[name], given[name].name) for name in uses if name in COMPONENT_AXES]
        own = {registry.find(kind, name).owner for kind, name in parts}
        cell = Cell(
            names={**subject.names, "sampler": str(sampler_spec), **shown},
            subject=subject,
            sampler=sampler,
            steps=getattr(sampler, "steps", None) if "steps" in sampler.uses else None,
            seed=seed,
            dtype=dtype,
            samples=samples,
            batch_size=batch_size,
            device=device,
            evaluators=evaluators,
            versions={owner: versions[owner] for owner in sorted(own) if owner in versions},
        )
        cells.setdefault(cell.key, cell)
    unused = sorted(axis for axis in SAMPLER_AXES if axis in asked and axis not in used)
    if unused:
        names = ", ".join(str(spec) for spec in axes["sampler"])
        raise UsageError(f"--{unused[0]} has no effect: the sampler {names} does not use it; leave it out")
    return list(cells.values())


def _unique(specs: list[Spec]) -> list[Spec]:
    return list({str(spec): spec for spec in specs}.values())
