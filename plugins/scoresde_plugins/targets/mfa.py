"""``mfa``, ``mnist_mfa`` and ``cifar10_mfa``: mixtures of factor analysers that were fitted to data, and their files.

A file is safetensors: ``weights`` (K,) float64, ``means`` (K, D) float32, ``factors`` (K, q, D) float16, ``noise``
(D,) float32, the variances psi. The rounded parameters are the target: every number in the metadata was measured with
them. Metadata is text; its ``report`` of the fit is JSON, which may gain entries within a version.

The bundled files were fitted to MNIST (LeCun et al. 1998) and to CIFAR-10 (Krizhevsky 2009), the latter recompressed
as JPEG; docs/targets.md has their settings, held-out likelihoods and the commands that reproduce them.
"""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from safetensors import SafetensorError
from scoresde_core import Estimate, FileError, param
from scoresde_run.machine import inputs
from ..tensor_file import Format
from .mixture import MixtureOfFactorAnalysers, MixtureTarget

FORMAT = Format("scoresde.mfa", 1, "a fitted mixture of factor analysers")
DTYPES = {"weights": torch.float64, "means": torch.float32, "factors": torch.float16, "noise": torch.float32}


def bundled(name: str) -> str:
    """Return the path of the file that ships with the target ``name``."""
    return str(Path(__file__).with_name(f"{name}.safetensors"))


def rounded(target: MixtureOfFactorAnalysers) -> MixtureOfFactorAnalysers:
    """Return ``target`` with the precision of its file, without a known entropy."""
    kept = {name: getattr(target, name).to(dtype) for name, dtype in DTYPES.items()}
    return attrs.evolve(target, **kept, known_entropy=None)


def write(path: str | Path, target: MixtureOfFactorAnalysers, report: Mapping[str, Any], asked: str = "") -> None:
    """Write ``target``, its entropy and ``report`` (JSON values: settings, data, held-out likelihood) to ``path``.

    ``asked`` is the request of the command.

    A target that is not :func:`rounded` raises ``ValueError``, an existing or unwritable file ``FileError``.
    """
    path = Path(path)
    if path.exists():
        raise FileError(f"{path} exists: remove it or choose another name")
    tensors = {name: getattr(target, name).to("cpu", dtype).contiguous() for name, dtype in DTYPES.items()}
    if any(not torch.equal(tensors[name].double(), getattr(target, name).cpu()) for name in DTYPES):
        raise ValueError("the target has more digits than its file can hold: save rounded(target)")
    entropy = target.entropy()
    metadata = {"shape": json.dumps(target.shape), "report": json.dumps(dict(report))}
    metadata |= {"entropy": repr(entropy.value), "entropy_stderr": repr(entropy.stderr)}
    FORMAT.write(path, tensors, metadata | ({"asked": asked} if asked else {}))


def load(path: str | Path) -> tuple[MixtureOfFactorAnalysers, dict[str, Any]]:
    """Return the target in ``path`` and its report; raise FileError if the file cannot be used."""
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{path} does not exist: give the path of a fitted mixture of factor analysers")
    try:
        tensors, metadata = FORMAT.read(path)
        parameters: dict[str, Any] = {name: tensors[name] for name in DTYPES}
        entropy = Estimate(float(metadata["entropy"]), float(metadata["entropy_stderr"]))
        shape = tuple(inputs.loads(metadata["shape"]))
        target = MixtureOfFactorAnalysers(**parameters, shape=shape, known_entropy=entropy)
        report: dict[str, Any] = inputs.loads(metadata["report"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} is damaged ({error}): fit it again or restore it from its source") from error
    return target, report


@attrs.frozen
class MFATarget(MixtureTarget):
    """The mixture of factor analysers in ``file``, as ``scoresde_plugins.targets.mfa_fit.save`` writes it.

    A file that is missing, damaged, of another format or of a newer version raises ``FileError``.
    """

    example: ClassVar = {"file": bundled("mnist_mfa")}  # for the conformance suite

    file: str = param(help="path of a fitted mixture (safetensors)")

    def __attrs_post_init__(self) -> None:
        self.mixture  # noqa: B018  # refuse an unusable file before any work starts

    @cached_property
    def _loaded(self) -> tuple[MixtureOfFactorAnalysers, dict[str, Any]]:
        return load(self.file)

    @property
    def report(self) -> dict[str, Any]:
        """The settings of the fit, its data set, and its held-out likelihood in nats per image."""
        return self._loaded[1]

    @property
    def images(self) -> bool:
        """Whether it was fitted to images, which are scaled to [-1, 1]."""
        return len(self.shape) == 3

    def build(self) -> MixtureOfFactorAnalysers:
        return self._loaded[0]


@attrs.frozen
class MNISTMFATarget(MFATarget):
    """Handwritten digits: a mixture of factor analysers fitted to MNIST, events of shape (1, 28, 28) on [-1, 1]."""

    file: str = attrs.field(default=bundled("mnist_mfa"), init=False, repr=False)


@attrs.frozen
class CIFAR10MFATarget(MFATarget):
    """Colour images: a mixture of factor analysers fitted to CIFAR-10, events of shape (3, 32, 32) on [-1, 1]."""

    file: str = attrs.field(default=bundled("cifar10_mfa"), init=False, repr=False)
