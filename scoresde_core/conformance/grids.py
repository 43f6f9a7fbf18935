"""Grids: N + 1 times, from the prior at 1 through the SDE's smallest time to clean data at 0."""

from __future__ import annotations

import torch

from .exact import sdes
from .suite import Subject

COUNTS = (1, 2, 3, 10, 100)


def runs_from_one_to_zero(subject: Subject) -> None:
    """The first time is 1, the last 0, and the last but one the SDE's t_min."""
    for label, sde in sdes(subject):
        for steps in COUNTS:
            times = subject.component.times(sde, steps)
            assert len(times) == steps + 1, f"{label}, {steps} steps: found {len(times)} times, expected {steps + 1}"
            ends = [float(times[0]), float(times[-1])]
            assert ends == [1.0, 0.0], f"{label}, {steps} steps: the ends are {ends}, expected [1, 0]"
            if steps > 1:
                found = float(times[-2])
                assert found == sde.t_min, (
                    f"{label}, {steps} steps: the last level is at {found}, expected t_min {sde.t_min}"
                )


def decreases(subject: Subject) -> None:
    """Every time is below the one before it."""
    for label, sde in sdes(subject):
        for steps in COUNTS:
            gaps = subject.component.times(sde, steps).diff()
            assert bool((gaps < 0).all()), f"{label}, {steps} steps: times rise by {float(gaps.max())} somewhere"


def is_float64_on_the_cpu(subject: Subject) -> None:
    """Times are float64 on the CPU, whatever the device of the run."""
    for label, sde in sdes(subject):
        times = subject.component.times(sde, 10)
        found = (times.dtype, times.device.type)
        assert found == (torch.float64, "cpu"), f"{label}: found {found}, expected float64 on the CPU"


def refuses_no_steps(subject: Subject) -> None:
    """Zero and negative step counts are a ValueError that names the number."""
    sde = sdes(subject)[0][1]
    for steps in (0, -3):
        message = ""
        try:
            subject.component.times(sde, steps)
        except ValueError as error:
            message = str(error) or "no message"
        assert message, f"{steps} steps were accepted, expected a ValueError"
        assert str(steps) in message, f"the error for {steps} steps does not name them: {message}"


CHECKS = (runs_from_one_to_zero, decreases, is_float64_on_the_cpu, refuses_no_steps)
