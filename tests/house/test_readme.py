"""Every code block of the README is executed, each command in an empty folder."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from runs import rows_in
from scoresde_run.commands.shell import main as scoresde

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
COMMANDS = [line for language, block in BLOCKS if language == "bash" for line in block.strip().splitlines()]
PYTHON = [block for language, block in BLOCKS if language == "python"]


def test_there_is_no_other_kind_of_block():
    assert {language for language, _ in BLOCKS} == {"bash", "python"}


def of(*programs):
    """The commands of these programs."""
    return [command for command in COMMANDS if command.split()[0] in programs]


def test_every_command_is_tried():
    assert len(of("pip", "pytest", "scoresde", "scoresde-bench")) == len(COMMANDS)


@pytest.mark.parametrize("command", of("pip"))
def test_what_pip_is_to_install(command):
    """Resolved without installing over this environment."""
    _, install, *what = shlex.split(command)
    assert install == "install"
    options = ["--dry-run", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", install, *options, *what],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", of("pytest"))
def test_pytest_alone_finds_this_file(command, pytestconfig):
    assert shlex.split(command) == ["pytest", "-n", "2", "--dist", "loadfile"]
    assert pytestconfig.inipath == ROOT / "pyproject.toml"
    assert [ROOT / path for path in pytestconfig.getini("testpaths")] == [Path(__file__).parents[1]]


@pytest.mark.parametrize("command", of("scoresde"))
def test_command(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert scoresde(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("command", of("scoresde-bench"))
def test_sweep(command, bench, tmp_path):
    """As typed it is only planned; it then runs with few samples, and few steps where the command leaves them open."""
    words = shlex.split(command)[1:]
    code, planned, err = bench(*words, "--dry-run")
    assert code == 0, err
    fewer = ["--samples", "4"] if "mnist_vp" in words else ["--samples", "16"]
    fewer += [] if "--steps" in words else ["--steps", "2,3,4"]
    code, out, err = bench(*words, *fewer, "--out", "here")
    assert code == 0, out + err
    cells = len(rows_in(tmp_path / "here"))
    assert planned.splitlines()[-1].startswith(f"{cells} cell")
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"results.jsonl", "report.html", "pictures"}
    assert len(list((tmp_path / "here" / "pictures").iterdir())) == cells


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
