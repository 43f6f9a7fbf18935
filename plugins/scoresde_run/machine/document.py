"""YAML as this project writes it: the order of keys is kept, short lists are on one line."""

from typing import Any

import yaml
from scoresde_core.document import load

__all__ = ["dump", "load"]
_LINE = 90


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


def dump(data: Any) -> str:
    """``data`` as a document that :func:`load` reads back, with the order of keys kept."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
