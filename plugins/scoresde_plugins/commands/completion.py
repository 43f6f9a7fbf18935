"""``scoresde completion SHELL``: a script with which the shell completes commands, components and parameters.

The script asks the program itself, with the word so far in ``SCORESDE_COMPLETE`` and the words before it as arguments;
the parser that would read these answers instead (:class:`scoresde_run.commands.shell.Parser`). Nothing imports torch:
the parameters of a component are read from its source.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import attrs
from scoresde_core import KINDS, Command, Kind, Registry, ScoreSDEError, find_kind, lazy
from scoresde_core.importing import find_spec

SHELLS = ("bash", "zsh", "fish")
NAMED = {"features": "extractors", "data.dataset": "datasets", "model.network": "networks", "model.sde": "sdes",
         "training.loss": "losses", "sampling.sampler": "samplers", "model": "checkpoints"}  # fmt: skip
"""Options and settings that take a component of a kind with another name."""


@attrs.frozen
class CompletionCommand(Command):
    """Prints a script that completes commands, components and parameters: ``source <(scoresde completion bash)``."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("shell", choices=SHELLS, help="the shell that reads the script")

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        script = files("scoresde_plugins").joinpath(f"scaffold/completion/{arguments.shell}.j2")
        sys.stdout.write(script.read_text(encoding="utf-8"))
        return 0

    def answers(
        self, parser: argparse.ArgumentParser, given: Sequence[str], word: str, registry: Registry
    ) -> list[str]:
        """The words that may stand where ``word`` does, after the words ``given`` to the program."""
        words = list(given)
        while (group := _subcommands(parser)) is not None:
            at = next((k for k, w in enumerate(words) if w in group.choices), None)
            if at is None:
                break
            parser, words = group.choices[words[at]], words[at + 1 :]
        action, before = _reader(parser, words)
        if word.startswith("-"):
            found = [text for text in parser._option_string_actions if text.startswith("--")]
        else:
            found = list(_values(action, before, word, registry)) if action else []
            found += [] if action and action.option_strings else getattr(parser, "words", ())
        return sorted({text for text in found if text.startswith(word)})


def _subcommands(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser] | None:
    return next((a for a in parser._actions if isinstance(a, argparse._SubParsersAction)), None)


def _reader(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[argparse.Action | None, list[str]]:
    """The argument that reads the word after ``words``, and the positional words before it."""
    positionals = [action for action in parser._actions if not action.option_strings]
    before: list[str] = []
    option: argparse.Action | None = None
    for text in words:
        if text.startswith("-"):
            option = parser._option_string_actions.get(text)
            option = None if option is not None and option.nargs == 0 else option
        elif option is None:
            before.append(text)
        elif option.nargs not in ("+", "*"):
            option = None
    if option is not None:
        return option, before
    last = len(before) if len(before) < len(positionals) else -1
    many = positionals and positionals[-1].nargs in ("+", "*")
    return (positionals[last] if positionals and (last >= 0 or many) else None), before


def _values(action: argparse.Action, before: Sequence[str], word: str, registry: Registry) -> Iterator[str]:
    """What an argument takes: a choice, a kind, or components with parameters."""
    if action.choices is not None:
        yield from map(str, action.choices)
    elif action.dest == "kind":
        yield from (text for kind in KINDS.values() for text in (kind.name, kind.singular))
    elif action.dest == "name" and before:
        yield from _components(_kind(before[0]), word, registry)
    elif "=" in word.partition("[")[0]:  # a setting, as of train
        key, _, value = word.partition("=")
        yield from (f"{key}={text}" for text in _components(_kind(NAMED.get(key, "")), value, registry))
    else:
        dest = action.dest.removesuffix("s") if action.dest not in NAMED else action.dest
        yield from _components(_kind(NAMED.get(dest, dest)), word, registry)


def _kind(name: str) -> Kind | None:
    try:
        return find_kind(name)
    except ScoreSDEError:
        return None


def _components(kind: Kind | None, word: str, registry: Registry) -> Iterator[str]:
    """Names of a kind; within brackets, parameters and their values."""
    if kind is None:
        return
    name, bracket, inside = word.partition("[")
    if not bracket:
        yield from (registry.shown_name(entry) for entry in registry.entries(kind.name))
        return
    claims = registry.claims(kind.name, name)
    if len(claims) != 1 or kind.data or not isinstance(claims[0].row.target, str):
        return
    known = fields(*claims[0].row.target.split(":"))
    depths = [inside[:k].count("[") - inside[:k].count("]") for k in range(len(inside) + 1)]
    start = max((k + 1 for k, c in enumerate(inside) if c == "," and depths[k] == 0), default=0)
    head, part = f"{name}[{inside[:start]}", inside[start:]
    key, equals, value = part.partition("=")
    if not equals:
        yield from (f"{head}{key}=" for key in known)
        return
    taken = known.get(key, "")
    inner = next((k for k in KINDS.values() if k.contract.rpartition(":")[2] in taken.replace("|", " ").split()), None)
    plain = ["true", "false"] if "bool" in taken else _literals(taken)
    yield from (f"{head}{key}={text}" for text in (*plain, *_components(inner, value, registry)))


def _literals(annotation: str) -> list[str]:
    """The words of a ``Literal``."""
    if "Literal[" not in annotation:
        return []
    return [
        n.value for n in ast.walk(ast.parse(annotation)) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    ]


def fields(module: str, name: str) -> dict[str, str]:
    """The parameters of a class and its bases, each with its annotation, read from the source of ``module``."""
    return {key: annotation for key, annotation in _declared(module, name).items() if annotation}


@cache
def _declared(module: str, name: str) -> dict[str, str]:
    """The fields of an attrs class and its bases; those that are no parameters without an annotation."""
    spec = find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return {}
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    imports = {
        alias.asname or alias.name: (_absolute(module, spec.submodule_search_locations is not None, node), alias.name)
        for node in body if isinstance(node, ast.ImportFrom) for alias in node.names
    }  # fmt: skip
    node = next((node for node in body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if node is None and spec.submodule_search_locations is not None:
        imports = {known: (home, known) for known, home in lazy.homes(module).items()} | imports
    if node is None:
        return _declared(*imports[name]) if name in imports else {}
    found: dict[str, str] = {}
    for base in map(ast.unparse, reversed(node.bases)):
        found |= _declared(*imports.get(base, (module, base)))
    decorated = any("attrs." in ast.unparse(decorator) for decorator in node.decorator_list)
    for line in node.body if decorated else ():
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            found[line.target.id.lstrip("_")] = ast.unparse(line.annotation) if _is_parameter(line) else ""
    return found


def _absolute(module: str, package: bool, node: ast.ImportFrom) -> str:
    parts = module.split(".")
    inside = parts[: len(parts) + int(package) - node.level] if node.level else []
    return ".".join([*inside, *([node.module] if node.module else [])])


def _is_parameter(line: ast.AnnAssign) -> bool:
    annotation, value = ast.unparse(line.annotation), ast.unparse(line.value) if line.value else ""
    return not (annotation.startswith("ClassVar") or "handed_registry" in value or "init=False" in value)
