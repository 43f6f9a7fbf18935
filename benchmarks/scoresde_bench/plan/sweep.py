"""Expands blocks of axes to cells.

Every value of every axis is combined with every other. A list given to a parameter that takes no list expands to
several components, also inside a nested component: ``pc[predictor=ddim[eta=[0,1]],steps=[10,20]]`` stands for four.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
from scoresde_core import OURS, Evaluator, Parameter, Registry, Sampler, Spec, UsageError, parameters, parse
from scoresde_core.components import split
from scoresde_core.kinds import kind_of
from scoresde_run import Fingerprint, GuidedSampler
from . import axes
from .axes import COMPONENT_AXES, DEFAULTS, SAMPLER_AXES
from .cells import Cell
from .problem import Problem
from .score_sources import ScoreSource, exact_sources, learned_sources, told
from .suite import Block, clear


def sweep(registry: Registry, kind: str, texts: Iterable[str]) -> list[Spec]:
    """Return the components that ``texts`` name, each once."""
    specs: list[Spec] = []
    for text in itertools.chain.from_iterable(split(text) for text in texts):
        spec = parse(text.strip())
        known = {parameter.name: parameter for parameter in parameters(registry.load(kind, spec.name))}
        choices = {name: _choices(registry, known.get(name), value) for name, value in spec.params.items()}
        if empty := [name for name, values in choices.items() if not values]:
            raise UsageError(f"empty list for {empty[0]} in {text.strip()!r}: give it one or more values")
        _check_count(math.prod(map(len, choices.values())), f"{kind} in {text[:60]}")
        combined = itertools.product(*choices.values())
        specs += [Spec(spec.name, dict(zip(choices, values, strict=True))) for values in combined]
    return list({str(spec): spec for spec in specs}.values())


def _check_count(count: int, what: str = "cells") -> None:
    if count > axes.MOST_CELLS:
        raise UsageError(f"{count:,} {what} are more than {axes.MOST_CELLS:,}: sweep fewer values, or in several runs")


def _choices(registry: Registry, parameter: Parameter | None, value: Any) -> list[Any]:
    """The values of one parameter that ``value`` expands to."""
    nested = isinstance(value, list) and bool(value) and all(isinstance(item, list) for item in value)
    many = isinstance(value, list) and (parameter is None or not parameter.takes_list or nested)
    kind = None if parameter is None else kind_of(parameter.type)
    values = value if many else [value]
    if kind is None:
        return list(values)
    return [c for v in values for c in (map(str, sweep(registry, kind, [v])) if isinstance(v, str) else [v])]


@attrs.define
class Sweep:
    """Builds cells from blocks. Score sources and evaluators are built once and shared."""

    registry: Registry
    device: str
    prepare: bool = False
    """Whether evaluators prepare (perhaps download) what they need before cells get their keys."""
    given: Sequence[ScoreSource] = ()  # score sources of all blocks, in place of those that their axes name
    _sources: dict[Any, list[ScoreSource]] = attrs.field(factory=dict, init=False)
    _built: dict[tuple[str, str], Any] = attrs.field(factory=dict, init=False)
    """Evaluators, and samplers without the values of axes, by kind and text."""
    _used: set[str] = attrs.field(factory=set, init=False)
    _fingerprint: Fingerprint = attrs.field(
        init=False, default=attrs.Factory(lambda self: Fingerprint(self.registry), takes_self=True)
    )

    def cells(self, blocks: Sequence[Block], asked: frozenset[str] = frozenset()) -> list[Cell]:
        """Return every cell of ``blocks`` once; ``asked`` are the axes that must have an effect.

        Raises UsageError if a component cannot be built, no sampler uses an axis of ``asked``, or no cell is left.
        """
        found = [cell for block in blocks for cell in self._block(block)]
        unused = sorted(axis for axis in SAMPLER_AXES if axis in asked and axis not in self._used)
        if found and unused:
            names = ", ".join(dict.fromkeys(cell.names["sampler"] for cell in found))
            raise UsageError(f"--{unused[0]} has no effect on the sampler {names}; remove it")
        lowered = any(cell.precision != "float32" for cell in found)
        for axis in ("compile", *(["precision"] if lowered else [])):
            if axis in asked and found and not any(cell.source.has_network for cell in found):
                raise UsageError(f"--{axis} has no effect: exact scores have no network; add --checkpoint or --network")
        if not found:
            meant = ", ".join(dict.fromkeys(name for block in blocks for name in block.for_sdes))
            raise UsageError(f"no block of this suite fits the checkpoint's SDE; they are for {meant}")
        if "condition" in asked and all(cell.skip for cell in found):
            raise UsageError(str(found[0].skip))
        if self.prepare:
            for evaluator in {id(judge): judge for cell in found for judge in cell.judges.values()}.values():
                evaluator.prepare()
        unique: dict[str, Cell] = {}
        for cell in found:
            unique.setdefault(cell.key, cell)
        return list(unique.values())

    def _block(self, block: Block) -> Iterable[Cell]:
        specs = {axis: sweep(self.registry, kind, self._texts(block, axis)) for axis, kind in COMPONENT_AXES.items()}
        if unnamed := [axis for axis, found in specs.items() if not found and (axis in block.axes or DEFAULTS[axis])]:
            raise UsageError(f"--{unnamed[0]} has no value: give one or more, or remove it")
        chosen: dict[str, list[Any]] = {**specs, "steps": list(block["steps"])}
        chosen["grid"] = specs["grid"] or [None]  # None: the sampler takes its predictor's grid
        guidances: list[Spec | None] = [*specs["guidance"]] or [None]
        seeds, dtypes = block["seed"], axes.words("dtype", block["dtype"])
        modes, precisions = axes.words("compile", block["compile"]), axes.words("precision", block["precision"])
        for axis in ("predictor", "corrector", "grid"):
            for spec in specs[axis]:
                self._once(COMPONENT_AXES[axis], spec)
        sources = [each for source in self._sources_of(block, specs) for each in told(source, block["known"])]
        swept = [chosen["sampler"], *(chosen[axis] for axis in SAMPLER_AXES)]
        others: list[Sequence[Any]] = [sources, modes, precisions, seeds, dtypes, guidances]
        _check_count(math.prod(map(len, [*others, *swept])))
        samplers = dict[Any, tuple[Sampler, dict[str, Any]]]()
        for spec, *values in itertools.product(*swept):
            sampler, names = self._sampler(spec, dict(zip(SAMPLER_AXES, values, strict=True)))
            shown = {axis: names[axis] for axis in names if axis != "steps"}
            for guidance in guidances:
                key = (*names.values(), str(guidance))
                samplers[key] = (sampler, shown)
                if guidance is not None:
                    guided = GuidedSampler(sampler, self._once("guidances", guidance))
                    samplers[key] = (guided, {**shown, "guidance": str(guidance)})
        size = min(block.batch_size or block.samples, block.samples)
        shared: dict[str, Any] = {"samples": block.samples, "batch_size": size, "timing": block.timing}
        judges = sweep(self.registry, "evaluators", self._texts(block, "evaluator"))
        shared["judges"] = {str(spec): self._once("evaluators", spec) for spec in judges}
        given = self._given(block, specs, shared["judges"])
        shared |= {"device": self.device, "fingerprint": self._fingerprint}
        # Cells that share a model, and then those that share exact samples, run in sequence.
        for source, mode, precision, seed, dtype, pair, (sampler, names) in itertools.product(
            sources, modes, precisions, seeds, dtypes, given, samplers.values()
        ):
            how: dict[str, Any] = {"seed": seed, "dtype": dtype, "precision": precision, "compile": mode}
            if pair is not None:
                how["problem"] = Problem.of(self.registry, source, pair, block.observations, seed)
                names = {**names, "condition": str(pair[0]), "method": str(pair[1])}
            yield Cell(names={**source.names, **names}, source=source, sampler=sampler, **how, **shared)

    def _given(
        self, block: Block, specs: dict[str, list[Spec]], judges: Mapping[str, Evaluator]
    ) -> Sequence[tuple[Spec, Spec] | None]:
        """The conditions of a block with their methods, or None alone; an evaluator that does not fit is refused."""
        conditions, methods, alone = specs["condition"], specs["method"], block.observations == block.samples
        if methods and not conditions:
            raise UsageError("--method needs a problem: add a --condition, such as linear[operator=mask,noise=0.3]")
        if conditions and block.samples % block.observations:
            raise UsageError(f"{block.samples} samples cannot be divided among {block.observations} observations: "
                             "make --samples a multiple of --observations")  # fmt: skip
        for text, judge in judges.items():
            if "observed" in judge.needs and not conditions:
                raise UsageError(f"--evaluator {text} judges samples given y: add a --condition")
            if conditions and "observed" not in judge.needs and not alone:
                usable = " ".join(axes.POSTERIOR)
                raise UsageError(f"--evaluator {text} judges samples that are not given y: take {usable}")
        return [*itertools.product(conditions, methods or [Spec("replacement")])] or [None]

    def _texts(self, block: Block, axis: str) -> Sequence[str]:
        """The values of an axis; default names always mean our components."""
        return block.axes[axis] if axis in block.axes else clear(axis, block[axis], self.registry, [OURS])

    def _once(self, kind: str, spec: Spec) -> Any:
        """The component ``spec``, built at the first request."""
        if (kind, str(spec)) not in self._built:
            self._built[kind, str(spec)] = self.registry.create(kind, spec)
        return self._built[kind, str(spec)]

    def _sources_of(self, block: Block, specs: dict[str, list[Spec]]) -> list[ScoreSource]:
        """The score sources of a block, built once for all blocks with the same axes."""
        if self.given:
            return [*self.given]
        checkpoints, networks = block["checkpoint"], block["network"]
        truths = specs["target"] if not block.learned or "target" in block.axes else []
        sdes = specs["sde"] if not block.learned or "sde" in block.axes else []
        key = (checkpoints, networks, tuple(map(str, truths)), tuple(map(str, sdes)))
        if key not in self._sources and block.learned:
            self._sources[key] = learned_sources(self.registry, checkpoints, networks, truths, [*map(str, sdes)])
        elif key not in self._sources:
            self._sources[key] = exact_sources(self.registry, truths, sdes)
        named = [(parse(str(one.names["sde"])).name.removeprefix(f"{OURS}:"), one) for one in self._sources[key]]
        return [one for name, one in named if not block.for_sdes or name in block.for_sdes]

    def _sampler(self, spec: Spec, given: dict[str, Any]) -> tuple[Sampler, dict[str, str | None]]:
        """Return the sampler with the values of ``given`` that it uses, and these and its own name as text."""
        sampler: Sampler = self._once("samplers", spec)  # which says what axes it uses
        uses = sampler.uses & (set(given) - set(spec.params))
        used = {name: value for name, value in given.items() if name in uses and value is not None}
        self._used |= uses
        if used:
            sampler = self.registry.create("samplers", spec, **used)
        if "grid" in uses and "grid" not in used:
            used["grid"] = self.registry.typed(getattr(sampler, "grid", None))
            if used["grid"] is None:
                raise UsageError(f"the grid of {sampler!r} is not registered: register it, or choose one with --grid")
        return sampler, {"sampler": str(spec), **{axis: str(used[axis]) if axis in used else None for axis in given}}
