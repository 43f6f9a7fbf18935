"""Checkpoints that plugins ship: complete, and of the network in their configuration."""

from .candidate import Candidate


def loads_into_its_network(candidate: Candidate) -> None:
    """The files have their hashes, and the weights are finite and fit the network of the configuration."""
    model = candidate.component.load(candidate.registry, outputs=None)  # a classifier is not a score model
    bad = [name for name, value in model.network.state_dict().items() if not value.isfinite().all()]
    assert not bad, f"{candidate.name} has weights that are not finite: {', '.join(bad)}"
