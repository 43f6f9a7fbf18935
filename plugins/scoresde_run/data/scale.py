"""The scale of data: its standardisation, and whether it fits an SDE."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from scoresde_core import SDE, UsageError
from .dataset import Dataset, Events, rows
from .units import Units

_CHUNK = 1024
_LOOKED_AT = 4096  # number of events, spread evenly over the training split, whose scale is compared with the SDE's


def moments(events: Events, units: Units, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) per channel or column of the events at ``indices`` in ``units``, float64 on the CPU."""
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for first in range(0, len(indices), _CHUNK):
        x = units.encode(rows(events, indices[first : first + _CHUNK])).double().movedim(1, 0).flatten(1)
        more, centre = x.shape[1], x.mean(1)
        spread, off = (x - centre.unsqueeze(1)).square().sum(1), centre - mean
        # Merge two sets (Chan, Golub & LeVeque 1983, doi:10.1080/00031305.1983.10483115).
        squares = squares + spread + off.square() * (count * more / (count + more))
        mean, count = mean + off * (more / (count + more)), count + more
    return mean.cpu(), (squares / count).cpu()


def standardising(dataset: Dataset, units: Units) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Shift and scale per channel or column: means and standard deviations of the training split in ``units``."""
    events = dataset.open("train")
    if not len(events):
        raise UsageError(f"the train split of {dataset} is empty")
    mean, variance = moments(events, units, range(len(events)))
    if flat := [k for k, value in enumerate(variance.tolist()) if not 0 < value < math.inf]:
        which = f"of {dataset.shape[0]} channels or columns number {flat[0]}, counted from 0, is constant or not finite"
        remedy = "leave it out, or give data.shift and data.scale in place of data.standardise"
        raise UsageError(f"{dataset} cannot be standardised: {which}; {remedy}")
    return tuple(mean.tolist()), tuple(variance.sqrt().tolist())


def mismatch(events: Events, shape: tuple[int, ...], units: Units, sde: SDE) -> str | None:
    """Why the scale of the data in ``units`` does not fit ``sde``; None if it does.

    The data must be small compared with sigma(1) / alpha(1), to be forgotten at t = 1, and not finer than
    sigma(t_min) / alpha(t_min), the noise left at t_min. Images are read only if their range does not decide it.
    A process without one alpha and sigma is not judged.
    """
    if sde.form != "scalar":
        return None
    start, end = (sde.level(torch.tensor(t, dtype=torch.float64)) for t in (sde.t_min, 1.0))
    prior, alpha, std = sde.prior, float(end.alpha), float(sde.prior.std)

    def left(mean: Tensor, variance: Tensor | float = 0.0) -> Tensor:
        """The root mean square (C,) of alpha(1) x about the prior's mean, in the prior's standard deviations."""
        about = alpha * mean.unsqueeze(0) - prior.shift(mean.unsqueeze(0))
        return (about[0].square() + alpha**2 * variance).sqrt() / std

    if units.levels is not None:
        ends = units.from_file(torch.tensor(units.range, dtype=torch.float64).reshape(2, 1).expand(2, shape[0]))
        if all(bool((left(end_of_range) <= 1).all()) for end_of_range in ends):
            return None
    count, most = len(events), min(len(events), _LOOKED_AT)
    mean, variance = moments(events, units, [k * count // most for k in range(most)])
    far = left(mean, variance)
    worst = int(far.argmax())
    if float(far[worst]) > 1:
        size = float((mean[worst].square() + variance[worst]).sqrt())
        small = f"only data that are small compared with {float(end.sigma / end.alpha):.4g}"
        given = f"the data's root mean square is {size:.4g} (channel or column {worst})"
        return f"{given}, but the prior of {sde!r} forgets {small}"
    finest, spread = float(start.sigma / start.alpha), variance.sqrt()
    if units.levels is None and bool((spread < finest).any()):
        least = int(spread.argmin())
        given = f"the data's standard deviation is {float(spread[least]):.4g} (channel or column {least})"
        return f"{given}, less than the noise of {finest:.4g} that {sde!r} ends at"
    return None
