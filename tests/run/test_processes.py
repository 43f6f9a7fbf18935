"""Ranks and devices of processes; test_train_distributed.py has two connected processes."""

import os
import subprocess
import sys

import pytest
import torch
from scoresde_core.errors import UsageError
from scoresde_run.commands.shell import main
from scoresde_run.machine import processes
from scoresde_run.machine.device import find_device, use_tf32
from scoresde_run.machine.processes import Processes, joined


@pytest.mark.parametrize("name", ["meta", "cuda:99", "mps", "tpu", "hpu", ""])
def test_a_device_that_is_not_there(name):
    with pytest.raises(UsageError, match=f"there is no device {name!r}: this machine has cpu"):
        find_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "auto"])
def test_a_gpu_that_cannot_be_used(name, monkeypatch):
    """The device is full, used exclusively by another process, or too old for this torch."""

    def ones(*_, **__):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nSearch for ...")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch, "ones", ones)
    with pytest.raises(UsageError) as caught:
        find_device(name)
    assert str(caught.value) == (
        f"the device {name!r} cannot be used: CUDA error: no kernel image is available for execution on the device"
    )


def test_a_device_is_the_one_that_its_tensors_say():
    for name in ("cpu", "auto"):
        device = find_device(name)
        assert torch.zeros(1, device=device).device == device


@pytest.mark.parametrize("allowed", [False, True])
def test_tf32_is_for_products_and_convolutions_alike(allowed):
    before = torch.backends.cudnn.allow_tf32
    try:
        use_tf32(allowed)
        assert torch.backends.cudnn.allow_tf32 is allowed
        assert torch.backends.cuda.matmul.allow_tf32 is allowed
    finally:
        torch.backends.cudnn.allow_tf32 = before
        torch.set_float32_matmul_precision("highest")


def test_what_is_sampled_as_float32_is_float32(monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr("scoresde_run.commands.opened.use_tf32", told.append)
    few = ["--n", "2", "--steps", "2", "--device", "cpu"]
    assert main(["sample", "--target", "mixture2d", *few, "--out", str(tmp_path / "o")]) == 0
    assert told == [False]


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:1"])
def test_more_processes_than_gpus(monkeypatch, device):
    """Every process, with a GPU or without, raises this before it waits for the others."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"RANK": 0, "WORLD_SIZE": 3, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 3}.items():
        monkeypatch.setenv(name, str(value))
    message = "3 processes need 3 GPUs, this machine has 2: use --nproc-per-node 2"
    with pytest.raises(UsageError, match=message), joined(device):
        pass


def test_each_takes_the_gpu_of_its_number_and_touches_no_other(monkeypatch):
    asked = []

    def find(name):
        asked.append(name)
        raise UsageError("enough")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("scoresde_run.machine.processes.find_device", find)
    for name, value in {"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UsageError, match="enough"), joined("auto"):
        pass
    assert asked == ["cuda:1"]


def test_a_process_by_itself():
    alone = Processes(torch.device("cpu"))
    alone.wait()
    assert alone.any(True)
    assert not alone.any(False)
    assert alone.exchange("a") == ["a"]


def test_an_environment_that_torchrun_did_not_write(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UsageError, match="WORLD_SIZE must be a number, got 'two'"), joined("cpu"):
        pass


@pytest.fixture
def two(monkeypatch):
    """This process as the first of two on GPUs, whose group is not there; returns what is done to it."""
    done = []
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("scoresde_run.machine.processes.find_device", lambda name: torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **how: done.append(backend))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: done.append("parted"))
    monkeypatch.setattr("atexit.register", lambda *call: done.append(call))
    monkeypatch.setattr("atexit.unregister", lambda call: done.append(call))
    return done


def test_processes_part_when_all_is_done(two):
    with joined("cpu") as found:
        assert found.count == 2
    assert two == ["nccl", (processes._leave,), processes._leave, "parted"]


def test_a_process_that_failed_waits_for_no_other_to_part(two):
    with pytest.raises(OSError, match="disk full"), joined("cpu"):
        raise OSError("disk full")
    assert two == ["nccl", (processes._leave,)]


@pytest.mark.parametrize(("words", "code"), [(["list", "sdes"], 0), (["list", "sdess"], 2)])
def test_one_of_several_ends_with_its_words_and_its_code(words, code):
    """Output to a pipe is buffered until it is flushed."""
    command = [sys.executable, "-m", "scoresde_core", *words]
    done = subprocess.run(command, env={**os.environ, "WORLD_SIZE": "2"}, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("subvp" in done.stdout, bool(done.stderr)) == (code == 0, code != 0)
