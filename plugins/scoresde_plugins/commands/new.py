"""``scoresde new``: a distribution with one component that passes ``scoresde check``, by templates in ``scaffold``."""

import argparse
import keyword
import re
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
from scoresde_core import KINDS, Command, FileError, Kind, Registry, UsageError, near_misses, parse_value

TEMPLATES = files("scoresde_plugins") / "scaffold"
FILES = {"pyproject.toml": "pyproject.toml", "README.md": "README.md", "{name}/__init__.py": "init.py",
         "{name}/{kind}.py": "component", "{name}/registry.yaml": "registry.yaml", "tests/test_{name}.py": "test.py",
         ".github/workflows/test.yml": "workflow.yml"}  # fmt: skip
"""The template of each file."""


@attrs.frozen
class NewCommand(Command):
    """Writes a plugin package with one component: ``scoresde new predictor my_step``."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("kind", metavar="KIND", help=f"one of: {', '.join(_singulars())}")
        parser.add_argument("called", metavar="NAME", help="of the component, its package and its distribution")
        parser.add_argument("--folder", type=Path, metavar="DIR", help="where to write it (default: NAME)")

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        from scoresde_run.machine.files import check_new, make, new_folder

        kind, name = _kind(arguments.kind), _spelled(arguments.called)
        folder: Path = arguments.folder or Path(name)
        made = rendered(kind, name)
        if all((at := folder / path).is_file() and at.read_bytes() == text.encode() for path, text in made.items()):
            print(f"{folder} is the result of this command already")
            return 0
        if folder.exists():
            raise FileError(f"{folder} exists: choose another NAME or --folder, or remove it")
        _check_free(kind, name, registry)
        check_new(folder)
        with new_folder(folder) as scratch:
            for path, text in made.items():
                make((scratch / path).parent)
                (scratch / path).write_text(text, encoding="utf-8")
        print(f"wrote {folder}: pip install -e {folder} && scoresde check --dist {name}")
        return 0


def rendered(kind: Kind, name: str) -> dict[str, str]:
    """The text of every file of the package ``name`` with a component of ``kind``, by its path."""
    import jinja2

    def template(path: str) -> jinja2.Template:
        return environment.from_string(TEMPLATES.joinpath(f"{path}.j2").read_text(encoding="utf-8"))

    environment = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    contract = kind.contract.rpartition(":")[2].replace("Process", "SDE")
    known: dict[str, Any] = {"name": name, "kind": kind.name, "singular": kind.singular}
    known["cls"] = "".join(word.capitalize() for word in name.split("_")) + contract
    component: Any = template(f"kinds/{kind.name}.py").make_module(known)
    known |= {key: getattr(component, key) for key in ("summary", "paper", "use", "needs")}
    known["test"] = component.test().strip()
    texts = {key: template(f"files/{key}").render(known) for key in FILES.values() if key != "component"}
    texts["component"] = str(component).lstrip()
    return {path.format(**known): texts[key] for path, key in FILES.items()}


def _singulars() -> list[str]:
    return [kind.singular for kind in KINDS.values() if TEMPLATES.joinpath(f"kinds/{kind.name}.py.j2").is_file()]


def _kind(text: str) -> Kind:
    if (kind := next((kind for kind in KINDS.values() if text in (kind.name, kind.singular)), None)) is None:
        raise UsageError(f"no kind of component is called {text!r}.{near_misses(text, _singulars())}")
    if kind.singular not in _singulars():
        raise UsageError(f"there is no template of {kind.name}: take one of {', '.join(_singulars())}")
    return kind


def _spelled(name: str) -> str:
    """``name``, if Python, YAML and the command line read it as a name."""
    if re.fullmatch(r"[a-z][a-z0-9_]*", name) and not keyword.iskeyword(name) and parse_value(name) == name:
        return name
    close = re.sub(r"\W+", "_", name.strip().lower(), flags=re.ASCII).strip("_")
    close = close if re.match("[a-z]", close) and close != name else f"my_{close}".rstrip("_")
    raise UsageError(f"{name!r} is not a name: write small letters, digits and _, and no keyword, such as {close}")


def _check_free(kind: Kind, name: str, registry: Registry) -> None:
    spec = find_spec(name)
    owners = {re.sub("[-_.]+", "_", status.owner.lower()) for status in registry.statuses}
    if claims := registry.claims(kind.name, name):
        taken = f"the {kind.singular} {claims[0].qualified} exists"
    elif name in owners:
        taken = f"the plugin {name} is installed"
    elif name == "tests" or (spec and spec.origin):
        taken = f"{name} is a module already"
    else:
        return
    raise UsageError(f"{taken}: choose another name, such as my_{name}")
