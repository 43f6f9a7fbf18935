"""Kills a training run of two processes at random times: one of them, or the whole group with its torchrun.

    python tests/long/kill_training.py [--kills 10] [--folder DIR]

After every kill the command is repeated, and in the end the run must have the bits of an undisturbed one, but for
timings. A process that is killed alone takes the others with it (torchrun ends them), and none may be left.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import writers
from kill_sweep import alive, outlived

LONGER = [
    "training.iterations=60",
    "training.resume_every=5",
    "training.evaluate_every=10",
    "training.snapshot_every=20",
]


def start(place, log):
    program, *words = writers.COMMANDS["train"]
    assert program == "scoresde"
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "scoresde_core"]
    at = words.index("--device")
    return subprocess.Popen(
        [sys.executable, "-m", *command, *words[:at], *LONGER, *words[at:]],
        cwd=place, stdout=log, stderr=log, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def ranks_of(pid):
    """The processes that a torchrun has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in children.read_text().split()] if alive(pid) else []


def disturb(place, log, kills, rng, longest):
    hits = {"process": 0, "group": 0, "left": 0, "finished before": 0}
    while hits["process"] + hits["group"] < kills:
        process = start(place, log)
        time.sleep(rng.uniform(1, longest))
        ranks = ranks_of(process.pid)
        if process.poll() is not None or len(ranks) < 2:
            hits["finished before"] += process.wait() == 0
            if process.returncode == 0:
                shutil.rmtree(place / "out")
            continue
        if rng.random() < 0.5:
            os.kill(rng.choice(ranks), signal.SIGKILL)
            hits["process"] += 1
        else:
            os.killpg(process.pid, signal.SIGKILL)
            for rank in filter(alive, ranks):  # torchrun gives each a group of its own
                os.kill(rank, signal.SIGKILL)
            hits["group"] += 1
        process.wait()
        hits["left"] += len(outlived(ranks))
    return hits


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random times")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    (folder / "straight").mkdir(parents=True)
    log = (folder / "log").open("w")
    writers.prepare(folder / "straight")
    shutil.copytree(folder / "straight", folder / "disturbed")
    begun = time.monotonic()
    assert start(folder / "straight", log).wait() == 0, (folder / "log").read_text()
    quiet = time.monotonic() - begun
    hits = disturb(folder / "disturbed", log, options.kills, random.Random(options.seed), quiet)
    code = start(folder / "disturbed", log).wait()
    expected, found = writers.content(folder / "straight"), writers.content(folder / "disturbed")
    different = sorted(key for key in {*expected, *found} if expected.get(key) != found.get(key))
    hidden = writers.left(folder / "disturbed")
    print(json.dumps({**hits, "undisturbed_seconds": round(quiet, 1), "code": code, "different": different,
                      "temporary": hidden}, indent=2))  # fmt: skip
    return 1 if code or different or hidden or hits["left"] else 0


if __name__ == "__main__":
    sys.exit(main())
