"""``classifier`` and ``mnist_classifier``: features of a small classifier trained on the data themselves.

The published networks were trained on photographs of ImageNet, so what they see in digits, or in any other kind of
image, is arbitrary. A classifier of the data set itself separates its images, needs no download and costs a thousandth.
Its values compare samplers and models of one data set, and nothing else.

The network has five 3 x 3 convolutions with batch normalisation, of 16, 32, 48, 64 and 96 channels, the second and
fourth of stride 2. The features are the 96 means over the last map, and the logits a linear function of them.
"""

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from scoresde_core.components import param
from scoresde_core.errors import FileError
from scoresde_run.features.extractor import Extractor, Features
from scoresde_run.machine import inputs
from scoresde_run.models.checkpoint import file_hash

from ..tensor_file import Format

FORMAT = Format("scoresde.classifier", 1, "a trained classifier")
MNIST_FILE = Path(__file__).with_name("mnist_classifier.safetensors")
LAYERS = ((16, 1), (32, 2), (48, 1), (64, 2), (96, 1))
"""Channels and stride of each convolution."""


class ConvolutionalClassifier(nn.Module):
    """Grey levels (B, C, H, W), uint8, to :class:`Features`; channels are standardised by the data's mean and std."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))
        layers: list[nn.Module] = []
        width = channels
        for outputs, stride in LAYERS:
            layers += [
                nn.Conv2d(width, outputs, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
            width = outputs
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Features:
        """Return features (B, 96) and logits (B, classes)."""
        pooled = self.layers((images.float() - self.mean) / self.std).mean((2, 3))
        return Features(pooled, self.head(pooled))


@attrs.frozen
class Classifier(Extractor):
    """The trained classifier in ``file``, as ``benchmarks/studies/truth/train_classifier.py`` writes it.

    A file that is missing, damaged, of another format or of a newer version raises ``FileError``.
    """

    example: ClassVar = {"file": str(MNIST_FILE)}  # for the conformance suite
    name: ClassVar[str] = "classifier"

    file: str = param(help="path of a trained classifier (safetensors)")

    def __attrs_post_init__(self) -> None:
        self._stored  # noqa: B018  # refuse an unusable file before any work starts

    @cached_property
    def _stored(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        return _read(Path(self.file))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the training images."""
        return tuple(json.loads(self._stored[1]["shape"]))

    @property
    def report(self) -> dict[str, Any]:
        """What it was trained on, how, and its accuracy on the test images."""
        report: dict[str, Any] = json.loads(self._stored[1]["report"])
        return report

    def skip(self, shape: tuple[int, ...]) -> str | None:
        """Images of another shape than the training images'."""
        if tuple(shape) == self.shape:
            return None
        return f"{self.name} reads images of shape {self.shape}, these have {tuple(shape)}"

    def load(self, device: torch.device) -> Callable[[Tensor], Features]:
        weights = self._stored[0]
        network = ConvolutionalClassifier(self.shape[0], len(weights["head.bias"]))
        network.load_state_dict(weights)
        network.to(device).eval().requires_grad_(False)
        return lambda images: network(images.to(device))

    def protocol(self) -> Mapping[str, Any]:
        digest = file_hash(Path(self.file))
        return {"extractor": self.name, "sha256": digest, "resize": None, "trained_on": self.report["dataset"]}


@attrs.frozen
class MNISTClassifier(Classifier):
    """The bundled classifier of handwritten digits: 99.4 % correct on the test images, 96 features."""

    name: ClassVar[str] = "mnist_classifier"

    file: str = attrs.field(default=str(MNIST_FILE), init=False, repr=False)


def write(path: Path, network: ConvolutionalClassifier, shape: tuple[int, ...], report: Mapping[str, Any]) -> None:
    """Write a trained ``network`` for images of ``shape`` to ``path``, with its ``report``."""
    FORMAT.write(path, network.state_dict(), {"shape": json.dumps(shape), "report": json.dumps(report)})


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise FileError(
            f"{path} does not exist: train a classifier with benchmarks/studies/truth/train_classifier.py {path}"
        )
    try:
        weights, metadata = FORMAT.read(path)
        shape, classes = inputs.loads(metadata["shape"]), len(weights["head.bias"])
        expected = {k: v.shape for k, v in ConvolutionalClassifier(shape[0], classes).state_dict().items()}
        if {k: v.shape for k, v in weights.items()} != expected:
            raise ValueError("its weights do not fit the network")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} is damaged ({error}): train it again or restore it from its source") from error
    return weights, metadata
