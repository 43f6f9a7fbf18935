"""``scoresde doctor``: what a report of a fault needs to say, in one block."""

import argparse
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import attrs
from scoresde_core.command import Command
from scoresde_core.plugins import one_line
from scoresde_core.registry import Registry, missing_requirements
from scoresde_run.machine.version import own_version

IMPORTED = ("torch", "torchvision", "torchdiffeq", "matplotlib")
"""Libraries whose import may fail although they are installed, as torchvision's does beside another build of torch."""
FAILED = "failed with "


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
        wrap = textwrap.TextWrapper(78, subsequent_indent=" " * 11, break_on_hyphens=False, break_long_words=False)
        for name, value in found.items():
            items = [f"{key} {text}" for key, text in value.items()] if isinstance(value, dict) else value
            print(wrap.fill(f"{name + ':':<11}{'; '.join(items) or 'nothing'}"))
        return 0


def _facts(registry: Registry) -> Iterator[tuple[str, Any]]:
    yield "scoresde", [f"{own_version()} in {Path(__file__).parents[2]}"]
    yield "python", [f"{platform.python_version()} at {sys.executable}"]
    memory = _told(lambda: _size(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    yield "system", [f"{platform.platform()}, {os.cpu_count()} cores, memory {memory}"]
    try:
        needs = sorted({re.split(r"[^\w.-]", text)[0] for text in requires("scoresde") or () if "extra ==" not in text})
    except PackageNotFoundError:  # a plain checkout
        needs = list(IMPORTED)
    versions = {name: _told(version, name) for name in needs}
    broken = {name: why for name in IMPORTED if FAILED in (why := _told(import_module, name))}
    yield "libraries", versions
    yield "devices", [_told(lambda: "; ".join(_devices()))]
    plugins = {s.owner: f"{s.version} {s.state}, {s.detail or f'{len(s.rows)} components'}" for s in registry.statuses}
    yield "plugins", plugins
    absent = {name: "is not installed" for name, text in versions.items() if text.startswith(FAILED)}
    for entry in registry.entries():
        for name in missing_requirements(entry.row):
            absent[name] = f"{absent.get(name, f'(pip install {name}) for')} {entry.row.name}"
    yield "missing", {**absent, **{name: f"cannot be imported: {why}" for name, why in broken.items()}}
    for_files = {"here": os.curdir, "temporary": tempfile.gettempdir()}
    yield "free", {name: _told(lambda p: _size(shutil.disk_usage(p).free), path) for name, path in for_files.items()}
    asked = ("SCORESDE_", "OMP_", "CUDA_VISIBLE")
    yield "settings", {key: value for key, value in sorted(os.environ.items()) if key.startswith(asked)}


def _devices() -> Iterator[str]:
    import torch

    yield f"cpu, {torch.get_num_threads()} threads"
    for k in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(k)
        yield f"cuda:{k}, {about.name}, {_size(about.total_memory)}, CUDA {torch.version.cuda}"
    if torch.backends.mps.is_available():
        yield "mps"


def _told(call: Callable[..., Any], *given: Any) -> str:
    """What ``call`` gives, or its error in one line: a broken installation may raise anything."""
    try:
        return str(call(*given))
    except Exception as error:
        return f"{FAILED}{one_line(error)}"


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
