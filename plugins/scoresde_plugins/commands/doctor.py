"""``scoresde doctor``: what a report of a fault needs to say, in one block."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import attrs

from scoresde_core.command import Command
from scoresde_core.registry import Registry, missing_requirements
from scoresde_run.machine.version import own_version

IMPORTED = ("torch", "torchvision", "torchdiffeq", "matplotlib")
"""Libraries whose import may fail although they are installed, as torchvision's does beside another build of torch."""
WIDTH = 78


@attrs.frozen
class DoctorCommand(Command):
    """Prints versions, devices, plugins, what is missing and free space, to paste into a report."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print JSON")

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        found = dict(_facts(registry))
        if arguments.json:
            print(json.dumps(found, indent=2))
            return 0
        for name, value in found.items():
            items = [f"{key} {text}" for key, text in value.items()] if isinstance(value, dict) else value
            text = "; ".join(items) if isinstance(items, list) else items
            line = f"{name + ':':<11}{text or 'nothing'}"
            print(
                textwrap.fill(line, WIDTH, subsequent_indent=" " * 11, break_on_hyphens=False, break_long_words=False)
            )
        return 0


def _facts(registry: Registry) -> Iterator[tuple[str, Any]]:
    """What the report says, in its order."""
    yield "scoresde", f"{own_version()} in {Path(__file__).parents[2]}"
    yield "python", f"{platform.python_version()} at {sys.executable}"
    yield "system", f"{platform.platform()}, {os.cpu_count()} cores, {_memory()}"
    broken = {name: why for name in IMPORTED if (why := _import(name))}
    bare = _libraries()
    yield "libraries", {name: _version(name) for name in bare}
    yield "devices", ["cannot be asked: torch cannot be imported"] if "torch" in broken else list(_devices())
    states = {s.owner: f"{s.version} {s.state}, {s.detail or f'{len(s.rows)} components'}" for s in registry.statuses}
    yield "plugins", states
    needed: dict[str, list[str]] = defaultdict(list)
    for entry in registry.entries():
        for name in missing_requirements(entry.row):
            needed[name].append(entry.row.name)
    absent = {name: "is not installed" for name in bare if _version(name) == "missing"}
    optional = {name: f"for {', '.join(users)}: pip install {name}" for name, users in needed.items()}
    yield "missing", {**absent, **{name: f"cannot be imported: {why}" for name, why in broken.items()}, **optional}
    places = {"here": Path.cwd(), "temporary": Path(tempfile.gettempdir())}
    yield "free", {f"{key} ({path})": _size(shutil.disk_usage(path).free) for key, path in places.items()}
    asked = ("SCORESDE_", "OMP_", "CUDA_VISIBLE")
    yield "settings", {key: value for key, value in sorted(os.environ.items()) if key.startswith(asked)}


def _libraries() -> list[str]:
    """The distributions that ours needs; a plain checkout is none, and tells nothing."""
    try:
        needs = requires("scoresde") or []
    except PackageNotFoundError:
        return list(IMPORTED)
    return sorted({re.split(r"[^\w.-]", text)[0] for text in needs if "extra ==" not in text})


def _devices() -> Iterator[str]:
    import torch

    yield f"cpu, {torch.get_num_threads()} threads"
    for k in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(k)
        yield f"cuda:{k}, {about.name}, {_size(about.total_memory)}, CUDA {torch.version.cuda}"
    if torch.backends.mps.is_available():
        yield "mps"


def _import(name: str) -> str:
    """Why a library cannot be imported, in one line; empty if it can."""
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken installation may raise anything
        return " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _memory() -> str:
    try:
        return f"{_size(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))} of memory"
    except (AttributeError, OSError, ValueError):  # not every system tells
        return "memory unknown"


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
