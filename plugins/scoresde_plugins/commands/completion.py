"""``scoresde completion SHELL``: a script with which the shell completes commands, components and parameters.

The script runs the program with the word so far in ``SCORESDE_COMPLETE``; the parser then answers instead of reading
(:class:`scoresde_run.commands.shell.Parser`). Parameters are read from source, so nothing imports torch.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from importlib.util import resolve_name
from pathlib import Path

import attrs
from scoresde_core import KINDS, Command, Kind, Registry, lazy
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

    def answers(self, parser: argparse.ArgumentParser, words: list[str], word: str, registry: Registry) -> list[str]:
        """The words that may stand where ``word`` does, after the ``words`` given to the program."""
        while group := next((a for a in parser._actions if isinstance(a, argparse._SubParsersAction)), None):
            if (at := next((k for k, w in enumerate(words) if w in group.choices), None)) is None:
                break
            parser, words = group.choices[words[at]], words[at + 1 :]
        action, before = _reader(parser, words)
        if word.startswith("-"):
            found = [text for text in parser._option_string_actions if text.startswith("--")]
        else:
            found = list(_values(action, before, word, registry)) if action else []
            found += [] if action and action.option_strings else getattr(parser, "words", ())
        return sorted({text for text in found if text.startswith(word)})


def _reader(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[argparse.Action | None, list[str]]:
    """The argument that reads the word after ``words``, and the positional words before it."""
    before: list[str] = []
    option: argparse.Action | None = None
    takes = {text: action for text, action in parser._option_string_actions.items() if action.nargs != 0}
    for text in words:
        if text.startswith("-"):
            option = takes.get(text)
        elif option is None:
            before.append(text)
        elif option.nargs not in ("+", "*"):
            option = None
    positionals = [action for action in parser._actions if not action.option_strings]
    many = positionals[-1:] if positionals and positionals[-1].nargs in ("+", "*") else []
    return option or next(iter([*positionals[len(before) :], *many]), None), before


def _values(action: argparse.Action, before: Sequence[str], word: str, registry: Registry) -> Iterator[str]:
    """What an argument takes: a choice, a kind, or components with parameters."""
    if action.choices is not None:
        yield from map(str, action.choices)
    elif action.dest == "kind":
        yield from (text for kind in KINDS.values() for text in (kind.name, kind.singular))
    elif "=" in word.partition("[")[0]:  # a setting, as of train
        key, _, value = word.partition("=")
        yield from (f"{key}={text}" for text in _components(_kind(key), value, registry))
    else:
        name = before[0] if action.dest == "name" and before else action.dest
        yield from _components(_kind(name), word, registry)


def _kind(name: str) -> Kind | None:
    return next((kind for kind in KINDS.values() if NAMED.get(name, name) in (kind.name, kind.singular)), None)


def _components(kind: Kind | None, word: str, registry: Registry) -> Iterator[str]:
    """Names of a kind; within brackets, parameters and their values."""
    if kind is None:
        return
    name, bracket, inside = word.partition("[")
    if not bracket:
        yield from (registry.shown_name(entry) for entry in registry.entries(kind.name))
        return
    claims = registry.claims(kind.name, name)
    if len(claims) != 1 or kind.data or not isinstance(target := claims[0].row.target, str):
        return
    known = fields(*target.split(":"))
    commas = (k for k, c in enumerate(inside) if c == "," and inside[:k].count("[") == inside[:k].count("]"))
    start = max(commas, default=-1) + 1
    key, equals, value = inside[start:].partition("=")
    head = f"{name}[{inside[:start]}"
    if not equals:
        yield from (f"{head}{key}=" for key in known)
        return
    taken = known.get(key, "")
    words = ["true", "false"] if "bool" in taken else re.findall(r"'([^']+)'", taken.partition("Literal[")[2])
    inner = next((k for k in KINDS.values() if k.contract.rpartition(":")[2] in taken.replace("|", " ").split()), None)
    yield from (f"{head}{key}={text}" for text in (*words, *_components(inner, value, registry)))


def fields(module: str, name: str) -> dict[str, str]:
    """The parameters of an attrs class and its bases, each with its annotation, read from the source of ``module``."""
    return {key: annotation for key, annotation in _declared(module, name).items() if annotation}


@cache
def _declared(module: str, name: str) -> dict[str, str]:
    """As :func:`fields`, with fields that are no parameters, which have no annotation."""
    spec = find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return {}
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    imports: dict[str, tuple[str, str]] = {}
    if Path(spec.origin).with_suffix(".pyi").is_file():
        imports = {known: (home, known) for known, home in lazy.homes(module).items()}
    for node in body:
        if isinstance(node, ast.ImportFrom):
            home = resolve_name("." * node.level + (node.module or ""), spec.parent or None)
            imports |= {alias.asname or alias.name: (home, alias.name) for alias in node.names}
    if (made := next((node for node in body if isinstance(node, ast.ClassDef) and node.name == name), None)) is None:
        return _declared(*imports[name]) if name in imports else {}
    found: dict[str, str] = {}
    for base in map(ast.unparse, reversed(made.bases)):
        found |= _declared(*imports.get(base, (module, base)))
    decorated = any("attrs." in ast.unparse(decorator) for decorator in made.decorator_list)
    for line in made.body if decorated else ():
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            annotation, value = ast.unparse(line.annotation), ast.unparse(line.value) if line.value else ""
            other = annotation.startswith("ClassVar") or "handed_registry" in value or "init=False" in value
            found[line.target.id.lstrip("_")] = "" if other else annotation
    return found
