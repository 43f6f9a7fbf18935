"""What a release is made of: one version, the commands of the README, pinned workflows, licences that may be used."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAIN_JOB = ["scoresde-bench", "--predictor", "reverse_diffusion", "--corrector", "langevin"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_is_in_one_place_and_its_copy_agrees():
    assert yaml.safe_load(read("CITATION.cff"))["version"] == PROJECT["version"]
    assert f"## {PROJECT['version']}" in read("CHANGELOG.md")
    code = [
        path for top in ("scoresde", "scoresde_core", "plugins", "benchmarks") for path in (ROOT / top).rglob("*.py")
    ]
    assert not [path for path in code if "__version__ =" in path.read_text(encoding="utf-8")]


def test_ci_runs_the_commands_of_the_readme():
    readme, ci = read("README.md"), read(".ci/run")
    for command in (" ".join(MAIN_JOB), "pytest -n 2 --dist loadfile", "pip install '.[test]'"):
        assert re.search(rf"^{re.escape(command)}$", readme, re.M), command
        assert command.replace("pip install", "pip install --quiet") in ci or command in ci, command
    assert len(readme.splitlines()) <= 120


def test_the_image_runs_the_main_job_as_a_user():
    lines = read("Dockerfile").splitlines()
    (default,) = (json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD "))
    assert default == MAIN_JOB
    assert [line for line in lines if line.startswith("USER ")][-1] not in ("USER root", "USER 0")
    assert {"ARG ACCELERATOR=cpu", "ARG PYTHON=3.11"} <= set(lines)
    container = json.loads(read(".devcontainer/devcontainer.json"))
    extras = re.findall(r"\[(.*)\]", container["postCreateCommand"])[0].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])


def test_every_instruction_of_the_image_is_run_by_the_study():
    """It refuses one that it does not know, but only after minutes."""
    used = set(re.findall(r"^([A-Z]+) ", read("Dockerfile"), re.M))
    known = set(re.findall(r"^    ([A-Z]+)\)", read("benchmarks/studies/image.sh"), re.M))
    assert {"FROM", "ARG", "COPY", "RUN", "USER", "CMD"} <= used <= known


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_pinned_limited_and_calls_what_is_there(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step.get("uses", "a/b@" + "0" * 40))
            for script in re.findall(r"^(\.ci/\w+)", step.get("run", ""), re.M):
                assert (ROOT / script).stat().st_mode & 0o111, script


def test_there_are_three_workflows():
    assert [path.stem for path in WORKFLOWS] == ["docs", "release", "test"]


def test_every_dependency_may_be_used():
    done = subprocess.run(
        [str(ROOT / ".ci" / "licences"), sys.executable], capture_output=True, text=True, timeout=60, check=False
    )
    if "scoresde " not in done.stdout:
        pytest.skip("scoresde is not installed here, but imported from its folder")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^torch +.*BSD", done.stdout, re.M)


def test_the_oldest_dependencies_are_read_from_the_project():
    """As ``.ci/bounds oldest`` reads them, which needs every bound to be of this form."""
    for line in PROJECT["dependencies"]:
        assert re.fullmatch(r"([\w.-]+)>=([\d.]+)(?:,.*)?", line), line


def test_the_site_is_built_with_all_that_components_require():
    """Otherwise the reference could not show them."""
    extras = PROJECT["optional-dependencies"]
    (own,) = (line for line in extras["docs"] if line.startswith("scoresde["))
    there = {re.match(r"[\w-]+", line)[0] for extra in own[9:-1].split(",") for line in extras[extra]}
    rows = yaml.safe_load(read("registry.yaml"))
    required = {
        name
        for kind in rows.values()
        if isinstance(kind, dict)
        for row in kind.values()
        for name in row.get("requires", ())
    }
    assert required
    assert required <= there
