"""Your own images: a folder or zip of image files, TensorFlow records, or encoded images in ``.npz`` files.

The test split has a path of its own, or is every k-th image in the order of the names or of the array. The published
code trains and evaluates on the same faces of FFHQ and CelebA-HQ; here a share is held out, as for any folder.
"""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs
import numpy as np
import torch
from attrs.validators import and_, ge, gt, lt, optional
from numpy.typing import NDArray
from torch import Tensor
from scoresde_core import FileError, param
from scoresde_run import Dataset, Split
from scoresde_run.machine import inputs
from . import pictures
from .picture_file import Source
from .pictures import deep

INDEX = "dataset.json"
Classes = Literal["auto", "folders", "names"]

COUNT, SIDE = 20, 8  # of the pictures of noise with which the conformance suite checks these data sets


def image_folder(folder: Path) -> dict[str, Any]:
    """Write images to the folders of two classes."""
    from PIL import Image

    for k, image in enumerate(np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)):
        (folder / "ab"[k % 2]).mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / "ab"[k % 2] / f"{k:02}.png")
    return {"path": str(folder), "size": SIDE}


def jpeg_archive(folder: Path) -> dict[str, Any]:
    """Write both splits, with labels."""
    encoded = [path.read_bytes() for path in sorted(Path(image_folder(folder)["path"]).glob("*/*.png"))]
    for split, part in (("train", encoded[5:]), ("test", encoded[:5])):
        offsets = np.cumsum([0, *map(len, part)])
        data = np.frombuffer(b"".join(part), dtype=np.uint8)
        np.savez(folder / f"{split}.npz", jpeg=data, offsets=offsets, labels=np.arange(len(part)) % 3)
    return {"path": str(folder)}


@attrs.frozen
class HeldOut(Dataset):
    """A path and its test split: a second path, or a share of the first."""

    path: str = param(help="path of the images")
    test: str | None = param(None, "path of the test split; null: hold out a share", kw_only=True)
    test_share: float = param(0.1, "share of the images held out as the test split", and_(gt(0), lt(1)), kw_only=True)

    def files(self) -> list[str]:
        """The paths of both splits."""
        return [self.path, *([] if self.test is None else [self.test])]

    def place(self, split: Split) -> str:
        """The path of a split."""
        return self.path if split == "train" or self.test is None else self.test

    def rows(self, count: int, split: Split) -> Tensor:
        """The indices of a split among the ``count`` events at its path."""
        if self.test is not None:
            return torch.arange(count)
        every = max(2, round(1 / self.test_share))
        held_out = torch.arange(count) % every == every - 1
        return (held_out if split == "test" else ~held_out).nonzero().flatten()


@attrs.frozen
class ImageFolderDataset(HeldOut, pictures.PictureDataset):
    """All image files in a folder or a .zip, resized to ``size`` after the largest central crop of that shape.

    Or all images in a .tfrecords file of StyleGAN's tool, such as ffhq-r08.tfrecords. Classes are read from a
    ``dataset.json`` at the top, as the tools of StyleGAN and EDM write it, else from the folders of the files.
    """

    example: ClassVar = staticmethod(image_folder)

    size: pictures.Size = param(32, pictures.SIZE_HELP, pictures.positive)
    grey: bool = param(False, "one grey channel instead of three")
    crop: int | None = param(None, "side of a central crop before resizing, in pixels", optional(ge(1)))
    broken: pictures.Broken = param("fail", pictures.BROKEN_HELP)
    _levels: int | None = param(None, "levels of 16-bit pictures, such as 65536, with grey=true; null: 8 bits", deep)
    classes: Classes = param(
        "auto", "source of labels. auto: dataset.json, else folders; names: text before the first _"
    )

    def __attrs_post_init__(self) -> None:
        if self._levels is not None and not self.grey:
            raise ValueError("pictures of 16 bits are grey: set grey=true, or leave levels out")

    @property
    def levels(self) -> int:  # type: ignore[override]
        return self._levels or 256

    def open(self, split: Split = "train") -> pictures.Pictures:
        place = self.place(split)
        names = (source := pictures.source_at(place)).names()
        picked = [names[row] for row in self.rows(len(names), split).tolist()]
        if names and not picked:
            raise FileError(f"{place!r} has {len(names)} images, too few for a {split} split: set test_share=")
        return pictures.Pictures(source, picked, self.fit(self.size), self.broken, place)

    def fit(self, size: pictures.Size) -> pictures.Fit:
        """How a picture becomes an event of ``size``."""
        return pictures.Fit(size, self.crop, self.grey, levels=self.levels)

    def known(self, split: Split = "train") -> dict[str, Tensor]:
        """``labels`` from ``dataset.json``, or the numbers of the folders sorted by name; none for a single folder."""
        if (found := labels(self.place(split), self.path, self.classes)) is None:
            return {}
        pictures.check_labelled(self.broken)
        return {"labels": found[self.rows(len(found), split)]}


@attrs.frozen
class FFHQDataset(ImageFolderDataset):
    """70,000 faces (Karras et al. 2019), stored at 1024 x 1024; the images are at github.com/NVlabs/ffhq-dataset."""

    path: str = param("data/ffhq", "folder, .zip or .tfrecords of the images")
    size: pictures.Size = param(256, pictures.SIZE_HELP, pictures.positive)


@attrs.frozen
class CelebAHQDataset(ImageFolderDataset):
    """30,000 faces (Karras et al. 2018), stored at 1024 x 1024; made from CelebA by the authors' script."""

    path: str = param("data/celebahq", "folder, .zip or .tfrecords of the images")
    size: pictures.Size = param(256, pictures.SIZE_HELP, pictures.positive)


@attrs.frozen(eq=False)
class Packed(Source):
    """The images of one file, by number."""

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def names(self) -> list[int]:
        return list(range(len(self.offsets) - 1))

    def read(self, name: int) -> bytes:
        return self.data[self.offsets[name] : self.offsets[name + 1]].tobytes()


@attrs.frozen
class JPEGArchiveDataset(pictures.PictureDataset):
    """Encoded images in one array, (1 or 3, H, W), as stored or resized after a central square crop.

    ``train.npz`` and ``test.npz`` have ``jpeg`` and ``offsets``: image i is the bytes ``jpeg[offsets[i] : offsets[i +
    1]]``, in any format that PIL reads, a tenth of the pixels' size. Its class is ``labels[i]``, if given.
    """

    example: ClassVar = staticmethod(jpeg_archive)

    path: str = param(help="folder that contains train.npz and test.npz")
    size: int | None = param(None, "side in pixels; null: as stored", optional(ge(1)))
    grey: bool = param(False, "one grey channel instead of three")
    broken: pictures.Broken = param("fail", pictures.BROKEN_HELP)

    @property
    def shape(self) -> tuple[int, ...]:
        """(1 or 3, H, W), by default that of the first test image."""
        return tuple(self.open("test")[0].shape) if self.size is None else super().shape

    def files(self) -> list[Path]:
        """Return the files of both splits."""
        return [self._file("train"), self._file("test")]

    def open(self, split: Split = "train") -> pictures.Pictures:
        file, arrays = self._file(split), self._arrays(split)
        packed = Packed(arrays["jpeg"], arrays["offsets"])
        steps = np.diff(packed.offsets)
        if packed.data.dtype != np.uint8 or (steps < 0).any() or packed.offsets[-1] > len(packed.data):
            raise FileError(f"{file} is damaged: its offsets exceed its {len(packed.data)} bytes")
        fit = pictures.Fit(self.size, grey=self.grey)
        return pictures.Pictures(packed, packed.names(), fit, self.broken, str(file))

    def known(self, split: Split = "train") -> dict[str, Tensor]:
        if (labels := self._arrays(split).get("labels")) is None:
            return {}
        pictures.check_labelled(self.broken)
        return {"labels": torch.from_numpy(labels.astype(np.int64))}

    def _file(self, split: Split) -> Path:
        return Path(self.path) / f"{split}.npz"

    def _arrays(self, split: Split) -> dict[str, NDArray[Any]]:
        file = self._file(split)
        with inputs.arrays(file, "packed images (arrays jpeg and offsets)") as found:
            return {name: found[name] for name in ("jpeg", "offsets", *({"labels"} & set(found.names)))}


def labels(place: str, path: str, classes: Classes) -> Tensor | None:
    """The class of each image at ``place``, int64 (N,), or None; ``path`` has the training images.

    Without an index a class is the number of a folder among those of ``path``, sorted by name, if there are several.
    The tools of StyleGAN and EDM pack images into folders of a thousand, which are not classes, beside an index
    ``{"labels": [["00000/img00000000.png", 6], ...]}``, or ``{"labels": null}`` if there are none.
    """
    source = pictures.source_at(place)
    if classes == "auto" and isinstance(source, pictures.Folder | pictures.Archive):
        with suppress(OSError, KeyError):  # there is none
            return _listed(source.read(INDEX), source.names(), place)
    known = sorted(set(_groups(pictures.source_at(path), classes)))
    if len(known) < 2:
        return None
    if classes == "auto" and all(re.fullmatch(r"\d{5,}", name) for name in known):
        found = f"the folders {known[0]} to {known[-1]}, which the tools of StyleGAN and EDM number without meaning"
        remedy = "add it, or set classes=folders if they are classes"
        raise FileError(f"{path!r} has {found}, and no {INDEX} with the classes: {remedy}")
    folders = _groups(source, classes)
    if strange := sorted(set(folders) - set(known)):
        what = "name" if classes == "names" else "folder"
        raise FileError(f"{place!r} has a {what} {strange[0]!r} that {path!r} does not have: it is not a class")
    number = {name: k for k, name in enumerate(known)}
    return torch.tensor([number[folder] for folder in folders])


def _groups(source: Source, classes: Classes) -> list[str]:
    parts = [name.rpartition("/") for name in source.names()]
    return [name.partition("_")[0] if classes == "names" else folder for folder, _, name in parts]


def _listed(text: bytes, names: list[str], place: str) -> Tensor | None:
    """Return the classes of ``names`` by the index ``text``; None if it says that there are none."""
    where = f"{INDEX} of {Path(place)}"
    try:
        found: Any = inputs.loads(text)["labels"]
        by_name = None if found is None else {str(name).replace("\\", "/"): label for name, label in found}
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f"cannot read the {where}: {error}; expected {{'labels': [[name, class], ...]}}") from error
    if by_name is None:
        return None
    if missing := [name for name in names if name not in by_name]:
        raise FileError(f"the {where} has no label for {missing[0]} ({len(missing)} of {len(names)} lack one)")
    if wrong := [name for name in names if type(by_name[name]) is not int or by_name[name] < 0]:
        what = f"the label {by_name[wrong[0]]!r} for {wrong[0]}"
        raise FileError(f"the {where} has {what}: classes must be integers from 0")
    return torch.tensor([by_name[name] for name in names])
