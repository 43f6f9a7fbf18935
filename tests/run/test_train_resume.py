"""A killed run is resumed to the same bits, whenever it is killed and whatever it was writing."""

import json
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import children
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scoresde_core.errors import FileError, UsageError
from scoresde_core.registry import load_registry
from scoresde_run.commands.shell import main
from scoresde_run.machine.processes import Processes
from scoresde_run.models import checkpoint
from scoresde_run.models.config import Config
from scoresde_run.training import state as training_state
from scoresde_run.training.run import TrainingRun
from scoresde_run.training.trainer import Trainer, plan_training

KILLS = int(os.environ.get("SCORESDE_TEST_KILLS", "3"))
STEPS = 30
# Dropout, flips, dequantisation and parts of a batch: everything that draws.
CHANGES = ["model.network=ncsnpp[nf=4,num_res_blocks=1,ch_mult=[1],attn_resolutions=[],dropout=0.2,fir=false]",
           "model.shape=[1,8,8]", "training.batch_size=8", "training.accumulate=2", "training.warmup=10",
           "training.log_every=7", "training.evaluate_every=10", "training.resume_every=3",
           "training.snapshot_every=12", f"training.iterations={STEPS}", "training.ema_warmup=true",
           "data.random_flip=true", "data.dequantizer=uniform", "sampling.sampler.steps=1", "sampling.n=2"]  # fmt: skip


def train(config: Config, folder: Path, stop_after: int | None = None) -> TrainingRun:
    """Run in ``folder`` to the end, or stop after some steps."""
    torch.set_num_threads(1)
    registry = load_registry()
    made = Trainer(plan_training(config, registry), Processes(torch.device("cpu")))
    begin = None

    def stop() -> bool:
        nonlocal begin
        begin = made.state.step - 1 if begin is None else begin
        return stop_after is not None and made.state.step - begin >= stop_after

    run = TrainingRun(made, folder, registry.hook, stop)
    for _ in run:
        pass
    return run


def train_until(config: Config, folder: Path, step: int, victim: str) -> None:
    """Train, and be killed while the state of ``step`` is written: in the middle of, or before, ``victim``."""
    name = training_state.name_of(step)
    original = getattr(training_state, victim)

    def die(*arguments):
        here = any(name in path.name for path in (folder / "checkpoints").iterdir())
        if here:
            if victim == "write_tensors":  # half of the file
                original(*arguments)
                os.truncate(arguments[0], arguments[0].stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    setattr(training_state, victim, die)
    train(config, folder)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8))
    return load_registry().create("presets", "mnist_vp").override([f"data.dataset=npz[path={path}]", *CHANGES])


@pytest.fixture(scope="module")
def straight(config, tmp_path_factory):
    """The folder of an unbroken run."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    train(config, folder)
    return folder


def same(folder: Path, other: Path) -> None:
    """Weights, averages, optimiser and metrics of two runs, bit by bit; speeds aside."""
    tensors = [
        load_file(f / "checkpoints" / training_state.name_of(STEPS) / training_state.TENSORS) for f in (folder, other)
    ]
    assert tensors[0].keys() == tensors[1].keys()
    assert any(name.startswith("optimizer.exp_avg_sq.") for name in tensors[0])
    for name, value in tensors[0].items():
        assert torch.equal(value, tensors[1][name]), name
    for step in (12, 24, STEPS):
        first, second = (checkpoint.read(f / "models" / training_state.name_of(step)) for f in (folder, other))
        assert first.hashes == second.hashes
    metrics = [[json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (folder, other)]
    for row in [*metrics[0], *metrics[1]]:
        row.pop("events_per_second", None)
    assert metrics[0] == metrics[1]


class TestKilled:
    def test_at_random_moments(self, config, straight, tmp_path):
        folder, kills, torn, rng = tmp_path / "run", 0, 0, random.Random(KILLS)
        while True:
            child = children.start(train, config, folder, folder=tmp_path)
            if kills < KILLS:
                if rng.random() < 0.7:  # after it has saved something, so that the run gets somewhere
                    self.wait_for_progress(child, folder / "checkpoints")
                    child.join(rng.uniform(0, 0.05))
                else:
                    child.join(rng.uniform(0, 1))
                child.kill()
                kills += 1
            child.join(60)
            if child.exitcode == 0:
                break
            assert child.exitcode == -signal.SIGKILL
            torn += bool(list(folder.glob("*/.step_*")))
        print(f"{kills} kills, {torn} of them in the middle of writing")
        same(folder, straight)

    def wait_for_progress(self, child, folder: Path) -> None:
        before, deadline = training_state.latest_step(folder), time.monotonic() + 60
        while child.is_alive() and before == training_state.latest_step(folder):
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def test_in_the_middle_of_writing_a_state(self, config, straight, tmp_path):
        for step, victim in ((6, "write_tensors"), (9, "digest_of"), (12, "discard")):
            child = children.start(train_until, config, tmp_path / "run", step, victim, folder=tmp_path)
            child.join(60)
            assert child.exitcode == -signal.SIGKILL
            # A state is there whole or not at all: before the rename it is not, after it, it is.
            newest, _ = training_state.newest(tmp_path / "run/checkpoints")
            assert newest.step == (step if victim == "discard" else step - 3)
            assert list((tmp_path / "run").glob("checkpoints/.step_*")) or victim == "discard"
        train(config, tmp_path / "run")
        assert not list((tmp_path / "run").glob("checkpoints/.*"))
        same(tmp_path / "run", straight)

    def test_stopped_between_any_two_states(self, config, straight, tmp_path):
        for steps in (1, 4, 2, 10, 100):
            train(config, tmp_path / "run", stop_after=steps)
        same(tmp_path / "run", straight)

    def test_sigterm_saves_and_exits_cleanly(self, config, straight, tmp_path):
        (tmp_path / "it.yaml").write_text(config.override(["training.resume_every=1000"]).to_yaml())
        slow = (
            "import time, scoresde_run.training.trainer as t; step = t.Trainer._step; "
            "t.Trainer._step = lambda *a: (time.sleep(0.05), step(*a))[1]"
        )
        code = f"{slow}\nimport sys; from scoresde_run.commands.shell import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", code, "train", "it.yaml", "--out", "run", "--device", "cpu"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        child = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        metrics = tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while not metrics.exists() or not metrics.read_text():
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.01)
        child.terminate()
        _, err = child.communicate(timeout=60)
        assert child.returncode == 0
        saved = training_state.latest_step(tmp_path / "run/checkpoints")
        assert 7 <= saved < STEPS
        assert f"stopped after step {saved}, its state saved: repeat the command to resume" in err
        train(config, tmp_path / "run")
        same(tmp_path / "run", straight)


@pytest.fixture(scope="module")
def template(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped") / "run"
    train(config, folder, stop_after=8)
    return folder


class TestDamage:
    @pytest.fixture
    def stopped(self, template, tmp_path):
        """A run with states of steps 3, 6 and 8."""
        return Path(shutil.copytree(template, tmp_path / "run"))

    @pytest.mark.parametrize(
        ("name", "harm", "words"),
        [
            (
                training_state.TENSORS,
                lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
                "is damaged: its sha256",
            ),
            (training_state.TENSORS, lambda data: data[: len(data) // 2], "is damaged: its sha256"),
            (training_state.INDEX, lambda data: data.replace(b'"step": 8', b'"step": 9'), "its digest does not match"),
            (training_state.INDEX, lambda data: data[:40], "cannot read"),
            (training_state.INDEX, None, "cannot read"),
        ],
        ids=["a bit", "half a file", "a number", "half an index", "no index"],
    )
    def test_the_one_before_is_taken_with_a_warning(self, stopped, config, caplog, name, harm, words):
        path = stopped / "checkpoints" / training_state.name_of(8) / name
        whole = {key: value.clone() for key, value in training_state.read(path.parent).tensors().items()}
        if harm is None:
            path.unlink()
        else:
            path.write_bytes(harm(path.read_bytes()))
        with caplog.at_level(logging.WARNING):
            saved, _ = training_state.newest(stopped / "checkpoints")
        assert saved.step == 6
        (warning,) = caplog.messages
        assert words in warning
        assert "step_000000008" in warning
        assert warning.endswith("taking the checkpoint before it")
        train(config, stopped, stop_after=2)  # which writes a whole state in place of the damaged one
        assert training_state.newest(stopped / "checkpoints")[0].step == 8
        for name, value in training_state.read(stopped / "checkpoints" / training_state.name_of(8)).tensors().items():
            assert torch.equal(value, whole[name]), name

    def test_a_damaged_state_takes_no_other_ones_place(self, stopped, config):
        """A damaged newest state does not count among the kept ones, so that earlier states remain."""
        (stopped / "checkpoints" / training_state.name_of(8) / training_state.INDEX).write_text("{")
        changed = config.override(["training.keep=1", "training.resume_every=1000"])
        assert train(changed, stopped, stop_after=1).state.step == 7
        assert train(changed, stopped, stop_after=2).state.step == 9
        assert sorted(p.name for p in (stopped / "checkpoints").iterdir()) == [training_state.name_of(9)]

    def test_processes_that_see_different_folders(self, stopped, config):
        class Elsewhere(Processes):
            def exchange(self, value):
                return [value, 0]

        made = Trainer(plan_training(config, load_registry()), Elsewhere(torch.device("cpu")))
        run = TrainingRun(made, stopped, load_registry().hook)
        with pytest.raises(FileError, match=r"different steps \[8, 0\] in .*: they must share one folder"):
            next(iter(run))

    def test_lines_that_are_no_metrics(self, stopped, config, straight):
        with (stopped / "metrics.jsonl").open("ab") as file:
            file.write(b'3\n{"loss": 1}\n\xff\xfe\n{"step": 99, "lo')
        train(config, stopped)
        same(stopped, straight)

    def test_a_run_whose_states_are_all_damaged_does_not_start_afresh(self, stopped, config):
        for path in stopped.glob("checkpoints/*/" + training_state.INDEX):
            path.write_text("{")
        with pytest.raises(FileError, match="3 are damaged: start again with --fresh"):
            train(config, stopped)

    def test_a_full_disk_leaves_the_old_states(self, stopped, config, straight):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # no file may grow beyond this
        try:
            with pytest.raises(FileError, match=r"cannot write .*step_000000009"):
                train(config, stopped)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert sorted(p.name for p in (stopped / "checkpoints").iterdir()) == [f"step_{n:09d}" for n in (3, 6, 8)]
        train(config, stopped)
        same(stopped, straight)

    def test_a_newer_version_says_so(self, stopped):
        place = stopped / "checkpoints" / training_state.name_of(8)
        index = json.loads((place / training_state.INDEX).read_text())
        (place / training_state.INDEX).write_text(json.dumps({**index, "version": 99}))
        with pytest.raises(FileError, match="version 99, this scoresde reads up to 1: upgrade"):
            training_state.read(place)

    def test_tensors_of_another_network(self, stopped, config):
        made = Trainer(plan_training(config, load_registry()), Processes(torch.device("cpu")))
        saved = training_state.read(stopped / "checkpoints" / training_state.name_of(8))
        tensors = saved.tensors()
        name = next(name for name in tensors if name.startswith("average."))
        del tensors[name]
        with pytest.raises(FileError, match=f"1 missing; the first is missing: {name}"):
            training_state.restore(made.state, saved, tensors)

    def test_another_configuration_is_refused(self, stopped, config):
        with pytest.raises(UsageError, match=r"training\.batch_size: 8 -> 16"):
            train(config.override(["training.batch_size=16"]), stopped)


class TestState:
    def test_float16_keeps_its_loss_scale(self, config, tmp_path):
        half = config.override(["training.precision=float16", "training.iterations=5"])
        train(half, tmp_path / "run", stop_after=2)
        run = train(half, tmp_path / "run")
        assert run.state.scaler.state_dict()["_growth_tracker"] == 5
        train(half, tmp_path / "straight")
        assert checkpoint.read(tmp_path / "run").hashes == checkpoint.read(tmp_path / "straight").hashes

    def test_channels_last_goes_on_too(self, config, tmp_path):
        last = config.override(["training.channels_last=true", "training.iterations=8"])
        for steps in (3, 100):
            run = train(last, tmp_path / "run", stop_after=steps)
        assert any(
            s["exp_avg"].stride() != s["exp_avg"].contiguous().stride() for s in run.state.optimizer.state.values()
        )
        train(last, tmp_path / "straight")
        assert checkpoint.read(tmp_path / "run").hashes == checkpoint.read(tmp_path / "straight").hashes

    def test_two_runs_in_one_folder(self, config, tmp_path, capsys):
        (tmp_path / "it.yaml").write_text(config.to_yaml())
        (tmp_path / "run").mkdir()
        holder = (
            "import fcntl, sys; f = open('run/.lock', 'a'); fcntl.lockf(f, fcntl.LOCK_EX); "
            "print(1, flush=True); sys.stdin.read()"
        )
        pipe = subprocess.PIPE
        with subprocess.Popen([sys.executable, "-c", holder], cwd=tmp_path, stdin=pipe, stdout=pipe) as child:
            child.stdout.readline()
            code = main(["train", str(tmp_path / "it.yaml"), "--out", str(tmp_path / "run"), "--device", "cpu"])
            child.stdin.close()
        assert (code, "another process is training in" in capsys.readouterr().err) == (3, True)

    def test_there_is_no_pickle(self, straight):
        names = sorted(path.suffix for path in (straight / "checkpoints").rglob("*") if path.is_file())
        assert set(names) == {".json", ".safetensors"}
