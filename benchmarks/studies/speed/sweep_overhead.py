"""Measures the overhead of a sweep beyond sampling and evaluation, with a thousand small cells.

    python benchmarks/studies/speed/sweep_overhead.py [--cells 1000] [--jobs 2]

The cells sample 64 points in the plane with 5 to 14 steps and one metric. Prints total seconds and seconds per cell,
the time per cell besides sampling and evaluation, and the memory of the largest process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=1000, help="a multiple of 20")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = ["--target", "mixture2d", "--sde", "ve", "vp", "--predictor", "ddim", "--samples", "64"]
        words += ["--steps", ",".join(map(str, range(5, 15))), "--seed", *map(str, range(arguments.cells // 20))]
        words += ["--evaluator", "nll_gap", "--jobs", str(arguments.jobs), "--out", folder]
        begun = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "scoresde_bench", *words], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        rows = [json.loads(line) for line in (Path(folder) / "results.jsonl").read_text().splitlines()]
    beside = [row["cell_seconds"] - row["seconds"] - row["evaluation_seconds"] for row in rows]
    report = {
        "exit_code": os.waitstatus_to_exitcode(status),
        "cells": len(rows),
        "jobs": arguments.jobs,
        "seconds": round(seconds, 1),
        "seconds_a_cell_as_a_whole": round(seconds / len(rows), 4),
        "median_seconds_sampling": round(statistics.median(row["seconds"] for row in rows), 4),
        "median_seconds_judging": round(statistics.median(row["evaluation_seconds"] for row in rows), 4),
        "median_seconds_of_a_cell_beside_both": round(statistics.median(beside), 4),
        "largest_command_or_worker_mb": round(
            max(usage.ru_maxrss / 1024, *(r["peak_memory_bytes"] / 2**20 for r in rows))
        ),
    }
    print(json.dumps(report, indent=2))
    return report["exit_code"]


if __name__ == "__main__":
    sys.exit(main())
