"""YAML as this project writes it: the order of keys is kept, short lists are on one line."""

from typing import Any

import yaml
from scoresde_core.document import load

__all__ = ["dump", "load"]
_LINE = 90


class _Dumper(yaml.SafeDumper):
    """Safe YAML with collections of scalars on one line if they fit."""

    def represent_data(self, data: Any) -> yaml.Node:
        node: yaml.Node = super().represent_data(data)
        if isinstance(node, yaml.CollectionNode):
            pairs = isinstance(node, yaml.MappingNode)
            parts = [part for pair in node.value for part in pair] if pairs else node.value
            scalars = all(isinstance(part, yaml.ScalarNode) or not part.value for part in parts)
            node.flow_style = scalars and sum(len(str(part.value)) + 2 for part in parts) < _LINE
        return node


def dump(data: Any) -> str:
    """``data`` as a document that :func:`load` reads back, with the order of keys kept."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
