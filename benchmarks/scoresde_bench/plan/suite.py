"""Suites: sweeps as data, with the axes and options of the command line.

    format: 1
    about: the question that it answers
    blocks:
      - sde: [ve, vp]
        predictor: 'ddim[eta=[0,1]]'        # a component as on the command line, or a mapping with its name
        steps: [10, 20]
        samples: 512
      - sde: vp
        for_sdes: [vp]                      # skipped for a checkpoint with another SDE
        corrector: {name: langevin, snr: [0.01, 0.02]}
    published:
      - {metric: fid, value: 3.24, stderr: 0.02, where: {sde: vp, steps: 1000}}

The cells are those of all blocks together, each once. An axis missing from a block has the command line's default; an
axis given on the command line replaces that of every block. ``published`` holds values of a paper, shown beside the
cells that have all names in ``where``. Reading a suite imports no component and no torch.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import Any, Self

import attrs
import yaml
from scoresde_core import FileError, Registry, Spec, UsageError, near_misses, param, parse
from scoresde_core.components import split
from scoresde_run.commands.options import MOST
from scoresde_run.machine import document, inputs
from scoresde_run.models import names
from ..report.published import PublishedValue
from .axes import COMPONENT_AXES, DEFAULTS, LEARNED_AXES, LIMITS, OBSERVATIONS, POSTERIOR, SAMPLES, numbers

FORMAT = 1


def _typed(axes: Mapping[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    return {axis: numbers(axis, values) if axis in LIMITS else values for axis, values in axes.items()}


@attrs.frozen
class Block:
    """A product of axes, and the numbers that its cells share. A missing axis has its default.

    Steps and seeds are integers, the values of other axes are text. Raises UsageError for an invalid number.
    """

    axes: Mapping[str, tuple[Any, ...]] = attrs.field(factory=dict, converter=_typed)
    samples: int = SAMPLES
    batch_size: int | None = None
    observations: int = OBSERVATIONS  # how many events are observed, under a condition; samples are divided among them
    timing: bool = False  # whether its cells measure speed, so that each needs a device to itself
    for_sdes: tuple[str, ...] = ()  # names of the SDEs that it is for; empty: any

    def __getitem__(self, axis: str) -> tuple[Any, ...]:
        if axis == "evaluator" and axis not in self.axes and self.axes.get("condition"):
            return POSTERIOR
        return self.axes[axis] if axis in self.axes else _typed({axis: DEFAULTS[axis]})[axis]

    @property
    def learned(self) -> bool:
        """Whether it samples with networks rather than exact scores."""
        return any(self[axis] for axis in LEARNED_AXES)

    def replaced(self, given: Mapping[str, tuple[Any, ...]]) -> Self:
        """Return this block with the axes ``given`` in place of its own.

        A checkpoint or network drops the block's SDE and target; an SDE, or a target for no checkpoint, drops networks.
        """
        kept = dict(self.axes)
        if any(axis in given for axis in LEARNED_AXES):
            kept = {axis: texts for axis, texts in kept.items() if axis not in (*LEARNED_AXES, "target", "sde")}
        elif "sde" in given or ("target" in given and "checkpoint" not in kept):
            kept = {axis: texts for axis, texts in kept.items() if axis not in LEARNED_AXES}
        return attrs.evolve(self, axes={**kept, **given})

    def clear(self, registry: Registry, owners: Sequence[str]) -> Self:
        """Return this block with ambiguous names qualified by one of ``owners``."""
        return attrs.evolve(self, axes={axis: clear(axis, them, registry, owners) for axis, them in self.axes.items()})

    def plain(self) -> dict[str, Any]:
        """Return plain data that :func:`read_block` reads back."""
        rest = attrs.asdict(self, filter=lambda field, value: field.name != "axes" and value != field.default)
        found = {**self.axes, **rest}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


@attrs.frozen
class Suite:
    """Blocks, and the values that a paper published for their cells."""

    about: str = param(help="the question that it answers")
    blocks: tuple[Block, ...] = param(help="products of axes, whose cells are run")
    published: tuple[PublishedValue, ...] = param((), "values of a paper, shown beside those measured")

    @classmethod
    def read(cls, folder: Traversable, name: str) -> Self:
        """Read the suite in the file ``name`` of ``folder``; an error lists every fault in one line."""
        path = folder.joinpath(name)
        try:
            data = document.load(inputs.text(path))
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"cannot read suite {path}: {error}") from error
        except yaml.YAMLError as error:
            raise UsageError(f"suite {path} is not valid YAML: {error}") from error
        return cls.from_plain(data, str(path))

    @classmethod
    def from_plain(cls, data: Any, source: str) -> Self:
        """Return the suite that ``data`` describes; ``source`` names it in errors."""
        found = data.get("format") if isinstance(data, dict) else None
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise UsageError(f"suite {source} must be a mapping with 'format: {FORMAT}' at the top")
        if found > FORMAT:
            raise FileError(f"suite {source} has format {found}, this version reads {FORMAT}: upgrade scoresde")
        known = ("format", "about", "blocks", "published")
        problems = [f"unknown key {key!r}.{near_misses(str(key), known)}" for key in data if key not in known]
        blocks = _list_of(data, "blocks", problems)
        if not blocks:
            problems.append("'blocks' must be a list of at least one mapping")
        read = [read_block(block, f"block {number}", problems) for number, block in enumerate(blocks, 1)]
        values = enumerate(_list_of(data, "published", problems), 1)
        published = [_published(entry, f"published {number}", problems) for number, entry in values]
        if problems:
            raise UsageError(f"suite {source}: {'; '.join(problems)}")
        return cls(str(data.get("about", "")), tuple(read), tuple(filter(None, published)))

    def plain(self) -> dict[str, Any]:
        """Return plain data that :meth:`from_plain` reads back."""
        found = {"format": FORMAT, "about": self.about, "blocks": [block.plain() for block in self.blocks]}
        values = [attrs.asdict(value, filter=lambda _, entry: entry is not None) for value in self.published]
        return found | ({"published": values} if values else {})

    def clear(self, registry: Registry, owners: Sequence[str]) -> Self:
        """Return this suite with ambiguous names qualified by one of ``owners`` (:mod:`.names`)."""
        return attrs.evolve(self, blocks=tuple(block.clear(registry, owners) for block in self.blocks))

    def to_yaml(self) -> str:
        """Return the text of a file that :meth:`read` reads back."""
        return document.dump(self.plain())


def clear(axis: str, texts: Sequence[Any], registry: Registry, owners: Sequence[str]) -> tuple[Any, ...]:
    """Return the values of an axis, ambiguous names qualified by one of ``owners``; paths are unchanged."""
    if axis in LEARNED_AXES:
        return tuple(names.clear(registry, LEARNED_AXES[axis], Spec(text), owners).name for text in texts)
    kind = {**COMPONENT_AXES, "evaluator": "evaluators"}.get(axis)
    if kind is None:
        return tuple(texts)
    return tuple(str(names.clear(registry, kind, parse(part), owners)) for text in texts for part in split(text))


def read_block(data: Any, where: str, problems: list[str]) -> Block:
    """Return the block in ``data``; appends its faults to ``problems``."""
    if not isinstance(data, dict):
        problems.append(f"{where} must be a mapping of axes and options, got {data!r}")
        return Block()
    options = [field.name for field in attrs.fields(Block) if field.name != "axes"]
    known = [*DEFAULTS, *options]
    before = len(problems)
    problems += [f"{where}: unknown key {key!r}.{near_misses(str(key), known)}" for key in data if key not in known]
    texts = {}
    for axis in DEFAULTS:
        if axis in data:
            values = data[axis] if isinstance(data[axis], list) else [data[axis]]
            if not values and axis != "evaluator" and DEFAULTS[axis]:
                problems.append(f"{where}: {axis} has no value: give one or more, or remove it")
            texts[axis] = tuple(_text(axis, value, where, problems) for value in values)
    for name in ("samples", "batch_size", "observations"):
        value = data.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
            bound = f"at most {MOST}" if isinstance(value, int) and value > MOST else "at least 1"
            problems.append(f"{where}: {name} must be an integer of {bound}, got {value!r}")
    if not isinstance(data.get("timing", False), bool):
        problems.append(f"{where}: timing must be true or false, got {data['timing']!r}")
    sdes = data.get("for_sdes", [])
    if not isinstance(sdes, list) or not all(isinstance(name, str) for name in sdes):
        problems.append(f"{where}: for_sdes must be a list of names, got {sdes!r}")
    if len(problems) > before:
        return Block()
    found = {key: data[key] for key in options if key in data}
    return Block(texts, **{**found, "for_sdes": tuple(sdes)})


def _text(axis: str, value: Any, where: str, problems: list[str]) -> str:
    component = axis in COMPONENT_AXES or axis == "evaluator"
    if component and isinstance(value, dict) and isinstance(value.get("name"), str):
        return str(Spec(value["name"], {key: item for key, item in value.items() if key != "name"}))
    if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
        return str(value)
    problems.append(f"{where}: cannot read {axis} {json.dumps(value, default=str)}: write it as on the command line")
    return ""


def _published(data: Any, where: str, problems: list[str]) -> PublishedValue | None:
    fields = {"metric": str, "value": int | float, "stderr": int | float, "where": dict}
    wrong = not isinstance(data, dict) or not {"metric", "value", "where"} <= set(data) <= set(fields)
    if wrong or not all(isinstance(value, fields[key]) for key, value in data.items()):
        problems.append(f"{where} must have metric, value, where (a mapping of names) and perhaps stderr, got {data!r}")
        return None
    names = {str(axis): str(value) for axis, value in data["where"].items()}
    return PublishedValue(data["metric"], float(data["value"]), data.get("stderr"), names)


def _list_of(data: dict[str, Any], key: str, problems: list[str]) -> list[Any]:
    found = data.get(key, [])
    if not isinstance(found, list):
        problems.append(f"{key!r} must be a list, got {found!r}")
        return []
    return found
