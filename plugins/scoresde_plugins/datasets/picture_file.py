"""Files that contain many pictures, such as zip archives and TensorFlow records."""

import mmap
import os
from collections.abc import Callable, Iterator
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any, TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray
from scoresde_core import FileError
from scoresde_run.machine import inputs

Handle = TypeVar("Handle")


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
class Records:
    """The images of a ``.tfrecords`` file, all of one size, as the tools of ProGAN and StyleGAN write them.

    A file is a sequence of records: length (8 bytes), checksum of the length, data, checksum of the data (4 bytes),
    all little-endian; a checksum is CRC-32C, rotated by 15 bits, plus 0xa282ead8. The data are a ``tf.train.Example``,
    a protocol buffer with the features ``shape``, int64 (3,), channels, height, width, and ``data``, uint8, in that
    order. Checksums of lengths are verified, so that a truncated file or one of another kind is found before any work;
    those of pixels are not.
    """

    path: Path

    @property
    def file(self) -> mmap.mmap:
        """Its bytes."""
        return opened(_map, self.path)

    def names(self) -> list[str]:
        """Return ``offset:length`` of the data of each record."""
        try:
            size = len(self.file)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise FileError(f"cannot read {self.path} as TensorFlow records: {error}") from error
        found: list[str] = []
        at = 0
        while at < size:
            head = self.file[at : at + 8]
            length = int.from_bytes(head, "little")
            if self.file[at + 8 : at + 12] != _masked(head) or at + length + 16 > size:
                raise FileError(f"{self.path} has no TensorFlow records, or is damaged after record {len(found)}")
            found.append(f"{at + 12}:{length}")
            at += length + 16
        return found

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return the pixels (H, W, 3), or (H, W) of a grey image."""
        start, length = map(int, name.split(":"))
        features = _features(memoryview(self.file[start : start + length]))
        if not {"shape", "data"} <= set(features):
            raise ValueError(f"it has the features {sorted(features)}, not shape and data")
        shape = _integers(features["shape"])
        pixels = np.frombuffer(_only(_only(features["data"], 1), 1), np.uint8).reshape(shape).transpose(1, 2, 0)
        return np.ascontiguousarray(pixels[..., 0] if shape[0] == 1 else pixels)


def _features(example: memoryview) -> dict[str, memoryview]:
    """Return the features of an Example: a map, stored as entries with a key 1 and a value 2."""
    found = {}
    for _, entry in _fields(_only(example, 1)):
        key, value = _only(entry, 1), _only(entry, 2)
        found[bytes(key).decode()] = value
    return found


def _integers(feature: memoryview) -> tuple[int, ...]:
    """Return an int64 list, which is packed."""
    packed, found, at = _only(_only(feature, 3), 1), [], 0
    while at < len(packed):
        number, at = _varint(packed, at)
        found.append(number)
    return tuple(found)


def _only(message: memoryview, number: int) -> memoryview:
    """Return the bytes of a message's field ``number``."""
    for found, value in _fields(message):
        if found == number and isinstance(value, memoryview):
            return value
    raise ValueError(f"a message has no field {number} of bytes")


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield the fields of a protocol buffer, in order."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind, number = tag & 7, tag >> 3
        if kind not in (0, 2):
            raise ValueError(f"unknown wire type {kind} in a protocol buffer")
        length, at = _varint(message, at)
        if kind == 0:
            yield number, length
            continue
        if at + length > len(message):
            raise ValueError("a field is longer than its message")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return a number stored in groups of 7 bits, and where it ends."""
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


_CRC = [reduce(lambda crc, _: crc >> 1 ^ (0x82F63B78 if crc & 1 else 0), range(8), byte) for byte in range(256)]
"""The reflected CRC-32C (Castagnoli) of each byte."""


def _masked(data: bytes) -> bytes:
    """Return the checksum of ``data`` as a record stores it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")
