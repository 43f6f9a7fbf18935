"""What the picture of a cell shows: its samples or, under a condition, what they were given and what is exact."""

import torch
from torch import Tensor
from scoresde_plugins.evaluators.posterior import given
from scoresde_run import Evidence

SHOWN, EACH = 8, 3  # observations, and samples of each


def sides(evidence: Evidence) -> list[Tensor]:
    """The sides of a picture in data units, from left to right.

    Under a condition, a row an observation: the event, A^T y, three samples, their mean, the exact mean, their standard
    deviation, and the exact one, white the largest. In the plane, colours, of the first observation: the event (blue)
    on A^T y (orange) on samples (green) on exact draws (purple).
    """
    x = evidence.samples
    if evidence.observed is None:
        return [x]
    rows = given(evidence)[:SHOWN]
    exact = bool(rows[0].draws)
    x = x.double().reshape(len(evidence.observed.events), -1, *x.shape[1:])[: len(rows)]
    events = torch.stack([row.event for row in rows])
    known = rows[0].known
    # The shares of A^+ y in A^T y, which stays bounded.
    shares = 1.0 if known.gain is None else (known.gain / known.gain.max()) ** 2
    seen = torch.cat([row.known.events(shares * row.known.values, row.event.unsqueeze(0)) for row in rows])
    seen = seen if evidence.units is None else evidence.units.decode(seen)
    if events.shape[1:] == (2,):
        own = [rows[0].draws[0]] if exact else []
        return [*own, x[0], *(one[:1].expand_as(x[0]) for one in (seen, events))]
    means, deviations = [x.mean(1)], [x.std(1)]
    if exact:
        means.append(torch.stack([row.mean for row in rows]).view_as(events))
        deviations.append(torch.stack([row.covariance.diagonal().sqrt() for row in rows]).view_as(events))
    largest = max(float(each.max()) for each in deviations) or 1.0
    grey = [2 * each / largest - 1 for each in deviations]
    return [events, seen, *x[:, :EACH].unbind(1), *means, *grey]
