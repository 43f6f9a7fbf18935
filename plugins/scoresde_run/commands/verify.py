"""``scoresde verify``: whether stored results are what was written."""

import argparse
import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import attrs
from safetensors import SafetensorError, safe_open
from yaml import YAMLError
from scoresde_core import Command, FileError, Registry, UsageError
from ..machine import document
from ..machine.digest import DIGEST, SEAL, is_changed, is_sealed, of_tensors
from ..results.results import parse

Finding = tuple[Path, str, str]  # a path, whether it is ``sound``, ``not checked`` or ``damaged``, and the reason


@attrs.frozen
class VerifyCommand(Command):
    """Checks the digests in runs, checkpoints, folders of results and files of tensors; exit code 1 if one is wrong.

    Files without a digest, such as those of older versions, are listed as not checked.
    """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        text = "a run, a checkpoint, results, or a page or .safetensors file"
        parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help=text)

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        states: list[str] = []
        for folder in arguments.folders:
            before = len(states)
            for path, state, reason in _findings(folder):
                # Most reasons are errors, which name a file themselves.
                text = reason if str(path) in reason else ": ".join(filter(None, (str(path), reason)))
                print(f"{state:13}{text}", flush=True)
                states.append(state)
            if len(states) == before:
                raise UsageError(f"{folder} holds no training run, checkpoint or results: name a folder that does")
        print(", ".join(f"{states.count(state)} {state}" for state in ("sound", "not checked", "damaged")))
        return 1 if "damaged" in states else 0


def _findings(folder: Path) -> Iterator[Finding]:
    from ..models import checkpoint
    from ..training import run, state

    def readable(place: Path) -> None:
        state.read(place).tensors()

    if folder.is_file():
        yield _tried(folder, _tensors if folder.suffix == ".safetensors" else _sealed)
    for name, check in ((checkpoint.INDEX, _checkpoint), (state.INDEX, readable)):
        if (folder / name).is_file():
            yield _tried(folder, check)
    if (folder / run.CONFIG).is_file():
        for name, check in ((run.CHECKPOINTS, readable), (run.MODELS, _checkpoint)):
            yield from (_tried(path, check) for path in sorted((folder / name).glob("step_*")))
        yield _tried(folder / run.CONFIG, _sealed)
        if (folder / run.METRICS).is_file():
            yield _tried(folder / run.METRICS, _metrics)
    if (folder / "results.jsonl").is_file():
        yield from _results(folder)
    for index in sorted(folder.glob("*.yaml")):
        if index.name not in (checkpoint.INDEX, run.CONFIG):
            yield _tried(index, _record)


def _tried(path: Path, check: Callable[[Path], str | None]) -> Finding:
    """Sound, unless ``check`` raises, or returns why nothing is checked."""
    try:
        unchecked = check(path)
    except (FileError, OSError, ValueError, SafetensorError, YAMLError) as error:
        return path, "damaged", str(error)
    return path, "not checked" if unchecked else "sound", unchecked or ""


def _told(sound: bool | None, path: Path, when: str = "when it was written") -> str | None:
    """Raise :class:`FileError` for what is not sound; None: there is nothing to tell it by."""
    if sound is False:
        raise FileError(f"{path}: it is not as it was {when}")
    return "it has no digest" if sound is None else None


def _checkpoint(folder: Path) -> str | None:
    from ..models import checkpoint

    checkpoint.read(folder).states()
    index = document.load((folder / checkpoint.INDEX).read_text(encoding="utf-8"))
    return None if DIGEST in index else "its weights are sound, its index has no digest"


def _results(folder: Path) -> Iterator[Finding]:
    path, rows = folder / "results.jsonl", []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").split("\n"), 1):
        row, wrong = parse(line, path) if line.strip() else ({}, None)
        if wrong:
            yield path, "damaged", f"{path}, line {number}: {wrong}"
        elif row:
            rows.append(row)
    checked = sum(DIGEST in row for row in rows)
    yield path, "sound" if checked else "not checked", f"{checked} of {len(rows)} rows have a digest"
    named = {folder / row["picture"] for row in rows if row.get("picture")}
    for picture in sorted(path for path in named if not path.is_file()):
        yield picture, "damaged", "a row names it, and it is missing"
    if (folder / "report.html").is_file():
        yield _tried(folder / "report.html", _sealed)


def _sealed(path: Path) -> str | None:
    return _told(is_sealed(path.read_bytes()), path)


def _metrics(path: Path) -> str | None:
    """Compare the metrics with what the newest state says of those before it."""
    from ..training import run, state

    for place in sorted((path.parent / run.CHECKPOINTS).glob("step_*"), reverse=True):
        known = None
        with suppress(FileError):
            known = state.read(place).log
        if known:
            content = hashlib.sha256(path.read_bytes()[: known["bytes"]]).hexdigest()
            return _told(content == known["sha256"], path, f"when {place.name} was saved")
    return _told(None, path)


def _record(path: Path) -> str | None:
    """Check the index of a result, and the files that it names."""
    from ..models.checkpoint import file_hash

    record = document.load(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict) or SEAL not in record:
        return _told(None, path)
    _told(not is_changed(record, SEAL), path)
    for name, known in record["sha256"].items():
        _told(file_hash(path.parent / name) == known, path.parent / name)
    return None


def _tensors(path: Path) -> str | None:
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return _told(about[DIGEST] == of_tensors(tensors, about) if DIGEST in about else None, path)
