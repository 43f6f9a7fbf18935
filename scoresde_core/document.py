"""YAML as this project reads it: safe, no duplicate keys, ``2e-4`` is a number.

A document has at most :data:`LIMIT` bytes, :data:`DEEPEST` levels and, with aliases written out, :data:`VALUES` values.
"""

import re
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from .errors import FileError

LIMIT, DEEPEST, VALUES = 2**20, 50, 200_000


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML that refuses duplicate keys instead of keeping the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        scalars = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        keys = Counter(self.construct_object(key, deep=True) for key in scalars)
        twice = sorted(str(key) for key, times in keys.items() if times > 1)
        if twice:
            raise yaml.YAMLError(f"{', '.join(twice)} given twice{node.start_mark}")
        return super().construct_mapping(node, deep)  # type: ignore[no-any-return]


# YAML 1.1 requires a dot in a float, and would read 2e-4 as a word.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load(text: str) -> Any:
    """Load the document ``text``; a :class:`yaml.YAMLError` states the problem in one line."""
    try:
        data = yaml.load(text, Loader=_Loader)
        _check(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date or integer
        raise yaml.YAMLError(" ".join(str(error).split())) from error
    return data


def _check(data: Any) -> None:
    """Raise :class:`ValueError` for data that is too deep, too large with its aliases, or has too large an integer."""
    left, values = [(data, 0)], 0
    while left:
        item, depth = left.pop()
        values += 1
        if depth > DEEPEST or values > VALUES:
            raise ValueError(f"it has more than {DEEPEST} levels, or {VALUES} values with its aliases written out")
        if isinstance(item, int) and item.bit_length() > 64:
            raise ValueError("it has an integer beyond 64 bits")
        inside = [*item, *item.values()] if isinstance(item, dict) else item if isinstance(item, list | tuple) else ()
        left += [(value, depth + 1) for value in inside]


def regular(path: Path, limit: int | None = LIMIT) -> Path:
    """``path``, if it is a regular file of at most ``limit`` bytes; a pipe, a device or a folder is an error.

    A file that is missing raises :class:`OSError`, as it would when it is opened.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if path.is_dir() else "a pipe, a device or a socket"
        raise FileError(f"cannot read {path}: it is {what}, not a regular file")
    if limit is not None and found.st_size > limit:
        raise FileError(f"cannot read {path}: it has {found.st_size:,} bytes, a file of its kind at most {limit:,}")
    return path
