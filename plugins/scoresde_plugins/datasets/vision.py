"""The small data sets of the literature, through torchvision: each a tensor of a few hundred megabytes at most.

MNIST (LeCun et al. 1998), Fashion-MNIST (arXiv:1708.07747), CIFAR-10 (Krizhevsky 2009), SVHN (Netzer et al. 2011).
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.dataset import Dataset, Split
from scoresde_core.errors import FileError


def torchvision_datasets() -> ModuleType:
    """``torchvision.datasets``, or an error that says how to repair the installation."""
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
    """What they share: a folder, and no download unless it is asked for."""

    name: ClassVar[str]
    title: ClassVar[str]
    folder: ClassVar[str]
    """Of its files, below ``root``."""
    levels = 256

    root: str = param("data", "folder that holds it, or will after a download")
    download: bool = param(False, "let torchvision download it where it is missing")

    @abstractmethod
    def fetch(self, datasets: Any, split: Split) -> tuple[Tensor, Any]:
        """The images and their labels, from torchvision's class."""

    def files(self) -> list[Path]:
        """Its own folder: others lie beside it."""
        return [Path(self.root) / self.folder]

    def load(self, split: Split = "train") -> Tensor:
        """uint8 (N, C, H, W)."""
        return self._fetched(split)[0]

    def known(self, split: Split = "train") -> dict[str, Tensor]:
        """The labels."""
        return {"labels": torch.as_tensor(self._fetched(split)[1], dtype=torch.int64)}

    def _fetched(self, split: Split) -> tuple[Tensor, Any]:
        datasets = torchvision_datasets()
        try:
            return self.fetch(datasets, split)
        except ImportError as error:
            raise FileError(f"{self.title} needs {error.name}: pip install {error.name}") from error
        except Exception as error:  # torchvision's checks are of several kinds, and a damaged file fails in any way
            if self.download:
                raise FileError(f"{self.title} cannot be downloaded to {self.root!r}: {error}") from error
            raise FileError(
                f"{self.title} is not in {self.root!r}, or is damaged: name its folder, {self.name}[root=...], "
                f"or get it with {self.name}[download=true] (for scoresde train: --download)"
            ) from error


@attrs.frozen
class MNISTDataset(VisionDataset):
    """60,000 training and 10,000 test images of handwritten digits, (1, 28, 28)."""

    name, title, folder = "mnist", "MNIST", "MNIST"

    @property
    def shape(self) -> tuple[int, ...]:
        """(1, 28, 28)."""
        return (1, 28, 28)

    def fetch(self, datasets: Any, split: Split) -> tuple[Tensor, Any]:
        """From ``root/MNIST/raw``."""
        found = datasets.MNIST(self.root, train=split == "train", download=self.download)
        return found.data.unsqueeze(1), found.targets


@attrs.frozen
class FashionMNISTDataset(VisionDataset):
    """60,000 training and 10,000 test images of clothes, (1, 28, 28)."""

    name, title, folder = "fashion_mnist", "Fashion-MNIST", "FashionMNIST"

    @property
    def shape(self) -> tuple[int, ...]:
        """(1, 28, 28)."""
        return (1, 28, 28)

    def fetch(self, datasets: Any, split: Split) -> tuple[Tensor, Any]:
        """From ``root/FashionMNIST/raw``."""
        found = datasets.FashionMNIST(self.root, train=split == "train", download=self.download)
        return found.data.unsqueeze(1), found.targets


@attrs.frozen
class CIFAR10Dataset(VisionDataset):
    """50,000 training and 10,000 test images of ten classes, (3, 32, 32)."""

    name, title, folder = "cifar10", "CIFAR-10", "cifar-10-batches-py"

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, 32, 32)."""
        return (3, 32, 32)

    def fetch(self, datasets: Any, split: Split) -> tuple[Tensor, Any]:
        """From ``root/cifar-10-batches-py``."""
        found = datasets.CIFAR10(self.root, train=split == "train", download=self.download)
        return torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous(), found.targets


@attrs.frozen
class SVHNDataset(VisionDataset):
    """73,257 training and 26,032 test crops of house numbers, (3, 32, 32)."""

    name, title, folder = "svhn", "SVHN", "svhn"

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, 32, 32)."""
        return (3, 32, 32)

    def fetch(self, datasets: Any, split: Split) -> tuple[Tensor, Any]:
        """From ``root/svhn``."""
        found = datasets.SVHN(str(Path(self.root) / "svhn"), split=split, download=self.download)
        return torch.from_numpy(found.data).contiguous(), found.labels
