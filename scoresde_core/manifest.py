"""Registry files: components as rows of data, so that listing them imports nothing.

    api: 1
    sdes:
      cosine_vp: {target: "my_package.sdes:CosineVP", summary: cosine schedule, paper: "arXiv:2102.09672"}

Keys of a row: ``target`` (required), ``summary``, ``paper``, for the help of a command an ``example`` and the ``page``
that explains it, and the lists ``aliases`` and ``requires`` (distributions that must be installed before the target can
be used). A file may declare kinds of its own:

    kinds:
      optimisers: {singular: optimiser, contract: "my_package.optimiser:Optimiser", summary: turns gradients into steps}

The components of a kind with ``data: true`` are files, read by its contract: ``my_package.presets:mnist.yaml``. All
errors in a file are reported at once.
"""

import re
from pathlib import Path
from typing import Any

import attrs
import yaml
from . import document
from .errors import FileError, ManifestError, near_misses
from .hookspecs import API
from .kinds import KINDS, Kind

NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
_MODULE = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"
TARGET = re.compile(rf"{_MODULE}:[A-Za-z_]\w*")
FILE_TARGET = re.compile(rf"{_MODULE}:(\w[\w.-]*/)*\w[\w.-]*\.yaml")


@attrs.frozen
class Row:
    """A component as declared; ``target`` is ``"package.module:Class"``, the class itself, or a file."""

    kind: str
    name: str
    target: Any
    summary: str = ""
    paper: str = ""
    aliases: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    example: str = ""
    page: str = ""


@attrs.frozen
class Manifest:
    """What a plugin declares: components and kinds."""

    rows: list[Row] = attrs.field(factory=list)
    kinds: list[Kind] = attrs.field(factory=list)


class NewerAPI(ManifestError):
    """A manifest written for a newer interface than this one."""


def read(path: Path) -> Manifest:
    """Read the registry file at ``path``."""
    try:
        text = document.regular(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot read the registry file {path}: {error}") from error
    return parse(text, str(path))


def parse(text: str, source: str) -> Manifest:
    """Read the registry file ``text``; one :class:`ManifestError` holds every problem and names ``source``."""
    try:
        data = document.load(text)
    except yaml.YAMLError as error:
        raise ManifestError(source, [f"not valid YAML: {error}"]) from error
    if not isinstance(data, dict):
        raise ManifestError(source, ["a registry file must be a mapping with 'api: 1' at the top"])
    api = data.pop("api", None)
    if not isinstance(api, int) or isinstance(api, bool) or api < 1:
        raise ManifestError(source, [f"'api' must be {API}, got {api!r}"])
    if api > API:
        raise NewerAPI(source, [f"needs api {api}, this version has api {API}: upgrade scoresde"])
    rows: list[Row] = []
    problems: list[str] = []
    own = _own_kinds(data.pop("kinds", {}), problems)
    kinds = {**KINDS, **{kind.name: kind for kind in own}}
    for kind, table in data.items():
        if kind not in kinds:
            problems.append(f"unknown kind {kind!r}.{near_misses(str(kind), list(kinds))}")
        elif not isinstance(table, dict):
            problems.append(f"{kind} must map names to rows")
        else:
            checked = [check_row(kinds[kind], name, fields, problems) for name, fields in table.items()]
            rows += [row for row in checked if row is not None]
    if problems:
        raise ManifestError(source, problems)
    return Manifest(rows, own)


def _own_kinds(table: Any, problems: list[str]) -> list[Kind]:
    """The kinds that a file declares; errors are added to ``problems``."""
    if not isinstance(table, dict):
        problems.append("kinds must map names to rows")
        return []
    found = []
    for name, fields in table.items():
        try:
            kind = Kind(name, **fields)
            texts = all(isinstance(text, str) for text in (name, kind.singular, kind.summary))
            if not (texts and TARGET.fullmatch(kind.contract)):
                raise TypeError
            found.append(kind)
        except TypeError:
            problems.append(
                f"kinds.{name} must have a singular, a contract such as 'package.module:Class', a summary and, "
                f"if its components are files, data: true; got {fields!r}"
            )
    return found


def check_row(kind: Kind, name: Any, fields: Any, problems: list[str]) -> Row | None:
    """The row; or None, with its errors added to ``problems``."""
    where, before = f"{kind.name}.{name}", len(problems)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        problems.append(f"{where}: a name must be lower-case letters, digits and underscores")
    if not isinstance(fields, dict):
        problems.append(f"{where}: a row must be a mapping with a target")
        return None
    known = [field.name for field in attrs.fields(Row) if field.name not in ("kind", "name")]
    problems += [f"{where}: unknown key {key!r}.{near_misses(str(key), known)}" for key in fields if key not in known]
    problems += [f"{where}: {problem}" for problem in _check_target(kind, fields.get("target"))]
    for key in ("summary", "paper", "example", "page"):
        if not isinstance(fields.get(key, ""), str):
            problems.append(f"{where}: {key} must be text, got {fields[key]!r}")
    for key in ("aliases", "requires"):
        value = fields.get(key, ())
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            problems.append(f"{where}: {key} must be a list of names, got {value!r}")
    if len(problems) > before:
        return None
    row: dict[str, Any] = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in fields.items()}
    return Row(kind.name, name, **row)


def _check_target(kind: Kind, target: Any) -> list[str]:
    data = kind.data
    pattern, example = (FILE_TARGET, "package.module:folder/file.yaml") if data else (TARGET, "package.module:Class")
    if isinstance(target, str):
        return [] if pattern.fullmatch(target) else [f"target must look like {example!r}, got {target!r}"]
    return [] if isinstance(target, type) and not data else [f"needs a target such as {example!r}"]
