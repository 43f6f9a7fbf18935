"""A likelihood that is killed goes on to the same bits; two processes give the bits of one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from scoresde_plugins.likelihood.likelihood import FlowDensity
from scoresde_run.commands.shell import main
from scoresde_run.machine import files
from scoresde_run.results import fingerprint

ASKED = ["likelihood", "--target", "gaussian[shape=[1,4,4],std=0.3]", "--dataset", "a.npz", "--batch-size", "3",
         "--repeats", "2", "--latents", "--device", "cpu"]  # fmt: skip
IMAGES = 11


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, and the likelihood ``straight`` that nobody stopped."""
    folder = tmp_path_factory.mktemp("likelihood")
    save(folder / "a.npz", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*ASKED, "--out", "straight"]) == 0
    return folder


def save(path, seed):
    np.savez(path, images=np.random.default_rng(seed).integers(0, 256, (IMAGES, 4, 4), dtype=np.uint8))


def arrays(folder):
    return dict(np.load(folder / "likelihood.npz"))


def same(folder, other):
    first, second = arrays(folder), arrays(other)
    assert first.keys() == second.keys() == {"index", "bits_per_dim", "nfe", "exact", "latents"}
    for name, value in first.items():
        assert np.array_equal(value, second[name]), name
    records = [yaml.safe_load((place / "likelihood.yaml").read_text()) for place in (folder, other)]
    for record in records:
        assert record.pop("seconds") > 0
        assert len(record.pop("seal")) == 64  # of all of it, the seconds included
    assert records[0] == records[1]
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["likelihood.npz", "likelihood.yaml"]


@pytest.fixture
def stopped(place, monkeypatch):
    """Runs the command until it writes its n-th file; returns the batches of events that it measured before that."""
    monkeypatch.chdir(place)

    def run(out, n, *more):
        calls, measured, write, measure = 0, [], files.write, FlowDensity.measure

        def stop(path, content):
            nonlocal calls
            calls += 1
            if calls == n:
                data = content if isinstance(content, bytes) else content.encode()
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_name(f".{path.name}.{os.getpid()}.part").write_bytes(data[: len(data) // 2])
                raise KeyboardInterrupt
            write(path, content)

        def counting(self, model, x, seed=0, first=0):
            measured.append((first, seed))
            return measure(self, model, x, seed, first)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "write", stop)
            patch.setattr(FlowDensity, "measure", counting)
            return main([*ASKED, *more, "--out", out]), measured

    return run


class TestStopped:
    def test_no_batch_is_measured_twice(self, place, stopped):
        """Each of four batches is two passes; the first file says what the others are."""
        assert stopped("it", 4) == (130, [(first, seed) for first in (0, 3, 6) for seed in (0, 1)])
        assert list((place / "it/parts").glob("*/.*.part"))
        assert stopped("it", 99) == (0, [(first, seed) for first in (6, 9) for seed in (0, 1)])
        same(place / "it", place / "straight")

    def test_with_the_arrays_written_and_the_record_not(self, place, stopped):
        assert stopped("torn", 7)[0] == 130
        assert (place / "torn/likelihood.npz").exists()
        assert stopped("torn", 99) == (0, [])
        same(place / "torn", place / "straight")

    def test_another_request_goes_on_with_nothing(self, stopped):
        assert stopped("other", 4)[0] == 130
        assert len(stopped("other", 99, "--seed", "7")[1]) == 8

    def test_other_events_in_the_same_file_are_measured(self, place, stopped):
        shutil.copy("a.npz", "kept.npz")
        assert stopped("events", 4)[0] == 130
        save("a.npz", 1)
        assert len(stopped("events", 99)[1]) == 8
        shutil.move("kept.npz", "a.npz")

    def test_batches_of_edited_source_are_measured_again(self, stopped, monkeypatch):
        assert stopped("edited", 4)[0] == 130
        read = fingerprint.of_source
        monkeypatch.setattr(
            fingerprint, "of_source", lambda module: {**read(module), "scoresde_core": "0123456789abcdef"}
        )
        assert len(stopped("edited", 99)[1]) == 8

    def test_what_is_finished_stays(self, place, stopped, capsys):
        before = (place / "straight/likelihood.yaml").read_bytes()
        assert stopped("straight", 99) == (0, [])
        assert "wrote straight/likelihood.yaml" in capsys.readouterr().out
        assert (place / "straight/likelihood.yaml").read_bytes() == before
        assert stopped("straight", 99, "--seed", "7") == (3, [])
        assert "straight exists: choose another --out, or remove it" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("how", "words"),
        [([], "the probability flow ODE could not be solved"), (["--bound", "--times", "100"], "from event 3 on")],
    )
    def test_a_batch_without_a_value_ends_it(self, place, monkeypatch, capsys, how, words):
        monkeypatch.chdir(place)
        points = np.zeros((5, 2), np.float32)
        points[3] = np.nan
        np.savez("nan.npz", points=points)
        asked = ["likelihood", "--target", "mixture2d", "--dataset", "nan.npz", "--batch-size", "1", *how]
        assert main([*asked, "--out", f"nan{len(how)}"]) == 1
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1
        assert not Path(f"nan{len(how)}/likelihood.yaml").exists()


def torchrun(place, *arguments):
    start = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, *start, "-m", "scoresde_core", *arguments]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_two_processes_are_one(place, stopped):
    """They go on with what a single one left."""
    assert stopped("two", 3)[0] == 130
    done = torchrun(place, *ASKED, "--out", "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bits/dim, ") == 1
    same(place / "two", place / "straight")
