"""Checks whether torch.compile can work: its backend generates code that a local compiler must translate."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec

import torch


def missing(device: torch.device) -> str | None:
    """Return why no network can be compiled for ``device`` on this machine, or None."""
    if device.type == "cpu":
        program = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(program.split()[0]) is None:
            return f"torch.compile needs a C++ compiler and {program} was not found: install one, or set CXX"
    elif find_spec("triton") is None:
        return "torch.compile needs the package triton for this device: install it"
    return None
