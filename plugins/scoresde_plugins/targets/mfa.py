"""``mfa`` and ``mnist_mfa``: mixtures of factor analysers that were fitted to data, read from a file.

The bundled file was fitted to the 60,000 training images of MNIST (LeCun et al. 1998); docs/targets.md has its
settings, its held-out likelihood and the command that reproduces it.
"""

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import attrs
from scoresde_core import param
from .mfa_file import load
from .mixture import MixtureOfFactorAnalysers, MixtureTarget

MNIST_FILE = Path(__file__).with_name("mnist_mfa.safetensors")


@attrs.frozen
class MFATarget(MixtureTarget):
    """The mixture of factor analysers in ``file``, as ``scoresde_plugins.targets.mfa_fit.save`` writes it.

    A file that is missing, damaged, of another format or of a newer version raises ``FileError``.
    """

    example: ClassVar = {"file": str(MNIST_FILE)}  # for the conformance suite

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

    file: str = attrs.field(default=str(MNIST_FILE), init=False, repr=False)
