"""MNIST (LeCun et al. 1998) through torchvision."""

import attrs
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.dataset import Dataset, Split
from scoresde_core.errors import FileError


@attrs.frozen
class MNISTDataset(Dataset):
    """60,000 training and 10,000 test images of handwritten digits, (1, 28, 28)."""

    root: str = param("data", "folder that holds MNIST/raw")
    download: bool = param(False, "let torchvision download it where it is missing")

    @property
    def shape(self) -> tuple[int, ...]:
        """(1, 28, 28)."""
        return (1, 28, 28)

    def load(self, split: Split = "train") -> Tensor:
        """uint8 (N, 1, 28, 28)."""
        try:
            from torchvision.datasets import MNIST
        except (ImportError, RuntimeError, OSError) as error:
            raise FileError(
                f"torchvision cannot be imported ({error}): it needs the full torch build, "
                "pip install --force-reinstall torch torchvision"
            ) from error
        try:
            images: Tensor = MNIST(self.root, train=split == "train", download=self.download).data
        except RuntimeError as error:
            raise FileError(
                f"MNIST is not in {self.root!r}: name its folder, mnist[root=...], or write mnist[download=true]"
            ) from error
        return images.unsqueeze(1)
