"""Networks whose activations are features: the published ones, and small classifiers trained on the data themselves.

torch-fidelity builds ``inception``, ``vgg16`` and ``dinov2``. Its InceptionV3 is TensorFlow's of 2015, with its resize,
so that values compare with published FIDs. The weights are not part of this project. They come from a file, a download
if requested, or torch's cache. In all cases only tensors are read from the file, and the result records their hash.
Grey images are repeated into three channels.

They were trained on photographs of ImageNet, so what they see in digits, or in any other kind of image, is arbitrary. A
classifier of the data set itself (``classifier``, ``mnist_classifier``) separates its images, needs no download and
costs a thousandth. Its values compare samplers and models of one data set, and nothing else.
"""

import io
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from scoresde_core import FileError, param
from scoresde_run import Extractor, Features
from scoresde_run.machine import inputs
from scoresde_run.models.checkpoint import file_hash
from ..tensor_file import Format


@attrs.frozen
class PublishedNetwork(Extractor):
    """Base class: weights from a file, torch's cache or, if requested, a download."""

    title: ClassVar[str]
    resize: ClassVar[str] = "bilinear to 224 as in TensorFlow 1"
    address: ClassVar[str] = ""
    network: ClassVar[tuple[str, ...]] = ()
    """torch-fidelity's module and class, and the requested outputs: features, and logits if there are any."""

    weights: str | None = param(None, "file of the weights; null: torch's cache")
    download: bool = param(False, "download missing weights into torch's cache")

    def skip(self, shape: tuple[int, ...]) -> str | None:
        if len(shape) == 3 and shape[0] in (1, 3):
            return None
        return f"{self.name} reads images of 1 or 3 channels, and these events have shape {tuple(shape)}"

    def url(self) -> str:
        """Return the address of the weights."""
        return self.address

    def build(self, state: io.BytesIO) -> Any:
        """Return torch-fidelity's network with the weights in a file."""
        module, name, *outputs = self.network
        made = getattr(import_module(f"torch_fidelity.{module}"), name)
        return made(self.name, outputs, feature_extractor_weights_path=state)

    def load(self, device: torch.device) -> Callable[[Tensor], Features]:
        """Return the network on ``device``; raise FileError if the weights or torch-fidelity are missing."""
        path, file = self.path(), io.BytesIO()
        try:
            torch.save(inputs.unpickled(path), file)  # tensors only: torch-fidelity would unpickle anything
        except FileError as error:
            raise FileError(f"cannot read the weights {path} of {self.title}: {error}") from error
        file.seek(0)
        try:
            network = self.build(file).to(device)
        except ImportError as error:
            raise FileError(f"{self.title} needs torch-fidelity: pip install 'scoresde[metrics]' ({error})") from error
        except (RuntimeError, KeyError) as error:
            raise FileError(f"the weights {path} do not fit {self.title}: {_first(error)}") from error

        def features(images: Tensor) -> Features:
            images = images.to(device)
            pooled, *logits = network(images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images)
            return Features(pooled.flatten(1), *logits)

        return features

    def path(self) -> Path:
        """Return the file of the weights, downloaded if requested; raise FileError if it is missing."""
        cached = self._place()
        if cached.is_file():
            return cached
        if self.weights is not None:
            why = f"the file {self.weights} of the weights of {self.title} does not exist: get it from {self.url()}"
            raise FileError(why)
        if not self.download:
            raise FileError(
                f"the weights of {self.title} are not in {cached}: download them with "
                f"{self.name}[download=true], or get {self.url()} and give its path, {self.name}[weights=FILE]"
            )
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            # Some published names end in the first digits of the file's hash.
            digest = cached.stem.rsplit("-", 1)[1] if "-" in cached.stem else None
            torch.hub.download_url_to_file(self.url(), str(cached), digest, progress=False)
        except (OSError, RuntimeError) as error:
            raise FileError(
                f"cannot download {self.url()} ({_first(error)}): get it elsewhere and give its path, "
                f"{self.name}[weights=FILE]"
            ) from error
        return cached

    def files(self) -> list[Path]:
        """Return the file of the weights."""
        return [self._place()]

    def _place(self) -> Path:
        if self.weights is not None:
            return Path(self.weights)
        return Path(torch.hub.get_dir()) / "checkpoints" / self.url().rsplit("/", 1)[1]

    def protocol(self) -> Mapping[str, Any]:
        return {"extractor": self.name, "sha256": file_hash(self.path()), "resize": self.resize}


@attrs.frozen
class Inception(PublishedNetwork):
    """InceptionV3 of FID, KID and the inception score: 2048 pooled features, logits without bias."""

    name, title, resize = "inception", "InceptionV3", "bilinear to 299 as in TensorFlow 1"
    address: ClassVar[str] = (
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
    )
    network = ("feature_extractor_inceptionv3", "FeatureExtractorInceptionV3", "2048", "logits_unbiased")


@attrs.frozen
class VGG16(PublishedNetwork):
    """VGG16 of precision and recall: 4096 features after the second fully connected layer (torch-fidelity 0.4)."""

    name, title = "vgg16", "VGG16"
    address: ClassVar[str] = "https://download.pytorch.org/models/vgg16-397923af.pth"
    network: ClassVar[tuple[str, ...]] = ("feature_extractor_vgg16", "FeatureExtractorVGG16", "fc2_relu")


@attrs.frozen
class DINOv2(PublishedNetwork):
    """DINOv2 of FD-DINOv2 (arXiv:2306.04675): the class token, 1024 features for ``vitl14`` (torch-fidelity 0.4).

    Its code is a separate repository, facebookresearch/dinov2: ``checkout`` is a folder that holds it, by default
    torch.hub's copy, which ``download=true`` makes. Downloaded code is executed: download it once, and review it.
    """

    name, title = "dinov2", "DINOv2"

    model: Literal["vits14", "vitb14", "vitl14", "vitg14"] = param("vitl14", "size of the transformer")
    checkout: str | None = param(None, "folder of a checkout of facebookresearch/dinov2; null: torch.hub's copy")

    def url(self) -> str:
        return f"https://dl.fbaipublicfiles.com/dinov2/dinov2_{self.model}/dinov2_{self.model}_pretrain.pth"

    def build(self, state: io.BytesIO) -> Any:
        from torch_fidelity.feature_extractor_base import FeatureExtractorBase
        from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

        transformer = self._transformer()
        transformer.load_state_dict(torch.load(state, weights_only=True))

        class Network(FeatureExtractorDinoV2):  # type: ignore[misc]
            """Built around a loaded transformer: the original would download one."""

            def __init__(self) -> None:
                FeatureExtractorBase.__init__(self, "dinov2", ["dinov2"])
                self.feature_extractor_internal_dtype = torch.float32
                self.model = transformer

        return Network().eval().requires_grad_(False)

    def files(self) -> list[Path]:
        return [*super().files(), self._code()]

    def _code(self) -> Path:
        return Path(self.checkout or Path(torch.hub.get_dir()) / "facebookresearch_dinov2_main")

    def _transformer(self) -> nn.Module:
        copy, source = self._code(), "local"
        if not (copy / "hubconf.py").is_file():
            if self.checkout is not None or not self.download:
                raise FileError(
                    f"the code of DINOv2 is not in {copy}: clone https://github.com/facebookresearch/dinov2 and give "
                    "its folder, dinov2[checkout=FOLDER,weights=FILE], or download both with dinov2[download=true]"
                )
            copy, source = Path("facebookresearch/dinov2"), "github"
        found: nn.Module = torch.hub.load(copy.as_posix(), f"dinov2_{self.model}", source=source, pretrained=False)  # type: ignore[no-untyped-call]
        return found

    def protocol(self) -> Mapping[str, Any]:
        return {**super().protocol(), "model": self.model}


def _first(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


FORMAT = Format("scoresde.classifier", 1, "a trained classifier")
MNIST_FILE = Path(__file__).with_name("mnist_classifier.safetensors")
LAYERS = ((16, 1), (32, 2), (48, 1), (64, 2), (96, 1))  # channels and stride of each convolution


class ConvolutionalClassifier(nn.Module):
    """Grey levels (B, C, H, W), uint8, to :class:`Features`; channels are standardised by the data's mean and std.

    Five 3 x 3 convolutions with batch normalisation; features: the 96 means over the last map; logits: linear in them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))
        layers, width = list[nn.Module](), channels
        for outputs, stride in LAYERS:
            convolution = nn.Conv2d(width, outputs, 3, stride, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            width = outputs
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Features:
        """Return features (B, 96) and logits (B, classes)."""
        pooled = self.layers((images.float() - self.mean) / self.std).mean((2, 3))
        return Features(pooled, self.head(pooled))


@attrs.frozen
class Classifier(Extractor):
    """The trained classifier in ``file``, as ``docs/pictures/train_classifier.py`` writes it.

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
        raise FileError(f"{path} does not exist: train a classifier with docs/pictures/train_classifier.py {path}")
    try:
        weights, metadata = FORMAT.read(path)
        shape, classes = inputs.loads(metadata["shape"]), len(weights["head.bias"])
        expected = {k: v.shape for k, v in ConvolutionalClassifier(shape[0], classes).state_dict().items()}
        if {k: v.shape for k, v in weights.items()} != expected:
            raise ValueError("its weights do not fit the network")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} is damaged ({error}): train it again or restore it from its source") from error
    return weights, metadata
