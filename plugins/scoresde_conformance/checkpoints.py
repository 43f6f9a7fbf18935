"""A checkpoint that a plugin ships: whole, and of the network that it says."""

from __future__ import annotations

from .candidate import Candidate


def loads_into_its_network(candidate: Candidate) -> None:
    """Its files have their hashes, and its weights fit the network of its configuration and are finite."""
    model = candidate.component.load(candidate.registry, outputs=None)  # a classifier is no score model
    bad = [name for name, value in model.network.state_dict().items() if not value.isfinite().all()]
    assert not bad, f"{candidate.name} holds weights that are not finite: {', '.join(bad)}"


CHECKS = (loads_into_its_network,)
