"""The small data sets of the literature, read by torchvision: each a tensor of at most a few hundred megabytes.

MNIST (LeCun et al. 1998), Fashion-MNIST (arXiv:1708.07747), CIFAR-10 (Krizhevsky 2009), SVHN (Netzer et al. 2011).
"""

from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.errors import FileError
from scoresde_run.data.dataset import Dataset, Split

DOWNLOAD_HELP = "let torchvision download it if it is missing"


def torchvision_datasets() -> ModuleType:
    """Return ``torchvision.datasets``; raise FileError with the repair if it cannot be imported."""
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError, OSError) as error:
        raise FileError(
            f"torchvision cannot be imported ({error}): it needs the full torch build, "
            "pip install --force-reinstall torch torchvision"
        ) from error
    loaded: ModuleType = datasets
    return loaded


@attrs.frozen
class VisionDataset(Dataset):
    """Base class: data sets that torchvision reads, and downloads if requested."""

    name: ClassVar[str]
    title: ClassVar[str]
    folder: ClassVar[str]
    """The folder of its files, below ``root``."""
    reader: ClassVar[str]
    """Its class in torchvision."""
    levels = 256

    root: str = param("data", "folder that contains it, or receives it")
    download: bool = param(False, DOWNLOAD_HELP)

    def fetch(self, reader: Any, split: Split) -> tuple[Tensor, Any]:
        """Return the images and their labels, from torchvision's class."""
        found = reader(self.root, train=split == "train", download=self.download)
        return found.data.unsqueeze(1), found.targets

    def files(self) -> list[Path]:
        """Return its own folder: ``root`` may contain others."""
        return [Path(self.root) / self.folder]

    def load(self, split: Split = "train") -> Tensor:
        return self._fetched(split)[0]

    def known(self, split: Split = "train") -> dict[str, Tensor]:
        return {"labels": torch.as_tensor(self._fetched(split)[1], dtype=torch.int64)}

    def _fetched(self, split: Split) -> tuple[Tensor, Any]:
        reader = getattr(torchvision_datasets(), self.reader)
        try:
            return self.fetch(reader, split)
        except ImportError as error:
            raise FileError(f"{self.title} needs {error.name}: pip install {error.name}") from error
        except Exception as error:  # torchvision's checks raise several kinds, and a damaged file fails in any way
            if self.download:
                raise FileError(f"{self.title} cannot be downloaded to {self.root!r}: {error}") from error
            raise FileError(
                f"{self.title} is not in {self.root!r}, or is damaged: give its folder, {self.name}[root=...], "
                f"or download it with {self.name}[download=true] (for scoresde train: --download)"
            ) from error


@attrs.frozen
class MNISTDataset(VisionDataset):
    """60,000 training and 10,000 test images of handwritten digits, (1, 28, 28)."""

    name, title, folder, reader = "mnist", "MNIST", "MNIST", "MNIST"
    shape = (1, 28, 28)


@attrs.frozen
class FashionMNISTDataset(VisionDataset):
    """60,000 training and 10,000 test images of clothes, (1, 28, 28)."""

    name, title, folder, reader = "fashion_mnist", "Fashion-MNIST", "FashionMNIST", "FashionMNIST"
    shape = (1, 28, 28)


@attrs.frozen
class CIFAR10Dataset(VisionDataset):
    """50,000 training and 10,000 test images of ten classes, (3, 32, 32)."""

    name, title, folder, reader = "cifar10", "CIFAR-10", "cifar-10-batches-py", "CIFAR10"
    shape = (3, 32, 32)

    def fetch(self, reader: Any, split: Split) -> tuple[Tensor, Any]:
        found = reader(self.root, train=split == "train", download=self.download)
        return torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous(), found.targets


@attrs.frozen
class SVHNDataset(VisionDataset):
    """73,257 training and 26,032 test crops of house numbers, (3, 32, 32)."""

    name, title, folder, reader = "svhn", "SVHN", "svhn", "SVHN"
    shape = (3, 32, 32)

    def fetch(self, reader: Any, split: Split) -> tuple[Tensor, Any]:
        """Return the images and their labels, from ``root/svhn``."""
        found = reader(str(Path(self.root) / "svhn"), split=split, download=self.download)
        return torch.from_numpy(found.data).contiguous(), found.labels
