"""Every code block of the README is executed, in order, in one empty folder."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
COMMANDS = [line for language, block in BLOCKS if language == "bash" for line in block.strip().splitlines()]
PYTHON = [block for language, block in BLOCKS if language == "python"]
MODULES = {"scoresde": "scoresde_core", "scoresde-bench": "scoresde_bench"}


def run(arguments, folder, timeout=600):
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_there_is_no_other_kind_of_block():
    assert {language for language, _ in BLOCKS} == {"bash", "python"}


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command, tmp_path):
    """``pip install`` is resolved without installing over this environment; ``pytest`` is collected, not nested."""
    program, *arguments = shlex.split(command)
    if program == "pip":
        assert arguments[0] == "install"
        run(
            [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--no-build-isolation", *arguments[1:]],
            ROOT,
        )
    elif program == "pytest":
        assert "test_readme.py" in run([sys.executable, "-m", "pytest", "--collect-only", "-q"], ROOT)
    else:
        assert run([sys.executable, "-m", MODULES[program], *arguments], tmp_path)


def test_the_main_job_writes_what_the_readme_says(tmp_path):
    arguments = ["--predictor", "reverse_diffusion", "--corrector", "langevin", "--steps", "3", "--samples", "64"]
    run([sys.executable, "-m", "scoresde_bench", *arguments, "--out", "here"], tmp_path)
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"results.jsonl", "report.html", "pictures"}
    assert len(list((tmp_path / "here" / "pictures").iterdir())) == 3


def test_python_blocks(tmp_path, capsys):
    """In one namespace, as a reader would type them."""
    namespace: dict = {}
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), namespace)
    assert "torch.Size([1000, 2])" in capsys.readouterr().out


def test_links_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / link).exists(), link
