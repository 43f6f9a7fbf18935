"""The configuration of a model: what it is, how it is trained, and how it is sampled from; as YAML, a preset.

    format: 1
    inherits: base_cifar10_vp.yaml       # a file in the same folder, of which this one gives the differences
    source: where these numbers were published
    quirks: [what was resolved, and how]
    model:
      network: {name: ncsnpp, nf: 128, fir: false}
      sde: vp                            # a component: its name, name[key=value], or a mapping with its name
      shape: [3, 32, 32]
    training: {batch_size: 128, learning_rate: 2e-4}
    sampling: {sampler: "pc[predictor=ancestral_sampling,steps=1000]"}

Every key has a default but ``network``, ``sde`` and ``shape``; unknown keys list near misses. ``inherits`` goes one
level deep. Where both files name the same component its parameters are merged; another name replaces the whole; quirks
add up.
Reading a configuration imports no component: names are looked up by whoever builds from it, such as
:mod:`scoresde_run.models.model`. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import attrs
import yaml
from attrs.validators import and_, deep_iterable, ge, gt, lt, optional

from scoresde_core import document
from scoresde_core.components import Spec, build, param, parameters, parse, parse_value
from scoresde_core.errors import FileError, UsageError, near_misses

if TYPE_CHECKING:
    from scoresde_core.registry import Registry

FORMAT = 1
_COMPONENT_KEY = "name"
RECORDED = ("levels", "shift", "scale")
"""Keys of ``model`` that training finds out."""
Numbers = float | tuple[float, ...]


@attrs.frozen
class ModelConfig:
    """A network, the SDE that gives its output a meaning, and the data that both are for.

    Training finds out ``levels``, ``shift`` and ``scale`` and records them here, for all who use the model
    (:class:`~scoresde_core.units.Units`).
    """

    network: Spec = param(help="the network")
    sde: Spec = param(help="the forward process")
    shape: tuple[int, ...] = param(help="shape of one event: [channels, height, width]", check=deep_iterable(ge(1)))
    centered: bool = param(True, "images in [-1, 1]; false: in [0, 1]. Networks that ask are told")
    levels: int | Literal["auto"] | None = param(
        "auto", "grey levels of the images; null: floats; auto: not recorded, so the data set says"
    )
    shift: tuple[float, ...] = param((0.0,), "what is subtracted from the data: one number, or one a channel or column")
    scale: tuple[float, ...] = param((1.0,), "what they are divided by after that", deep_iterable(gt(0)))


@attrs.frozen
class TrainingConfig:
    """The loss and its minimisation."""

    loss: Spec = param(Spec("dsm"), "what is minimised; smld and ddpm get the network's number of noise scales")
    batch_size: int = param(128, "events a step, over all processes", ge(1))
    iterations: int = param(1_300_000, "optimiser steps", ge(1))
    accumulate: int = param(1, "parts a batch is split into, one after another, to fit into memory", ge(1))
    optimizer: Literal["adam", "adamw"] = param("adam", "adamw: weight decay apart from the gradient")
    learning_rate: float = param(2e-4, "of Adam, after the warm-up", gt(0))
    betas: tuple[float, float] = param((0.9, 0.999), "of Adam", deep_iterable(and_(ge(0), lt(1))))
    adam_eps: float = param(1e-8, "of Adam", gt(0))
    weight_decay: float = param(0.0, "L2 penalty; decoupled under adamw", ge(0))
    warmup: int = param(5000, "steps over which the learning rate rises from 0; 0: none", ge(0))
    gradient_clip: float | None = param(1.0, "largest gradient norm over all parameters; null: none", optional(gt(0)))
    ema: float | None = param(0.9999, "rate of the averaged weights; null: none", optional(and_(gt(0), lt(1))))
    ema_warmup: bool = param(False, "after n steps the rate is at most (1 + n) / (10 + n)")
    precision: Literal["float32", "bfloat16", "float16"] = param("float32", "of the network's arithmetic (autocast)")
    compile: bool = param(False, "compile the network")
    channels_last: bool = param(False, "channels last in memory, for convolutions on a GPU")
    deterministic: bool = param(False, "on a GPU: the same bits in every run, where need be by slower kernels")
    log_every: int = param(50, "steps between two logged losses", ge(1))
    evaluate_every: int | None = param(
        100, "steps between two test losses of the averaged weights; null: none", optional(ge(1))
    )
    evaluate_batches: int = param(1, "batches of the test split behind it", ge(1))
    resume_every: int = param(10_000, "steps between two saves of the whole training state", ge(1))
    keep: int = param(3, "number of such saves kept, the newest", ge(1))
    snapshot_every: int = param(50_000, "steps between two models, with a picture of samples, that are kept", ge(1))
    seed: int = param(42, "of weights, order of the data, times and noise", ge(0))


@attrs.frozen
class DataConfig:
    """The training data. A data set is looked up when training starts, not before."""

    dataset: Spec | None = param(None, "the data set; its images are brought to the model's shape")
    random_flip: bool = param(True, "mirror training images at random")
    dequantizer: Spec | None = param(None, "from 256 values to a density; null: none in training")
    workers: int = param(4, "processes that decode what does not fit on the device", ge(0))
    standardise: bool = param(False, "bring each channel or column to mean 0 and variance 1, as the training split has")
    shift: Numbers | None = param(None, "subtract this: one number, or one a channel or column; null: nothing")
    scale: Numbers | None = param(None, "divide by this after that, one number or several; null: by nothing")

    def __attrs_post_init__(self) -> None:
        if self.standardise and not (self.shift is None and self.scale is None):
            raise ValueError("standardise finds shift and scale itself: leave them out, or standardise")
        given = self.scale if isinstance(self.scale, tuple) else () if self.scale is None else (self.scale,)
        if not all(value > 0 for value in given):
            raise ValueError(f"scale must be above 0, got {self.scale}")


@attrs.frozen
class SamplingConfig:
    """How samples are drawn unless the caller says otherwise."""

    sampler: Spec = param(Spec("pc"), "the loop, with its parts and its number of steps")
    t_min: float | None = param(None, "smallest time of sampling; null: the SDE's", optional(and_(gt(0), lt(1))))
    n: int = param(64, "number of samples", ge(1))


@attrs.frozen
class EvaluationConfig:
    """What was measured of the published model, and from which of its checkpoints."""

    samples: int = param(50_000, "number of samples behind FID and the like", ge(1))
    batch_size: int = param(1024, "events at a time", ge(1))
    first_checkpoint: int = param(1, "first checkpoint looked at, counted in snapshots", ge(0))
    last_checkpoint: int = param(26, "last checkpoint looked at", ge(0))
    likelihood: bool = param(False, "bits per dimension as well, with uniform dequantisation")
    split: Literal["train", "test"] = param("test", "the images of the likelihood")
    repeats: int = param(5, "passes over these images, each with its own noise", ge(1))
    offset: bool = param(False, "the likelihood bound counts the step from t_min to the data")


@attrs.frozen
class Config:
    """One configuration, whole: a preset, or what a checkpoint was made from."""

    model: ModelConfig = param(help="network, SDE, data range")
    training: TrainingConfig = param(attrs.Factory(TrainingConfig), "loss and optimiser")
    data: DataConfig = param(attrs.Factory(DataConfig), "training data")
    sampling: SamplingConfig = param(attrs.Factory(SamplingConfig), "how samples are drawn")
    evaluation: EvaluationConfig = param(attrs.Factory(EvaluationConfig), "what is measured")
    source: str = param("", "where these numbers come from")
    quirks: tuple[str, ...] = param((), "what the source says in two ways or does not say, and what was decided")

    @classmethod
    def read(cls, folder: Traversable | Path, name: str) -> Self:
        """The configuration in the file ``name`` of ``folder``, a directory or a package's resources."""
        data = _read(folder, name)
        inherited = data.pop("inherits", None)
        if inherited is not None:
            if not isinstance(inherited, str) or "/" in inherited:
                raise FileError(f"{name}: inherits must name a file in the same folder, got {inherited!r}")
            base = _read(folder, inherited)
            if "inherits" in base:
                raise FileError(f"{name}: {inherited} inherits from another file itself: one level is all there is")
            quirks = [part.get("quirks", []) for part in (base, data)]
            odd = [found for found in quirks if not isinstance(found, list)]
            data = {**merge(base, data), "quirks": odd[0] if odd else [*quirks[0], *quirks[1]]}
        return cls.from_plain(data, name)

    @classmethod
    def from_plain(cls, data: Mapping[str, Any], source: str) -> Self:
        """The configuration in plain ``data``, as of :meth:`plain`; ``source`` names it in errors."""
        try:
            config: Self = _section(cls, dict(data), "the configuration")
        except UsageError as error:
            raise FileError(f"{source}: {error}") from error
        return config

    def clear(self, registry: Registry, owners: Sequence[str]) -> Self:
        """This configuration with the owners of names that several plugins have (:meth:`Registry.clear`)."""

        def cleared(section: Any) -> Any:
            named = {name: getattr(section, name) for name in _KINDS if isinstance(getattr(section, name, None), Spec)}
            specs = {name: registry.clear(_KINDS[name], spec, owners) for name, spec in named.items()}
            return attrs.evolve(section, **specs)

        return attrs.evolve(self, **{name: cleared(getattr(self, name)) for name in _SECTIONS.values()})

    def plain(self) -> dict[str, Any]:
        """Mappings, lists, numbers and words, for YAML and JSON."""
        plain: dict[str, Any] = _plain(self)
        return plain

    def to_yaml(self) -> str:
        """A document that rebuilds this configuration."""
        return document.dump({"format": FORMAT, **self.plain()})

    def override(self, assignments: Iterable[str]) -> Self:
        """This configuration with ``section.key=value`` applied, in order; keys reach into components.

        ``training.batch_size=64``, ``model.network.nf=32``, ``sampling.sampler=ode``.
        """
        data = self.plain()
        for assignment in assignments:
            _assign(data, assignment)
        changed: Self = _section(type(self), data, "the configuration")
        return changed


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` applied, mappings key by key; a component of another name replaces the whole."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        if both and value.get(_COMPONENT_KEY, old.get(_COMPONENT_KEY)) == old.get(_COMPONENT_KEY):  # type: ignore[union-attr]
            value = merge(old, value)  # type: ignore[arg-type]
        merged[key] = value
    return merged


_SECTIONS: dict[type, str] = {
    ModelConfig: "model",
    TrainingConfig: "training",
    DataConfig: "data",
    SamplingConfig: "sampling",
    EvaluationConfig: "evaluation",
}


_KINDS = {
    **{"network": "networks", "sde": "sdes", "loss": "losses", "dataset": "datasets"},
    **{"dequantizer": "dequantizers", "sampler": "samplers"},
}
"""Of the components that the sections name."""


def _read(folder: Traversable | Path, name: str) -> dict[str, Any]:
    """The mapping in a file, after a look at its format."""
    try:
        data = document.load((folder / name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot read the preset {name} in {folder}: {error}") from error
    except yaml.YAMLError as error:
        raise FileError(f"{name}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise FileError(f"{name}: a preset is a mapping with 'format: {FORMAT}' at the top")
    version = data.pop("format", None)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise FileError(f"{name}: 'format' must be {FORMAT}, got {version!r}")
    if version > FORMAT:
        raise FileError(f"{name}: has format {version}, this version reads {FORMAT}: upgrade scoresde")
    return data


def _section(cls: type, data: Any, label: str) -> Any:
    if not isinstance(data, Mapping):
        raise UsageError(f"{label} must be a mapping of its keys, got {data!r}")
    missing = [p.name for p in parameters(cls) if p.default is attrs.NOTHING and p.name not in data]
    if missing:
        raise UsageError(f"{label} needs {', '.join(missing)}")
    return build(cls, dict(data), label, _convert)


def _convert(kind: type, value: Any) -> Any:
    """A section from its mapping, or a component as it is written."""
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
        raise UsageError(f"a component is its name, or a mapping with its {_COMPONENT_KEY}; got {dict(value)!r}")
    return Spec(name, {key: _nested(item) for key, item in value.items() if key != _COMPONENT_KEY})


def _nested(value: Any) -> Any:
    """A parameter: where it is a component, in the one form that is written back as it was read."""
    if not isinstance(value, Mapping):
        return value
    spec = _component(value)
    return spec if spec.params else spec.name


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return {_COMPONENT_KEY: value.name, **_plain(value.params)} if value.params else value.name
    if attrs.has(type(value)):
        return {field.name: _plain(getattr(value, field.name)) for field in attrs.fields(type(value))}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _assign(data: dict[str, Any], assignment: str) -> None:
    """Apply one ``section.key=value`` to plain ``data``."""
    path, equals, text = assignment.partition("=")
    *parents, last = path.strip().split(".")
    if not equals or not last:
        raise UsageError(f"cannot read {assignment!r}: write section.key=value, such as training.batch_size=64")
    node = data
    for depth, key in enumerate(parents, 1):
        _known(node, key, path)
        child = node[key]
        if isinstance(child, str):  # a component that was given by its name alone
            child = _plain(parse(child))
            child = {_COMPONENT_KEY: child} if isinstance(child, str) else child
        if not isinstance(child, dict):
            raise UsageError(f"cannot apply {assignment!r}: {'.'.join(parents[:depth])} is {child!r} and has no keys")
        node[key] = child
        node = child
    if _COMPONENT_KEY not in node:  # a component knows its parameters itself
        _known(node, last, path)
    node[last] = parse_value(text.strip())


def _known(node: dict[str, Any], key: str, path: str) -> None:
    if key not in node:
        raise UsageError(f"there is no {path!r} in a configuration: {key!r} is unknown.{near_misses(key, list(node))}")
