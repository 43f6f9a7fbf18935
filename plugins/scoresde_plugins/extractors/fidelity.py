"""``inception``, ``vgg16`` and ``dinov2``: the published networks, as torch-fidelity builds them.

torch-fidelity's InceptionV3 is TensorFlow's of 2015, with its resize, so that values compare with published FIDs. The
weights are not part of this project. They come from a file, a download if requested, or torch's cache. In all cases
only tensors are read from the file, and the result records their hash.

Grey images are repeated into three channels.
"""

import io
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import attrs
import torch
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.errors import FileError
from scoresde_run.features.extractor import Extractor, Features
from scoresde_run.machine import inputs
from scoresde_run.models.checkpoint import file_hash


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
        """Refuse events that are not grey or colour images."""
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
        file = io.BytesIO()
        torch.save(self._state(), file)  # tensors only: torch-fidelity would unpickle anything
        file.seek(0)
        try:
            network = self.build(file).to(device)
        except ImportError as error:
            raise FileError(f"{self.title} needs torch-fidelity: pip install 'scoresde[metrics]' ({error})") from error
        except (RuntimeError, KeyError) as error:
            raise FileError(f"the weights {self.path()} do not fit {self.title}: {_first(error)}") from error

        def features(images: Tensor) -> Features:
            images = images.to(device)
            pooled, *logits = network(images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images)
            return Features(pooled.flatten(1), *logits)

        return features

    def path(self) -> Path:
        """Return the file of the weights, downloaded if requested; raise FileError if it is missing."""
        if self.weights is not None:
            if not Path(self.weights).is_file():
                raise FileError(
                    f"the file {self.weights} of the weights of {self.title} does not exist: get it from {self.url()}"
                )
            return Path(self.weights)
        cached = self._place()
        if cached.is_file():
            return cached
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
        """Return where the weights are, or will be."""
        if self.weights is not None:
            return Path(self.weights)
        return Path(torch.hub.get_dir()) / "checkpoints" / self.url().rsplit("/", 1)[1]

    def _state(self) -> Mapping[str, Any]:
        path = self.path()
        try:
            state: Mapping[str, Any] = inputs.unpickled(path)
        except FileError as error:
            raise FileError(f"cannot read the weights {path} of {self.title}: {error}") from error
        return state

    def protocol(self) -> Mapping[str, Any]:
        return {"extractor": self.name, "sha256": file_hash(self.path()), "resize": self.resize}


@attrs.frozen
class Inception(PublishedNetwork):
    """InceptionV3 of FID, KID and the inception score: 2048 pooled features, logits without bias."""

    name: ClassVar[str] = "inception"
    title: ClassVar[str] = "InceptionV3"
    resize: ClassVar[str] = "bilinear to 299 as in TensorFlow 1"
    address: ClassVar[str] = (
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
    )
    network: ClassVar[tuple[str, ...]] = (
        "feature_extractor_inceptionv3", "FeatureExtractorInceptionV3", "2048", "logits_unbiased",
    )  # fmt: skip


@attrs.frozen
class VGG16(PublishedNetwork):
    """VGG16 of precision and recall: 4096 features after the second fully connected layer (torch-fidelity 0.4)."""

    name: ClassVar[str] = "vgg16"
    title: ClassVar[str] = "VGG16"
    address: ClassVar[str] = "https://download.pytorch.org/models/vgg16-397923af.pth"
    network: ClassVar[tuple[str, ...]] = ("feature_extractor_vgg16", "FeatureExtractorVGG16", "fc2_relu")


@attrs.frozen
class DINOv2(PublishedNetwork):
    """DINOv2 of FD-DINOv2 (arXiv:2306.04675): the class token, 1024 features for ``vitl14`` (torch-fidelity 0.4).

    Its code is a separate repository, facebookresearch/dinov2: ``checkout`` is a folder that holds it, by default
    torch.hub's copy, which ``download=true`` makes. Downloaded code is executed: download it once, and review it.
    """

    name: ClassVar[str] = "dinov2"
    title: ClassVar[str] = "DINOv2"

    model: Literal["vits14", "vitb14", "vitl14", "vitg14"] = param("vitl14", "size of the transformer")
    checkout: str | None = param(None, "folder of a checkout of facebookresearch/dinov2; null: torch.hub's copy")

    def url(self) -> str:
        return f"https://dl.fbaipublicfiles.com/dinov2/dinov2_{self.model}/dinov2_{self.model}_pretrain.pth"

    def build(self, state: io.BytesIO) -> Any:
        """Return torch-fidelity's resize and normalisation around the transformer."""
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

    def _transformer(self) -> torch.nn.Module:
        copy = self._code()
        name, hub_load = f"dinov2_{self.model}", cast(Callable[..., torch.nn.Module], torch.hub.load)
        if not (copy / "hubconf.py").is_file() and self.checkout is None and self.download:
            fetched: torch.nn.Module = hub_load("facebookresearch/dinov2", name, pretrained=False)
            return fetched
        if not (copy / "hubconf.py").is_file():
            raise FileError(
                f"the code of DINOv2 is not in {copy}: clone https://github.com/facebookresearch/dinov2 and give its "
                "folder, dinov2[checkout=FOLDER,weights=FILE], or download both with dinov2[download=true]"
            )
        found: torch.nn.Module = hub_load(str(copy), name, source="local", pretrained=False)
        return found

    def protocol(self) -> Mapping[str, Any]:
        return {**super().protocol(), "model": self.model}


def _first(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
