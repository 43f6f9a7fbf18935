"""YAML as this project reads and writes it: safe, no duplicate keys, ``2e-4`` is a number, short lists on one line."""

from __future__ import annotations

import re
from typing import Any

import yaml

_LINE = 90


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


class _Dumper(yaml.SafeDumper):
    """Safe YAML with collections of scalars on one line if they fit."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        node: yaml.SequenceNode = super().represent_sequence(tag, sequence, flow_style)
        node.flow_style = _fits(node.value)
        return node

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        node: yaml.MappingNode = super().represent_mapping(tag, mapping, flow_style)
        node.flow_style = _fits([part for pair in node.value for part in pair])
        return node


def _fits(nodes: list[yaml.Node]) -> bool:
    scalars = all(isinstance(node, yaml.ScalarNode) or not node.value for node in nodes)
    return scalars and sum(len(str(node.value)) + 2 for node in nodes) < _LINE


def load(text: str) -> Any:
    """Load the document ``text``; a :class:`yaml.YAMLError` states the problem in one line."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise yaml.YAMLError(" ".join(str(error).split())) from error


def dump(data: Any) -> str:
    """``data`` as a document that :func:`load` reads back, with the order of keys kept."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
