"""Published data sets: those that torchvision reads, and CelebA, LSUN and ImageNet in the files of their authors.

MNIST (LeCun et al. 1998), Fashion-MNIST (arXiv:1708.07747), CIFAR-10 (Krizhevsky 2009), SVHN (Netzer et al. 2011).
"""

import os
import pickle
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO, Any, ClassVar, Literal

import attrs
import numpy as np
import torch
from attrs.validators import ge
from torch import Tensor
from scoresde_core import FileError, param
from scoresde_core.plugins import one_line
from scoresde_run import Dataset, Split
from scoresde_run.machine import inputs
from .array import as_events
from .picture_file import Source
from .pictures import BROKEN_HELP, Broken, Fit, PictureDataset, Pictures, source_at

DOWNLOAD_HELP = "let torchvision download it if it is missing"


def torchvision_datasets() -> ModuleType:
    """Return ``torchvision.datasets``; raise FileError with the repair if it cannot be imported."""
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError, OSError) as error:
        repair = "it needs the full torch build, pip install --force-reinstall torch torchvision"
        raise FileError(f"torchvision cannot be imported ({error}): {repair}") from error
    return datasets  # type: ignore[no-any-return]


def _get(name: str) -> str:
    how = f"download it with {name}[download=true] (for scoresde train: --download)"
    return f"give its folder, {name}[root=...], or {how}"


@attrs.frozen
class VisionDataset(Dataset):
    """Base class: data sets that torchvision reads, and downloads if requested."""

    name: ClassVar[str]
    title: ClassVar[str]
    folder: ClassVar[str]  # the folder of its files, below ``root``
    reader: ClassVar[str]  # its class in torchvision
    levels = 256

    root: str = param("data", "folder that contains it, or receives it")
    download: bool = param(False, DOWNLOAD_HELP)

    def fetch(self, reader: Any, split: Split) -> tuple[Tensor, Any]:
        """The images and their labels, from torchvision's class."""
        found = reader(self.root, train=split == "train", download=self.download)
        return as_events(np.asarray(found.data)), found.targets

    def files(self) -> list[Path]:
        """Its own folder: ``root`` may contain others."""
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
            raise FileError(f"{self.title} is not in {self.root!r}, or is damaged: {_get(self.name)}") from error


@attrs.frozen
class MNISTDataset(VisionDataset):
    """60,000 training and 10,000 test images of handwritten digits, (1, 28, 28)."""

    name, title, folder, reader, shape = "mnist", "MNIST", "MNIST", "MNIST", (1, 28, 28)


@attrs.frozen
class FashionMNISTDataset(VisionDataset):
    """60,000 training and 10,000 test images of clothes, (1, 28, 28)."""

    name, title, folder, reader, shape = "fashion_mnist", "Fashion-MNIST", "FashionMNIST", "FashionMNIST", (1, 28, 28)


@attrs.frozen
class CIFAR10Dataset(VisionDataset):
    """50,000 training and 10,000 test images of ten classes, (3, 32, 32)."""

    name, title, folder, reader, shape = "cifar10", "CIFAR-10", "cifar-10-batches-py", "CIFAR10", (3, 32, 32)


@attrs.frozen
class SVHNDataset(VisionDataset):
    """73,257 training and 26,032 test crops of house numbers, (3, 32, 32)."""

    name, title, folder, reader, shape = "svhn", "SVHN", "svhn", "SVHN", (3, 32, 32)

    def fetch(self, reader: Any, split: Split) -> tuple[Tensor, Any]:
        found = reader(str(Path(self.root) / "svhn"), split=split, download=self.download)
        return as_events(found.data), found.labels


@attrs.frozen
class CelebADataset(PictureDataset):
    """162,770 training faces (Liu et al. 2015), (3, size, size); the test split is the 19,867 validation faces.

    Reads ``root/celeba/list_eval_partition.txt`` and the images in ``root/celeba/img_align_celeba``, a folder or .zip.
    The published crop of 140 of the 178 x 218 pixels keeps the face; it is resized bilinearly, as published.
    """

    root: str = param("data", "folder that contains celeba/, or receives it")
    size: int = param(64, "side in pixels", ge(1))
    crop: int = param(140, "side of the central crop before resizing, in pixels", ge(1))
    broken: Broken = param("fail", BROKEN_HELP)
    download: bool = param(False, DOWNLOAD_HELP)

    def files(self) -> list[Path]:
        """``celeba/``."""
        return [Path(self.root) / "celeba"]

    def open(self, split: Split = "train") -> Pictures:
        folder = Path(self.root) / "celeba"
        if self.download:
            try:
                torchvision_datasets().CelebA(self.root, split="all", download=True)
            except (RuntimeError, OSError, ImportError) as error:
                raise FileError(f"CelebA cannot be downloaded to {self.root!r}: {error}") from error
        images = folder / "img_align_celeba"
        where = images if images.is_dir() else images.with_suffix(".zip")
        try:
            lines = inputs.text(folder / "list_eval_partition.txt", 2**26).splitlines()
            part = "0" if split == "train" else "1"
            names = [name for name, of in map(str.split, filter(str.strip, lines)) if of == part]
        except (OSError, ValueError) as error:
            raise FileError(f"CelebA is not in {self.root!r} ({error}): {_get('celeba')}") from error
        if not where.exists():
            raise FileError(f"CelebA's images are neither in {images} nor in {where}: unpack them there")
        if where.suffix == ".zip":
            names = [f"img_align_celeba/{name}" for name in names]
        fit = Fit(self.size, self.crop, filter="bilinear")
        return Pictures(source_at(str(where)), names, fit, self.broken, str(where))


@cache
def environment(path: Path) -> Any:
    """Return the lmdb environment of a folder; lmdb allows only one per process."""
    import lmdb  # type: ignore[import-not-found,unused-ignore]

    found = lmdb.open(str(path), readonly=True, lock=False, readahead=False, meminit=False)

    def forget() -> None:
        """A forked worker must not use it, and must close it before it opens its own."""
        found.close()
        environment.cache_clear()

    os.register_at_fork(after_in_child=forget)
    return found


@attrs.frozen(eq=False)
class Database(Source):
    """An lmdb folder of encoded images under binary keys."""

    path: Path

    def names(self) -> list[bytes]:
        with environment(self.path.resolve()).begin() as transaction:
            return [bytes(key) for key in transaction.cursor().iternext(keys=True, values=False)]

    def read(self, name: bytes) -> bytes:
        with environment(self.path.resolve()).begin() as transaction:
            return bytes(transaction.get(name))


@attrs.frozen
class LSUNDataset(PictureDataset):
    """One category (Yu et al. 2015, arXiv:1506.03365), (3, size, size): the largest central square, bicubic.

    It reads the lmdb folders that its authors distribute; the test split is their validation.
    """

    root: str = param("data", "folder that contains CATEGORY_train_lmdb and CATEGORY_val_lmdb")
    category: str = param("church_outdoor", "such as bedroom or church_outdoor")
    size: int = param(256, "side in pixels", ge(1))
    broken: Broken = param("fail", BROKEN_HELP)

    def files(self) -> list[Path]:
        """Return the databases of both splits, without lmdb's lock files."""
        return [self._folder(split) / "data.mdb" for split in ("train", "test")]

    def _folder(self, split: str) -> Path:
        return Path(self.root) / f"{self.category}_{'train' if split == 'train' else 'val'}_lmdb"

    def open(self, split: Split = "train") -> Pictures:
        if not (path := self._folder(split)).is_dir():
            how = "give its parent, lsun[root=...], or download it with LSUN's download.py and unzip it there"
            raise FileError(f"the LSUN folder {path} does not exist: {how} (torchvision cannot)")
        try:
            names = (database := Database(path)).names()
        except Exception as error:  # lmdb has errors of its own
            raise FileError(f"cannot read the LSUN database {path}: {error}") from error
        return Pictures(database, names, Fit(self.size), self.broken, str(path))


_MAKERS: tuple[Any, ...] = (np.zeros(1).__reduce__()[0], np.zeros(1).__reduce_ex__(5)[0], np.float64(0).__reduce__()[0])
"""NumPy's private ``_reconstruct``, ``_frombuffer`` and ``scalar``."""
_BUILDERS = {maker.__name__: maker for maker in (*_MAKERS, np.ndarray, np.dtype)}


class ArrayUnpickler(pickle.Unpickler):
    """Reads containers, numbers, text and NumPy arrays; anything else is refused before it is made."""

    def __init__(self, file: IO[bytes]) -> None:
        # Files of Python 2 hold the bytes of an array as text; latin1 keeps them.
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """Return NumPy's array constructors, in any version's module, and the codec of Python 2's bytes."""
        if module.partition(".")[0] == "numpy" and name in _BUILDERS:
            return _BUILDERS[name]
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding="latin1": text.encode("latin1")
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not an array")


_PATTERNS: dict[Split, str] = {"train": "train_data_batch_*", "test": "val_data*"}


@attrs.frozen
class DownsampledImageNetDataset(Dataset):
    """1,281,167 training and 50,000 validation images (Chrabaszcz et al. 2017, arXiv:1707.08819), (3, size, size).

    Files are ``train_data_batch_1`` .. ``_10`` and ``val_data``, each a dictionary whose ``data`` is uint8 (N, 3 S S),
    and ``labels`` 1 .. 1000, pickled or as ``.npz``. Reading a pickle can run code; here it can only make arrays.
    """

    levels = 256

    root: str = param("data", "folder that contains the files, at any depth")
    size: Literal[32, 64] = param(32, "side in pixels")

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, self.size, self.size)

    def files(self) -> list[Path]:
        """Return the batches of both splits."""
        return [path for split in _PATTERNS for path in self._matching(split)]

    def load(self, split: Split = "train") -> Tensor:
        found, width = [], 3 * self.size**2
        for path in self._files(split):
            data = self._read(path, "data")
            if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != width:
                given = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
                raise FileError(f"{path} must hold uint8 rows of {width} numbers for size={self.size}, got {given}")
            found.append(torch.from_numpy(data).reshape(-1, *self.shape))
        return torch.cat(found)

    def known(self, split: Split = "train") -> dict[str, Tensor]:
        """``labels`` 0 to 999; the files count from 1."""
        return {"labels": torch.cat([torch.as_tensor(self._read(p, "labels")).long() - 1 for p in self._files(split)])}

    def _matching(self, split: Split) -> list[Path]:
        found = [p for p in Path(self.root).rglob(_PATTERNS[split]) if p.suffix in ("", ".npz") and p.is_file()]
        return sorted(found, key=lambda path: (len(path.stem), path.name))  # 2 is before 10

    def _files(self, split: Split) -> list[Path]:
        if files := self._matching(split):
            return files
        where = "the files are at image-net.org (Download downsampled image data), after a login"
        lacking = f"there is no {_PATTERNS[split]} below {self.root!r}"
        raise FileError(f"{lacking}: give the folder, imagenet[root=...]; {where}")

    def _read(self, path: Path, name: str) -> Any:
        try:
            if path.suffix == ".npz":
                with inputs.arrays(path) as file:
                    return file[name]
            with inputs.whole(path).open("rb") as stream:
                return ArrayUnpickler(stream).load()[name]
        except Exception as error:  # a damaged pickle fails in any way
            raise FileError(f"cannot read {path} as a batch of downsampled ImageNet: {one_line(error)}") from error
