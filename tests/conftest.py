"""What every test may use: the shared data and golden files where they are present."""

import multiprocessing
import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # a core each: read when torch is imported, also by what a test starts
    os.environ.pop("COLUMNS", None)  # xdist's own width, by which tables would be wrapped

SHARED = Path(__file__).parents[2] / "shared"


PRELOADED = ["scoresde_plugins.evaluate.rows", "scoresde_run.training.run", "scoresde_plugins.song2021.losses",
             "torch._dynamo", "pytest"]  # fmt: skip
"""What every child of the fork server has imported; the first step of an optimiser needs ``torch._dynamo``."""


def pytest_configure() -> None:
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys):
    """Runs ``scoresde-bench`` in an empty folder; returns (exit code, stdout, stderr)."""
    from scoresde_bench.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden numbers and data, or a skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no shared/ folder beside the checkout")
    return SHARED
