"""A page for every folder of committed results: its table with date, device, versions and command."""

import contextlib
import io
import json
import re
import tempfile
from pathlib import Path

from mkdocs.structure.files import File
from scoresde_bench.cli import main

HOME = Path(__file__).parents[2] / "benchmarks" / "results"
FOLDERS = sorted(path.parent for path in HOME.glob("*/results.jsonl"))
HEAD = """# Results

Every committed table, with date, device, versions and command; `scoresde-bench compare NAME MINE` compares a run of
yours with one. Read their metrics, not their seconds: all but `quick` shared the machine with other work.

| results | what | date | device | versions |
|---|---|---|---|---|
"""


def on_config(config):
    """Put the pages into the navigation."""
    results = next(entry["Results"] for entry in config.nav if "Results" in entry)
    results[1:1] = [{folder.name: f"results/{folder.name}.md"} for folder in FOLDERS]
    return config


def on_files(files, config):
    """Add the pages."""
    readme = (HOME / "README.md").read_text(encoding="utf-8")
    what = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", readme, re.M))
    rows = []
    for folder in FOLDERS:
        first = json.loads((folder / "results.jsonl").open(encoding="utf-8").readline())
        name, about = folder.name, what.get(folder.name, "").strip()
        link = ""
        if not (folder / "pictures").exists():  # with them a page has megabytes
            files.append(File.generated(config, f"results/{name}/page.html", content=_report(folder, "html")))
            link = f"[Sort, filter and plot them]({name}/page.html).\n\n"
        text = re.sub(r"^# (.*)$", r"**\1**", _report(folder, "markdown"), count=1, flags=re.M)
        text = re.sub(r"\nCommands of single cells:\n\n```\n.*?```\n", "", text, flags=re.S)
        text = f"# {name}\n\n{about[:1].upper()}{about[1:]}.\n\n{link}{text}"
        files.append(File.generated(config, f"results/{name}.md", content=text))
        facts = (first["date"][:10], first["device"], f"scoresde {first['scoresde']}, torch {first['torch']}")
        rows.append(f"| [{name}]({name}.md) | {about} | {' | '.join(facts)} |")
    files.append(File.generated(config, "results/index.md", content=HEAD + "\n".join(rows) + "\n"))
    return files


def _report(folder, kind):
    """What ``scoresde-bench report`` makes of a folder."""
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        path = Path(place) / "report"
        assert main(["report", str(folder), "--format", kind, "--out", str(path)]) == 0
        return path.read_text(encoding="utf-8")
