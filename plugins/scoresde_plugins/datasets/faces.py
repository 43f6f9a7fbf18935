"""High-resolution faces: FFHQ and CelebA-HQ, as image files or as the TensorFlow records of their authors' tools.

The published code trains and evaluates on the same images; here a share is held out, as for any folder.
"""

import attrs

from scoresde_core.components import param

from .files import ImageFolderDataset
from .pictures import SIZE_HELP, Size, positive


@attrs.frozen
class FFHQDataset(ImageFolderDataset):
    """70,000 faces (Karras et al. 2019), stored at 1024 x 1024; the images are at github.com/NVlabs/ffhq-dataset."""

    path: str = param("data/ffhq", "folder, .zip or .tfrecords of the images")
    size: Size = param(256, SIZE_HELP, positive)


@attrs.frozen
class CelebAHQDataset(ImageFolderDataset):
    """30,000 faces (Karras et al. 2018), stored at 1024 x 1024; made from CelebA by the authors' script."""

    path: str = param("data/celebahq", "folder, .zip or .tfrecords of the images")
    size: Size = param(256, SIZE_HELP, positive)
