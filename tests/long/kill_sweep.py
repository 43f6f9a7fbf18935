"""Kills a sweep, one of its workers or all of them together at random times, and counts lost and changed rows.

    python tests/long/kill_sweep.py [--kills 20] [--jobs 2] [--steps 50] [--folder DIR]

After every kill the command is repeated, as a user would do. In the end every cell must have one row, equal to that of
an undisturbed sweep except for its timings; no worker may outlive its command.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIMINGS = {"seconds", "samples_per_second", "cell_seconds", "evaluation_seconds", "peak_memory_bytes"}
PASSING = {*TIMINGS, "date", "command", "git", "digest"}


def command(arguments, folder):
    cells = ["--target mixture2d --sde ve vp --predictor ddim reverse_diffusion --samples 64 --steps"]
    cells += [f"{arguments.steps},{arguments.steps + 1} --seed", *map(str, range(arguments.seeds))]
    cells = " ".join(cells).split()
    where = ["--jobs", str(arguments.jobs)] if arguments.jobs > 1 else []
    return [sys.executable, "-m", "scoresde_bench", *cells, *where, "--out", str(folder)]


def start(words):
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def workers_of(pid):
    """The worker processes of a command, found by their parent in /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                words = (entry / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if parent == pid and "scoresde_bench.run.serve" in words:
                found.append(int(entry.name))
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def outlived(pids, patience=10.0):
    """The ``pids`` that still run after ``patience`` seconds."""
    end = time.monotonic() + patience
    while time.monotonic() < end and any(map(alive, pids)):
        time.sleep(0.05)
    return [pid for pid in pids if alive(pid)]


def content(folder):
    """Every row as (cell, entries that do not depend on time, picture)."""
    found = []
    for line in (folder / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        picture = (folder / row["picture"]).read_bytes() if row.get("picture") else b""
        found.append((row["cell"], {key: value for key, value in row.items() if key not in PASSING}, picture))
    return found


def disturb(arguments, folder, rng, longest):
    """Kill ``arguments.kills`` times; returns the kills of each kind, and the workers that were left."""
    hits = {"command": 0, "worker": 0, "group": 0, "orphans": 0}
    process, begun = start(command(arguments, folder)), time.monotonic()
    while sum(hits[key] for key in ("command", "worker", "group")) < arguments.kills:
        time.sleep(rng.uniform(0, longest))
        if process.poll() is not None:  # it has finished: start a new one with fewer rows
            lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
            (folder / "results.jsonl").write_text("".join(lines[: len(lines) // 2]))
            process = start(command(arguments, folder))
            continue
        workers = workers_of(process.pid)
        if workers and rng.random() < 0.5:
            os.kill(rng.choice(workers), signal.SIGKILL)
            hits["worker"] += 1
            continue
        victim = rng.choice(["command", "group"])
        process.kill() if victim == "command" else os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        hits[victim] += 1
        hits["orphans"] += len(outlived(workers))
        process = start(command(arguments, folder))
    output, _ = process.communicate()
    if process.returncode == 1 and "failed" in output:  # a cell whose workers were killed twice: run again
        output = subprocess.run(command(arguments, folder), capture_output=True, text=True, check=True).stdout
    return {**hits, "seconds": round(time.monotonic() - begun, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50, help="predictor steps per cell")
    parser.add_argument("--seeds", type=int, default=5, help="seeds; eight cells each")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random times")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp())
    begun = time.monotonic()
    subprocess.run(command(arguments, folder / "undisturbed"), check=True, stdout=subprocess.DEVNULL)
    quiet = time.monotonic() - begun
    hits = disturb(arguments, folder / "disturbed", random.Random(arguments.seed), quiet / 2)
    expected, found = content(folder / "undisturbed"), content(folder / "disturbed")
    done = [entry for entry in found if entry[1]["status"] == "done"]
    keys = [key for key, _, _ in done]
    report = {
        "cells": len(expected),
        **hits,
        "undisturbed_seconds": round(quiet, 1),
        "lost": len({key for key, _, _ in expected} - set(keys)),
        "doubled": len(keys) - len(set(keys)),
        "different": sum(entry not in expected for entry in done),
        "rows_of_killed_workers": len(found) - len(done),
    }
    print(json.dumps(report, indent=2))
    return 1 if any(report[key] for key in ("lost", "doubled", "different", "orphans")) else 0


if __name__ == "__main__":
    sys.exit(main())
