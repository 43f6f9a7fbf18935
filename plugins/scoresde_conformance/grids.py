"""Grids: N + 1 times, from the prior at 1 through the SDE's t_min to clean data at 0."""

from collections.abc import Iterator

import torch
from torch import Tensor
from scoresde_core import SDE
from .candidate import Candidate
from .counterparts import sdes
from .expect import refusal

COUNTS = (1, 2, 3, 10, 100)


def _tried(candidate: Candidate) -> Iterator[tuple[Tensor, SDE, int]]:
    """Yield the times with every SDE that the grid has some for, and several numbers of steps, all cheap."""
    grid = candidate.component
    for label, sde in sdes(candidate):
        for steps in COUNTS if grid.counts is None else grid.counts:
            if grid.skip(sde) is None:
                candidate.trying = f"{candidate.name} of {steps} steps under {label}"
                yield grid.times(sde, steps), sde, steps
    candidate.trying = ""


def runs_from_one_to_zero(candidate: Candidate) -> None:
    """The first time is 1, the last 0, and the last but one the SDE's t_min."""
    for times, sde, steps in _tried(candidate):
        assert len(times) == steps + 1, f"there are {len(times)} times, expected {steps + 1}"
        ends = [float(times[0]), float(times[-1])]
        assert ends == [1.0, 0.0], f"the first and the last of times are {ends}, expected [1, 0]"
        if steps > 1:
            found = float(times[-2])
            assert found == sde.t_min, f"the last but one of times is {found}, expected t_min = {sde.t_min}"


def decreases(candidate: Candidate) -> None:
    """Every time is below the previous one."""
    for times, _, _ in _tried(candidate):
        gaps = times.diff()
        assert bool((gaps < 0).all()), f"times do not decrease: one is {float(gaps.max()):+g} from the previous one"


def is_float64_on_the_cpu(candidate: Candidate) -> None:
    """Times are float64 on the CPU, whatever the device of the run."""
    for times, _, _ in _tried(candidate):
        found = (times.dtype, times.device.type)
        assert found == (torch.float64, "cpu"), f"times are {found}, expected torch.float64 on the CPU"


def refuses_no_steps(candidate: Candidate) -> None:
    """Zero and negative step counts raise a ValueError that names the number."""
    sde = sdes(candidate)[0][1]
    for steps in (0, -3):
        message = refusal(candidate.component.times, sde, steps)
        assert message is not None, f"times accepts {steps} steps, expected a ValueError"
        assert str(steps) in message, f"the ValueError for {steps} steps does not name the number: {message}"
