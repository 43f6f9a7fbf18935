"""Files that contain many pictures, such as zip archives and TensorFlow records."""

import io
import mmap
import os
from collections.abc import Callable, Iterator
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any, Protocol, TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray
from scoresde_core import FileError
from scoresde_run.machine import inputs

Handle = TypeVar("Handle")
Stored = bytes | NDArray[np.uint8]  # a picture as its source stores it: an encoded file, or pixels (H, W, C)


class Source(Protocol):
    """A collection of stored pictures."""

    def names(self) -> list[Any]:
        """The names of all pictures, in the stored order."""

    def read(self, name: Any) -> Stored:
        """The picture called ``name``."""


@lru_cache(maxsize=16)
def _open(kind: Callable[[Path], Any], path: Path, version: int, process: int) -> Any:
    return kind(path)


def opened(kind: Callable[[Path], Handle], path: Path) -> Handle:
    """The file at ``path`` as this process opened it; a forked worker would share its parent's position in the file."""
    return _open(kind, path, inputs.regular(path, None).stat().st_mtime_ns, os.getpid())  # type: ignore[no-any-return]


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@attrs.frozen
class Records(Source):
    """The images of a ``.tfrecords`` file, all of one size, as the tools of ProGAN and StyleGAN write them.

    A record is, little-endian: length (8 bytes), checksum of the length (4), data, checksum of the data (4). A checksum
    is CRC-32C, rotated by 15 bits, plus 0xa282ead8; those of lengths alone are verified, which finds a truncated file.
    The data are a ``tf.train.Example``, a protocol buffer with ``shape``, int64 (C, H, W), and ``data``, uint8.
    """

    path: Path

    def names(self) -> list[str]:
        """``offset:length`` of the data of each record."""
        with inputs.reading(self.path, "TensorFlow records"):
            file = opened(_map, self.path)
        found: list[str] = []
        at = 0
        while at < len(file):
            head = file[at : at + 8]
            length = int.from_bytes(head, "little")
            if file[at + 8 : at + 12] != _masked(head) or at + length + 16 > len(file):
                raise FileError(f"{self.path} has no TensorFlow records, or is damaged after record {len(found)}")
            found.append(f"{at + 12}:{length}")
            at += length + 16
        return found

    def read(self, name: str) -> NDArray[np.uint8]:
        """The pixels (H, W, 3), or (H, W) of a grey image."""
        start, length = map(int, name.split(":"))
        example = opened(_map, self.path)[start : start + length]
        # A map is stored as entries with a key 1 and a value 2; a feature is a list of bytes 1 or of integers 3.
        features = {_only(entry, 1).decode(): _only(entry, 2) for _, entry in _fields(_only(example, 1))}
        if not {"shape", "data"} <= set(features):
            raise ValueError(f"it has the features {sorted(features)}, not shape and data")
        shape = tuple(_numbers(io.BytesIO(_only(features["shape"], 3, 1))))
        pixels = np.frombuffer(_only(features["data"], 1, 1), np.uint8).reshape(shape).transpose(1, 2, 0)
        return np.ascontiguousarray(pixels[..., 0] if shape[0] == 1 else pixels)


def _only(message: bytes, *path: int) -> bytes:
    """The bytes of a message's field, or of a field within it, by their numbers."""
    for number in path:
        found = next((value for n, value in _fields(message) if n == number and isinstance(value, bytes)), None)
        if found is None:
            raise ValueError(f"a message has no field {number} of bytes")
        message = found
    return message


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer, in order: their numbers, and integers or bytes."""
    stream = io.BytesIO(message)
    numbers = _numbers(stream)
    for tag, value in zip(numbers, numbers, strict=False):
        if tag & 7 not in (0, 2):
            raise ValueError(f"unknown wire type {tag & 7} in a protocol buffer")
        found: Any = stream.read(value) if tag & 7 else value
        if tag & 7 and len(found) < value:
            raise ValueError("a field is longer than its message")
        yield tag >> 3, found


def _numbers(stream: io.BytesIO) -> Iterator[int]:
    """The numbers from here to the end, each in groups of 7 bits, all but its last with the highest bit set."""
    number = shift = 0
    while byte := stream.read(1):
        number, shift = number | (byte[0] & 0x7F) << shift, shift + 7
        if byte[0] < 0x80:
            yield number
            number = shift = 0


_CRC = [reduce(lambda crc, _: crc >> 1 ^ (0x82F63B78 if crc & 1 else 0), range(8), byte) for byte in range(256)]
"""The reflected CRC-32C (Castagnoli) of each byte."""


def _masked(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")
