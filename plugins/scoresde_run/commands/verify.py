"""``scoresde verify``: whether stored results are what was written."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from scoresde_core.command import Command
from scoresde_core.errors import FileError, UsageError
from scoresde_core.registry import Registry


@attrs.frozen
class Finding:
    """What was found at ``path``: ``sound``, ``not checked`` or ``damaged``, and the reason."""

    path: Path
    state: str = "sound"
    reason: str = ""

    def __str__(self) -> str:
        # Most reasons are errors, which name a file themselves.
        because = f": {self.reason}" if self.reason else ""
        return f"{self.state:13}" + (self.reason if str(self.path) in self.reason else f"{self.path}{because}")


@attrs.frozen
class VerifyCommand(Command):
    """Checks the digests in training runs, checkpoints and folders of results; exit code 1 if one is wrong.

    Files without a digest, such as those of older versions, are listed as not checked.
    """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="a run, a checkpoint, or results")

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        states: list[str] = []
        for folder in arguments.folders:
            before = len(states)
            for found in _findings(folder):
                print(found, flush=True)
                states.append(found.state)
            if len(states) == before:
                raise UsageError(f"{folder} holds no training run, checkpoint or results: name a folder that does")
        print(", ".join(f"{states.count(state)} {state}" for state in ("sound", "not checked", "damaged")))
        return 1 if "damaged" in states else 0


def _findings(folder: Path) -> Iterator[Finding]:
    """What is found of everything in ``folder`` that may have a digest."""
    from ..models import checkpoint
    from ..training import run, state

    if (folder / checkpoint.INDEX).is_file():
        yield _checkpoint(folder)
    if (folder / state.INDEX).is_file():
        yield _state(folder)
    if (folder / run.CONFIG).is_file():
        yield from map(_state, sorted((folder / run.CHECKPOINTS).glob("step_*")))
        yield from map(_checkpoint, sorted((folder / run.MODELS).glob("step_*")))
        for name in (run.CONFIG, run.METRICS):
            if (folder / name).is_file():
                yield Finding(folder / name, "not checked", "it has no digest")
    if (folder / "results.jsonl").is_file():
        yield from _results(folder)


def _state(folder: Path) -> Finding:
    from ..training import state

    return _tried(folder, lambda: state.read(folder).tensors())


def _checkpoint(folder: Path) -> Finding:
    from ..machine import document
    from ..machine.digest import DIGEST
    from ..models import checkpoint

    found = _tried(folder, lambda: checkpoint.read(folder).states())
    index = folder / checkpoint.INDEX
    if found.state == "sound" and DIGEST not in document.load(index.read_text(encoding="utf-8")):
        return Finding(folder, "not checked", "its weights are sound, its index has no digest")
    return found


def _results(folder: Path) -> Iterator[Finding]:
    """The rows, their pictures, and the page."""
    from ..machine.digest import DIGEST, is_sealed
    from ..results.results import parse

    path, rows, missing = folder / "results.jsonl", [], set[Path]()
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").split("\n"), 1):
        row, wrong = parse(line, path) if line.strip() else ({}, None)
        if wrong:
            yield Finding(path, "damaged", f"{path}, line {number}: {wrong}")
        elif row:
            rows.append(row)
            missing |= {folder / row["picture"]} if row.get("picture") else set()
    checked = sum(DIGEST in row for row in rows)
    yield Finding(path, "sound" if checked else "not checked", f"{checked} of {len(rows)} rows have a digest")
    for picture in sorted(path for path in missing if not path.is_file()):
        yield Finding(picture, "damaged", "a row names it, and it is missing")
    page = folder / "report.html"
    if page.is_file():
        sealed = is_sealed(page.read_bytes())
        yield Finding(page, {True: "sound", False: "damaged", None: "not checked"}[sealed], _PAGE[sealed])


_PAGE = {True: "", False: "it is not as it was written", None: "it has no digest"}


def _tried(path: Path, work: Callable[[], object]) -> Finding:
    try:
        work()
    except FileError as error:
        return Finding(path, "damaged", str(error))
    return Finding(path)
