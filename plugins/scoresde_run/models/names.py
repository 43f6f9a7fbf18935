"""Names of components in text that a plugin contains, such as a preset, a suite or a checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

from scoresde_core import OURS, Registry, ScoreSDEError, Spec, parameters, parse
from scoresde_core.kinds import kind_of

PARTS = {"network": "networks", "sde": "sdes"}
"""The components without which a checkpoint cannot be read, and their kinds."""


def plugins_of(registry: Registry, model: Any) -> Mapping[str, str]:
    """The plugins, but ours, that a configuration's ``model`` needs, with versions: ``{"sde": "my-sdes 0.1"}``."""
    versions = {status.owner: status.version for status in registry.statuses}
    found = {part: registry.claims(kind, getattr(model, part).name) for part, kind in PARTS.items()}
    owners = {part: claims[0].owner for part, claims in found.items() if claims}  # a dequantiser has no component
    return {part: f"{owner} {versions[owner]}" for part, owner in owners.items() if owner != OURS}


def clear(registry: Registry, kind: str, spec: Spec, owners: Sequence[str]) -> Spec:
    """``spec`` and the components in it, with ambiguous names resolved to the first of ``owners`` that has them."""
    if not registry.clashes:
        return spec
    claims = registry.claims(kind, spec.name)
    own = [entry.qualified for owner in owners for entry in claims if entry.owner == owner]
    name = own[0] if own and len(claims) > 1 else spec.name
    try:
        inner = {p.name: kind_of(p.type) for p in parameters(registry.load(kind, name))} if spec.params else {}
    except ScoreSDEError:  # reported when the component is made
        return Spec(name, spec.params)

    def cleared(kind: str | None, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [cleared(kind, item) for item in value]
        if kind is None or not isinstance(value, str | Spec):
            return value
        found = clear(registry, kind, value if isinstance(value, Spec) else parse(value), owners)
        return found if isinstance(value, Spec) else str(found)

    return Spec(name, {key: cleared(inner.get(key), value) for key, value in spec.params.items()})
