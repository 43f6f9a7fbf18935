"""YAML as this project reads it: safe, no duplicate keys, ``2e-4`` is a number."""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML that refuses duplicate keys instead of keeping the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
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
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise yaml.YAMLError(" ".join(str(error).split())) from error
