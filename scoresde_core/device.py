"""Finding the device that a command was asked to use."""

from __future__ import annotations

import torch

from .errors import UsageError


def find_device(name: str) -> torch.device:
    """The device called ``name`` (``auto``: a GPU if there is one); one that is not there is an error."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = "cpu" + "".join(f", cuda:{i}" for i in range(torch.cuda.device_count()))
        raise UsageError(f"there is no device {name!r}: this machine has {there}") from error
    return device
