"""Configurations: a model, its training, sampling and evaluation, as YAML files (presets).

    format: 1
    inherits: base_cifar10_vp.yaml       # a file in the same folder; this one states the differences
    source: where these numbers were published
    quirks: [contradictions of the source, and how they were resolved]
    model:
      network: {name: ncsnpp, nf: 128, fir: false}
      sde: vp                            # a component: its name, name[key=value], or a mapping with its name
      shape: [3, 32, 32]
    training: {batch_size: 128, learning_rate: 2e-4}
    sampling: {sampler: "pc[predictor=ancestral_sampling,steps=1000]"}

Every key but ``network``, ``sde`` and ``shape`` has a default; errors for unknown keys list near misses. ``inherits``
goes one level deep: parameters of a component that both files name are merged, a component of another name replaces the
whole, and quirks are concatenated. Reading a configuration imports no components, which are looked up by
:mod:`scoresde_run.models.model`, and no torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import attrs
import yaml
from attrs.validators import and_, deep_iterable, ge, gt, lt, optional
from scoresde_core import FileError, Registry, Spec, UsageError, build, find_kind, param, parameters, parse, parse_value
from scoresde_core.errors import near_misses
from ..machine import document, inputs
from . import names

FORMAT = 1
_COMPONENT_KEY = "name"
RECORDED = ("levels", "shift", "scale")  # keys of ``model`` that training determines
Numbers = float | tuple[float, ...]
T = TypeVar("T")


@attrs.frozen
class ModelConfig:
    """A network, its SDE, and the shape and units of the data; training records levels, shift and scale."""

    network: Spec = param(help="the network")
    sde: Spec = param(help="the forward process")
    shape: tuple[int, ...] = param(help="shape of one event: [channels, height, width]", check=deep_iterable(ge(1)))
    centered: bool = param(True, "images in [-1, 1]; false: in [0, 1]. Passed to networks that have this parameter")
    levels: int | Literal["auto"] | None = param(
        "auto", "grey levels of the images; null: floats; auto: not recorded, taken from the data set"
    )
    shift: tuple[float, ...] = param((0.0,), "subtracted from the data: one number, or one per channel or column")
    scale: tuple[float, ...] = param((1.0,), "divisor of the shifted data", deep_iterable(gt(0)))


@attrs.frozen
class TrainingConfig:
    """The loss, the optimiser, and the schedule of a training run."""

    loss: Spec = param(Spec("dsm"), "the loss; smld and ddpm take the network's number of noise scales")
    batch_size: int = param(128, "events per step, over all processes", ge(1))
    iterations: int = param(1_300_000, "optimiser steps", ge(1))
    accumulate: int = param(1, "parts that a batch is split into, one after another, to fit into memory", ge(1))
    optimizer: Literal["adam", "adamw"] = param("adam", "adamw: decoupled weight decay")
    learning_rate: float = param(2e-4, "learning rate of Adam after the warm-up", gt(0))
    betas: tuple[float, float] = param((0.9, 0.999), "betas of Adam", deep_iterable(and_(ge(0), lt(1))))
    adam_eps: float = param(1e-8, "epsilon of Adam", gt(0))
    weight_decay: float = param(0.0, "L2 penalty; decoupled under adamw", ge(0))
    warmup: int = param(5000, "steps over which the learning rate rises from 0; 0: none", ge(0))
    gradient_clip: float | None = param(1.0, "largest gradient norm over all parameters; null: none", optional(gt(0)))
    known_dropout: float = param(
        0.1, "probability of training without what the network knows of an event; 0: it must always be given",
        and_(ge(0), lt(1))
    )  # fmt: skip
    ema: float | None = param(0.9999, "rate of the averaged weights; null: none", optional(and_(gt(0), lt(1))))
    ema_warmup: bool = param(False, "bound the rate by (1 + n) / (10 + n) after n steps")
    precision: Literal["float32", "bfloat16", "float16"] = param("float32", "of the network's arithmetic (autocast)")
    compile: bool = param(False, "compile the network")
    channels_last: bool = param(False, "channels last in memory, for convolutions on a GPU")
    deterministic: bool = param(False, "on a GPU: the same bits in every run, by slower kernels where needed")
    log_every: int = param(50, "steps between two logged losses", ge(1))
    evaluate_every: int | None = param(
        100, "steps between two test losses of the averaged weights; null: none", optional(ge(1))
    )
    evaluate_batches: int = param(1, "batches of the test split in each test loss", ge(1))
    resume_every: int = param(10_000, "steps between two saved training states", ge(1))
    keep: int = param(3, "number of newest training states kept", ge(1))
    snapshot_every: int = param(50_000, "steps between two kept models, each with a picture of samples", ge(1))
    seed: int = param(42, "seed of weights, order of the data, times and noise", ge(0))


@attrs.frozen
class DataConfig:
    """The training data. The data set is looked up when training starts."""

    dataset: Spec | None = param(None, "the data set; its images are resized to the model's shape")
    random_flip: bool = param(True, "mirror training images at random")
    dequantizer: Spec | None = param(None, "noise that turns 256 values into a density; null: none in training")
    workers: int = param(4, "processes that decode data that do not fit on the device", ge(0))
    standardise: bool = param(False, "scale each channel or column of the training split to mean 0 and variance 1")
    shift: Numbers | None = param(None, "number subtracted, or one per channel or column; null: none")
    scale: Numbers | None = param(None, "divisor after the shift, or one per channel or column; null: none")

    def __attrs_post_init__(self) -> None:
        if self.standardise and not (self.shift is None and self.scale is None):
            raise ValueError("standardise computes shift and scale: leave out either these or standardise")
        given = self.scale if isinstance(self.scale, tuple) else () if self.scale is None else (self.scale,)
        if not all(value > 0 for value in given):
            raise ValueError(f"scale must be above 0, got {self.scale}")


@attrs.frozen
class SamplingConfig:
    """The default sampler, and how many samples it draws."""

    sampler: Spec = param(Spec("pc"), "the sampler, with its parts and its number of steps")
    t_min: float | None = param(None, "smallest time of sampling; null: the SDE's", optional(and_(gt(0), lt(1))))
    n: int = param(64, "number of samples", ge(1))


@attrs.frozen
class EvaluationConfig:
    """How the published model was evaluated, and which of its checkpoints."""

    samples: int = param(50_000, "number of samples for FID and other metrics", ge(1))
    batch_size: int = param(1024, "events at a time", ge(1))
    first_checkpoint: int = param(1, "first checkpoint evaluated, counted in snapshots", ge(0))
    last_checkpoint: int = param(26, "last checkpoint evaluated", ge(0))
    likelihood: bool = param(False, "measure bits per dimension too, with uniform dequantisation")
    split: Literal["train", "test"] = param("test", "the split whose likelihood is measured")
    repeats: int = param(5, "passes over these images, each with its own noise", ge(1))
    offset: bool = param(False, "include the step from t_min to the data in the likelihood bound")


@attrs.frozen
class Config:
    """A whole configuration: a preset, or that of a checkpoint."""

    model: ModelConfig = param(help="network, SDE, data range")
    training: TrainingConfig = param(attrs.Factory(TrainingConfig), "loss and optimiser")
    data: DataConfig = param(attrs.Factory(DataConfig), "training data")
    sampling: SamplingConfig = param(attrs.Factory(SamplingConfig), "sampler and number of samples")
    evaluation: EvaluationConfig = param(attrs.Factory(EvaluationConfig), "measurements")
    source: str = param("", "source of these numbers")
    quirks: tuple[str, ...] = param((), "contradictions and gaps of the source, and how they were resolved")

    @classmethod
    def read(cls, folder: Traversable | Path, name: str) -> Self:
        """Read the file ``name`` of ``folder``, a directory or a package's resources."""
        data = _read(folder, name)
        if (inherited := data.pop("inherits", None)) is not None:
            if not isinstance(inherited, str) or "/" in inherited:
                raise FileError(f"{name}: inherits must name a file in the same folder, got {inherited!r}")
            base = _read(folder, inherited)
            if "inherits" in base:
                raise FileError(f"{name}: {inherited} inherits from another file: only one level is supported")
            quirks = [part.get("quirks", []) for part in (base, data)]
            odd = [found for found in quirks if not isinstance(found, list)]
            data = {**merge(base, data), "quirks": odd[0] if odd else [*quirks[0], *quirks[1]]}
        return cls.from_plain(data, name)

    @classmethod
    def from_plain(cls, data: Mapping[str, Any], source: str) -> Self:
        """Build a configuration from plain ``data`` (see :meth:`plain`); ``source`` names it in errors."""
        try:
            return _section(cls, data, "the configuration")
        except UsageError as error:
            raise FileError(f"{source}: {error}") from error

    def clear(self, registry: Registry, owners: Sequence[str]) -> Self:
        """Add the owner to each component name that several plugins have (:func:`.names.clear`)."""

        def cleared(section: Any) -> Any:
            named = attrs.asdict(section, recurse=False, filter=lambda _, value: isinstance(value, Spec))
            specs = {name: names.clear(registry, find_kind(name).name, spec, owners) for name, spec in named.items()}
            return attrs.evolve(section, **specs)

        return attrs.evolve(self, **{name: cleared(getattr(self, name)) for name in _SECTIONS.values()})

    def plain(self) -> dict[str, Any]:
        """The configuration as mappings, lists, numbers and strings, for YAML and JSON."""
        return {name: _plain(value) for name, value in attrs.asdict(self, recurse=False).items()}

    def to_yaml(self) -> str:
        """The YAML document of this configuration."""
        return document.dump({"format": FORMAT, **self.plain()})

    def override(self, assignments: Iterable[str]) -> Self:
        """Apply ``section.key=value`` in order, also to parameters of components: ``model.network.nf=32``."""
        data = self.plain()
        for assignment in assignments:
            _assign(data, assignment)
        return _section(type(self), data, "the configuration")


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Apply ``changes`` to ``base``, mappings key by key; a component of another name replaces the whole component."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        if both and value.get(_COMPONENT_KEY, old.get(_COMPONENT_KEY)) == old.get(_COMPONENT_KEY):  # type: ignore[union-attr]
            value = merge(old, value)  # type: ignore[arg-type]
        merged[key] = value
    return merged


_SECTIONS = {field.type: field.name for field in attrs.fields(Config) if field.type and attrs.has(field.type)}


def _read(folder: Traversable | Path, name: str) -> dict[str, Any]:
    try:
        data = document.load(inputs.text(folder / name))
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot read the preset {name} in {folder}: {error}") from error
    except yaml.YAMLError as error:
        raise FileError(f"{name}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise FileError(f"{name}: a preset must be a mapping with 'format: {FORMAT}' at the top")
    version = data.pop("format", None)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise FileError(f"{name}: 'format' must be {FORMAT}, got {version!r}")
    if version > FORMAT:
        raise FileError(f"{name}: has format {version}, this version reads {FORMAT}: upgrade scoresde")
    return data


def _section(cls: type[T], data: Any, label: str) -> T:
    if not isinstance(data, Mapping):
        raise UsageError(f"{label} must be a mapping, got {data!r}")
    if missing := [p.name for p in parameters(cls) if p.default is attrs.NOTHING and p.name not in data]:
        raise UsageError(f"{label} needs {', '.join(missing)}")
    return build(cls, dict(data), label, _convert)  # type: ignore[no-any-return]


def _convert(kind: type, value: Any) -> Any:
    if kind in _SECTIONS:
        return _section(kind, value, _SECTIONS[kind])
    if kind is Spec:
        return _component(value)
    raise TypeError


def _component(value: str | Mapping[str, Any]) -> Spec:
    if isinstance(value, str):
        return parse(value)
    name = value.get(_COMPONENT_KEY)
    if not isinstance(name, str):
        raise UsageError(f"a component must be a name, or a mapping with {_COMPONENT_KEY!r}; got {dict(value)!r}")
    return Spec(name, {key: _nested(item) for key, item in value.items() if key != _COMPONENT_KEY})


def _nested(value: Any) -> Any:
    """A parameter; if it is a component, in the form that is written back as it was read."""
    if not isinstance(value, Mapping) or _COMPONENT_KEY not in value:
        return value
    spec = _component(value)
    return spec if spec.params else spec.name


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return {_COMPONENT_KEY: value.name, **_plain(value.params)} if value.params else value.name
    if attrs.has(type(value)):
        value = attrs.asdict(value, recurse=False)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _assign(data: dict[str, Any], assignment: str) -> None:
    path, equals, text = assignment.partition("=")
    *parents, last = path.strip().split(".")
    if not equals or not last:
        raise UsageError(f"cannot read {assignment!r}: write section.key=value, such as training.batch_size=64")
    node = data
    for depth, key in enumerate(parents, 1):
        _known(node, key, path)
        child = node[key]
        if isinstance(child, str):  # a component given by its name alone
            child = _plain(parse(child))
            child = {_COMPONENT_KEY: child} if isinstance(child, str) else child
        if not isinstance(child, dict):
            raise UsageError(f"cannot apply {assignment!r}: {'.'.join(parents[:depth])} is {child!r} and has no keys")
        node[key] = child
        node = child
    if _COMPONENT_KEY not in node:  # parameters of a component are checked when it is built
        _known(node, last, path)
    node[last] = parse_value(text.strip())


def _known(node: dict[str, Any], key: str, path: str) -> None:
    if key not in node:
        raise UsageError(f"unknown configuration key {path!r}: there is no {key!r}.{near_misses(key, list(node))}")
