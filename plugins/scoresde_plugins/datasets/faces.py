"""High-resolution faces: FFHQ and CelebA-HQ, as image files or as the TensorFlow records of their authors' tools.

The published code trains and evaluates on the same images; here a share is held out, as for any folder.
"""

import attrs
from attrs.validators import ge

from scoresde_core.components import param

from .files import ImageFolderDataset

_SIZE_HELP = "pixels of a side"


@attrs.frozen
class FFHQDataset(ImageFolderDataset):
    """70,000 faces (Karras et al. 2019), stored at 1024 x 1024; get the images from github.com/NVlabs/ffhq-dataset."""

    path: str = param("data/ffhq", "folder, .zip or .tfrecords of the images")
    size: int = param(256, _SIZE_HELP, ge(1))


@attrs.frozen
class CelebAHQDataset(ImageFolderDataset):
    """30,000 faces (Karras et al. 2018), stored at 1024 x 1024; made from CelebA by the authors' script."""

    path: str = param("data/celebahq", "folder, .zip or .tfrecords of the images")
    size: int = param(256, _SIZE_HELP, ge(1))
