"""Pages of the reference, made when the site is built: one a kind from the registry, one a package from the docstrings.

Everything is asked of the installed ``scoresde`` itself, so that a page cannot say what a command does not.
"""

import contextlib
import io
import json
import re
from pathlib import Path
from urllib.parse import quote

from mkdocs.structure.files import File
from scoresde_core import KINDS, default_registry, lazy
from scoresde_run.commands.shell import main

REGISTRY = default_registry()
SHOWN = {kind: entries for kind in KINDS.values() if (entries := REGISTRY.entries(kind.name))}
PACKAGES = {
    "core": ("scoresde_core", "The core: processes, scores, samplers, the registry"),
    "data": ("scoresde_run.data", "Data"),
    "models": ("scoresde_run.models", "Models and checkpoints"),
    "training": (("scoresde_run.training", "scoresde_run.machine"), "Training"),
    "results": (
        ("scoresde_run.results", "scoresde_run.commands", "scoresde_bench", "scoresde.functions"),
        "Results, and functions",
    ),
    "sampling": (("scoresde_run.sampling", "scoresde_run.features"), "Conditions and features"),
    "evaluators": ("scoresde_plugins.evaluators", "Evaluators"),
}
INDEX = """# Reference

Every component that can be named in a command or in Python, with its formula, parameters and paper, as `scoresde show`
prints them. A plugin adds its own. The classes and functions behind them: [Python](python/index.md).

| kind | bundled | what it is |
|---|--:|---|
"""
ROLE = r":(?:class|func|meth|mod|data|attr):<code>(?:~[\w.]*\.|\.)?([\w.]+)</code>"


def on_config(config):
    """Put the generated pages into the navigation, and pages that it does not name at the end of a section."""
    sections = {title: pages for entry in config.nav for title, pages in entry.items()}
    kinds = [{_title(kind): f"reference/{kind.name}.md"} for kind in SHOWN]
    python = [{title: f"reference/python/{name}.md"} for name, (_, title) in PACKAGES.items()]
    sections["Reference"][1:1] = [{"Components": kinds}, {"Python": ["reference/python/index.md", *python]}]
    named = set(re.findall(r"[\w/]+\.md", json.dumps(config.nav)))
    sections["Use"] += sorted({path.name for path in Path(config.docs_dir).glob("*.md")} - named)
    return config


def on_files(files, config):
    """Add the pages."""
    pages = {f"reference/{kind.name}.md": _kind_page(kind) for kind in SHOWN} | dict(_python_pages())
    rows = (f"| [{_title(kind)}]({kind.name}.md) | {len(SHOWN[kind])} | {kind.summary} |\n" for kind in SHOWN)
    pages["reference/index.md"] = INDEX + "".join(rows)
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_content(html, **_):
    """Show the names in docstrings without their role, as in :class:`~scoresde_core.sde.SDE`."""
    return re.sub(ROLE, r"<code>\1</code>", html)


def _title(kind):
    return "SDEs" if kind.name == "sdes" else kind.name.capitalize()


def _kind_page(kind):
    about = f"{kind.summary[0].upper()}{kind.summary[1:]}. `scoresde list {kind.name}` prints this list, "
    about += f"`scoresde show {kind.singular} NAME`"
    rows = [entry.row for entry in SHOWN[kind]]
    if kind.data:
        table = [f"| `{row.name}` | {row.summary} | {paper(row.paper)} |" for row in rows]
        lines = [f"{about} a file.\n", "| name | what it is | paper |", "|---|---|---|", *table]
    else:
        lines = [f"{about} an entry.\n", " · ".join(f"[`{row.name}`](#{row.name})" for row in rows)]
    for row in () if kind.data else rows:
        lines += [f"\n## `{row.name}` {{: #{row.name} }}\n\n**{row.summary}**\n"]
        if kind.name == "commands":
            lines += ["```text", _printed(row.name.replace("_", "-"), "--help").rstrip(), "```", "", paper(row.paper)]
        else:
            lines += _component(kind, row)
    return "\n".join([f"# {_title(kind)}\n", *lines, ""])


def _component(kind, row):
    record = json.loads(_printed("show", kind.name, row.name, "--json"))
    doc = re.sub(r"^( *\S.*)::$", r"\1:", record["doc"], flags=re.M)
    lines = [re.sub(r"docs/(\w+)\.md", r"[\1.md](../\1.md)", doc), ""]
    lines += ["| parameter | type | default | |", "|---|---|---|---|"] * bool(record["parameters"])
    for p in record["parameters"]:
        default = "required" if p["required"] else f"`{p['default']}`"
        cells = (f"`{p['name']}`", p["type"], default, p["help"])
        lines.append(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |")
    facts = {"Aliases": ", ".join(f"`{alias}`" for alias in row.aliases)}
    facts |= {"Grid": record["grid"] and f"`{record['grid']}`", "Paper": paper(row.paper)}
    facts |= {"Class": f"`{record['target']}`"}
    return [*lines, "", " · ".join(f"{label}: {text}" for label, text in facts.items() if text)]


def _printed(*words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):  # help exits
        assert main(list(words)) == 0, words
    return out.getvalue()


def paper(text):
    """A citation with its arXiv numbers and DOIs as links."""
    text = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text or "")
    return re.sub(r"doi:(\S+)", lambda found: f"[doi:{found[1]}](https://doi.org/{quote(found[1])})", text)


def _python_pages():
    homes = lazy.homes("scoresde")
    rows = []
    for key, (package, title) in PACKAGES.items():
        names = [name for name, home in homes.items() if home.startswith(package)]
        linked = ", ".join(f"[`{name}`][{homes[name]}.{name}]" for name in names)
        blocks = "\n\n".join(f"::: {homes[name]}.{name}" for name in names)
        yield f"reference/python/{key}.md", f"# {title}\n\nFrom `scoresde` you import {linked}.\n\n{blocks}\n"
        rows.append(f"| [{title}]({key}.md) | {linked} |")
    about = "Every name below is imported from `scoresde`, on first use. Pages give formulas, shapes, units and errors."
    yield "reference/python/index.md", f"# Python\n\n{about}\n\n| page | names |\n|---|---|\n" + "\n".join(rows) + "\n"
