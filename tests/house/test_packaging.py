"""The wheel holds everything, and what it holds runs from elsewhere; so does a plain checkout."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the tree, so that no build folder is left behind."""
    copy = tmp_path_factory.mktemp("source") / "scoresde"
    ignored = shutil.ignore_patterns(".git", "build", "*.egg-info", "__pycache__", ".*_cache", ".venv", "scoresde-runs")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignored)
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(out), str(copy)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The wheel unpacked into an empty folder."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def scoresde(path: Path, *arguments: str, module: str = "scoresde_run.commands.shell", cwd: Path | None = None) -> str:
    """Runs with ``path`` first on the import path and nothing of this checkout."""
    code = (
        f"import sys; sys.path.insert(0, {str(path)!r}); "
        f"sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(f)]; "
        f"from {module} import main; sys.exit(main({list(arguments)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd or path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_data_as_well_as_code(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for name in (
        "scoresde_core/py.typed",
        "scoresde_core/__init__.pyi",
        "scoresde_run/py.typed",
        "scoresde_conformance/py.typed",
        "scoresde_plugins/py.typed",
        "scoresde_bench/py.typed",
        "scoresde_plugins/registry.yaml",
        "scoresde_plugins/extractors/mnist_classifier.safetensors",
        "scoresde_plugins/targets/mnist_mfa.safetensors",
        "scoresde_plugins/targets/cifar10_mfa.safetensors",
        "scoresde_plugins/checkpoints/mnist_vp/model.yaml",
        "scoresde_plugins/checkpoints/mnist_vp/weights.safetensors",
        "scoresde_plugins/checkpoints/mnist_vp/tuned.json",
        "scoresde_plugins/checkpoints/mnist_classifier/model.yaml",
        "scoresde_plugins/checkpoints/mnist_classifier/weights.safetensors",
        "scoresde_plugins/scaffold/files/pyproject.toml.j2",
        "scoresde_plugins/scaffold/kinds/sdes.py.j2",
        "scoresde_bench/templates/report.html.j2",
    ):
        assert name in names
    assert {name.split("/")[0] for name in names if not name.split("/")[0].endswith("dist-info")} == {
        "scoresde",
        "scoresde_core",
        "scoresde_run",
        "scoresde_conformance",
        "scoresde_plugins",
        "scoresde_bench",
    }
    assert len({name for name in names if name.endswith("LICENSE")}) == 1


def test_the_wheel_runs_from_elsewhere(installed, tmp_path):
    listed = json.loads(scoresde(installed, "list", "sdes", "--json", cwd=tmp_path))
    assert {"ve", "vp", "subvp", "linear_ve"} <= {row["name"] for row in listed}
    shown = json.loads(scoresde(installed, "show", "sde", "vp", "--json", cwd=tmp_path))
    assert shown["source"].startswith(str(installed))
    arguments = ["--steps", "2", "--samples", "16", "--sde", "vp", "--out", "here"]
    assert "report" in scoresde(installed, *arguments, module="scoresde_bench.cli", cwd=tmp_path)
    arguments = ["--checkpoint", "mnist_vp", "--n", "1", "--steps", "1", "--device", "cpu", "--out", "digit"]
    assert "1 samples of shape [1, 28, 28]" in scoresde(installed, "sample", *arguments, cwd=tmp_path)


def test_a_plain_checkout_finds_its_own_plugins(tmp_path):
    """No distribution, no entry point: only the tree, as after ``git clone``."""
    copy = tmp_path / "clone"
    for name in ("scoresde", "scoresde_core", "plugins", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("results"))
    for name in ("pyproject.toml", "registry.yaml"):
        shutil.copy(ROOT / name, copy / name)
    code = (
        "import sys, importlib.metadata as m; sys.path.insert(0, '.'); "
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(f)]; "
        "real = m.entry_points; "
        "m.entry_points = lambda **k: [p for p in real(**k) if p.dist.name != 'scoresde']; "
        "sys.argv = ['scoresde', 'show', 'sde', 'vp', '--json']; import scoresde_core.__main__"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["source"].startswith(str(copy))


def test_listing_is_quick_and_imports_no_torch():
    code = (
        "import sys, time; t = time.perf_counter(); from scoresde_run.commands.shell import main; main(['list']); "
        "print(time.perf_counter() - t, 'torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    _, torch_loaded = done.stderr.split()
    assert torch_loaded == "False"
