"""Kills a training run with SIGKILL again and again, resumes it each time, and compares its end with an unkilled run.

    python benchmarks/studies/kill/kill_training.py
    python benchmarks/studies/kill/kill_training.py --kills 100 --seed 1

A small network on 8 x 8 pixels, with everything that draws random numbers (dropout, flips, dequantisation, parts of a
batch), saves its state after every step. Of five lives (processes), one is killed at a random time of its start, three
during a save, from the creation of its folder on, and one after a save. Compared bit by bit: weights, averages, the
optimiser's moments, saved models, and metrics.

Exit code 0: all equal; 1: something differs, or a life failed.
"""

import argparse
import contextlib
import json
import multiprocessing
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from scoresde_core.registry import load_registry
from scoresde_run.machine.processes import Processes
from scoresde_run.models import checkpoint
from scoresde_run.training import state as training_state
from scoresde_run.training.run import CHECKPOINTS, METRICS, MODELS, TrainingRun
from scoresde_run.training.trainer import Trainer, plan_training

STEPS_A_KILL = 8
CHANGES = ["model.network=ncsnpp[nf=32,num_res_blocks=1,ch_mult=[1],attn_resolutions=[],dropout=0.2,fir=false]",
           "model.shape=[1,8,8]", "training.batch_size=8", "training.accumulate=2", "training.warmup=10",
           "training.log_every=5", "training.evaluate_every=10", "training.resume_every=1",
           "training.snapshot_every=20", "training.ema_warmup=true", "data.random_flip=true",
           "data.dequantizer=uniform", "sampling.sampler.steps=1", "sampling.n=2"]  # fmt: skip


def train(config, folder):
    """A life: train from the newest state to the end, unless killed."""
    torch.set_num_threads(1)
    registry = load_registry()
    for _ in TrainingRun(
        Trainer(plan_training(config, registry), Processes(torch.device("cpu"))), folder, registry.hook
    ):
        pass


def life(config, folder, processes):
    """Start a process that trains."""
    child = processes.Process(target=train, args=(config, folder))
    child.start()
    return child


def kill_at_random(child, folder, rng):
    """Kill ``child`` at a random time; returns what was being written, or None. :class:`TooLate` if it had ended."""
    left = half_done(folder)  # from the previous life, until this one removes it
    manner = rng.choice(["start", "save", "save", "save", "after"])
    if manner == "start":
        child.join(rng.uniform(0, 2))
    elif manner == "save":
        wait_until(child, lambda: half_done(folder).keys() - left)
        time.sleep(rng.uniform(0, 0.02))
    else:
        before = training_state.latest_step(folder / CHECKPOINTS)
        wait_until(child, lambda: training_state.latest_step(folder / CHECKPOINTS) != before)
        child.join(rng.uniform(0, 0.2))
    child.kill()
    child.join()
    if child.exitcode != -signal.SIGKILL:
        raise TooLate
    now = half_done(folder)
    return next((now[path] for path in now.keys() - left), None)


class TooLate(Exception):
    """The process ended before it was killed."""


def wait_until(child, happened):
    """Wait until ``happened()``, or the child has ended."""
    while child.is_alive() and not happened():
        time.sleep(0.0002)


def half_done(folder):
    """What is being written or removed, by path: a scratch folder exists until it is renamed or removed."""
    places = {"a state": CHECKPOINTS, "a model": MODELS}
    return {path: what for what, place in places.items() for path in (folder / place).glob(".step_*")}


def differences(folder, other):
    """Names of everything in which two finished runs differ, except speeds."""
    ends = [max((f / CHECKPOINTS).glob("step_*")) / training_state.TENSORS for f in (folder, other)]
    first, second = (load_file(end) for end in ends)
    found = sorted(first.keys() ^ second.keys())
    found += [name for name in first.keys() & second.keys() if not torch.equal(first[name], second[name])]
    for path in sorted((other / MODELS).glob("step_*")):
        if checkpoint.read(folder / MODELS / path.name).hashes != checkpoint.read(path).hashes:
            found.append(f"the model {path.name}")
    rows = [[json.loads(line) for line in (f / METRICS).read_text().splitlines()] for f in (folder, other)]
    for row in rows[0] + rows[1]:
        row.pop("events_per_second", None)
    return found + (["the metrics"] if rows[0] != rows[1] else [])


def main():
    options = _options()
    rng, hit, kills, runs, seconds = random.Random(options.seed), [], 0, 0, time.monotonic()
    processes = multiprocessing.get_context("forkserver")
    # The fork server has imported everything, so that lives spend no time on imports.
    processes.set_forkserver_preload(["scoresde_run.training.run", "scoresde_plugins.song2021.losses"])
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
        np.savez(here / "tiny.npz", images=images)
        changes = [f"data.dataset=npz[path={here}/tiny.npz]", f"training.iterations={STEPS_A_KILL * options.kills}"]
        config = load_registry().create("presets", "mnist_vp").override([*CHANGES, *changes])
        straight = life(config, here / "straight", processes)
        straight.join()
        assert straight.exitcode == 0
        while kills < options.kills:
            folder = here / f"run_{runs}"
            wrong = one_run(config, folder, processes, options.kills - kills, rng, hit)
            kills, runs = len(hit), runs + 1
            wrong += differences(folder, here / "straight")
            if wrong:
                print(f"run {runs} differs after {kills} kills: {', '.join(wrong)}")
                return 1
    writing = {name: hit.count(name) for name in ("a state", "a model")}
    print(
        f"{kills} kills in {runs} runs of {config.training.iterations} steps, seed {options.seed}: "
        f"{writing['a state']} while writing a state, {writing['a model']} while writing a model, "
        f"{hit.count(None)} elsewhere; all ends equal that of an undisturbed run bit by bit "
        f"({time.monotonic() - seconds:.0f} s)"
    )
    return 0


def one_run(config, folder, processes, kills, rng, hit):
    """Kill a run up to ``kills`` times and let it end; returns its failures."""
    while True:
        child = life(config, folder, processes)
        if kills > 0:
            with contextlib.suppress(TooLate):
                hit.append(kill_at_random(child, folder, rng))
                kills -= 1
                continue
        child.join()
        return [] if child.exitcode == 0 else [f"a life ended with exit code {child.exitcode}"]


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random times")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
