"""Measures the overhead of a sweep beyond sampling and evaluation, with a thousand small cells.

    python benchmarks/studies/speed/sweep_overhead.py [--cells 1000] [--jobs 2]

The cells sample 64 points in the plane with 5 to 14 steps and one metric. Prints total seconds and seconds per cell,
the time per cell besides sampling and evaluation, and the memory of the largest process.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from scoresde_run.results.results import Results

SWEEP = "--target mixture2d --sde ve vp --predictor ddim --samples 64 --evaluator nll_gap --steps"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=1000, help="a multiple of 20")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    seeds = map(str, range(options.cells // 20))
    with tempfile.TemporaryDirectory() as folder:
        words = [*SWEEP.split(), ",".join(map(str, range(5, 15))), "--seed", *seeds]
        words += ["--jobs", str(options.jobs), "--out", folder]
        begun = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "scoresde_bench", *words], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds, rows = time.perf_counter() - begun, list(Results.peek(Path(folder)).values())
    beside = median(row["cell_seconds"] - row["seconds"] - row["evaluation_seconds"] for row in rows)
    parts = [f"{name} {median(row[name] for row in rows):.4f} s" for name in ("seconds", "evaluation_seconds")]
    memory = max(usage.ru_maxrss / 1024, *(row["peak_memory_bytes"] / 2**20 for row in rows))
    print(f"{len(rows)} cells in {options.jobs} processes: {seconds:.1f} s, {seconds / len(rows):.4f} s a cell")
    print(f"medians of a cell: {', '.join(parts)}, besides both {beside:.4f} s; largest process {memory:.0f} MB")
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
