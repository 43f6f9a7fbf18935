"""Kills every command that writes at each of its file-system operations, fails it, or loses the power; then repeats it.

    python tests/long/kill_operations.py
    python tests/long/kill_operations.py train export --modes kill ENOSPC --every 3 --jobs 4

The repeated command must end with 0 and with the content of an undisturbed run, leave no temporary file, and keep every
row that was written. The table has the operations by command, and those survived by mode. Exit code 1: one was not.
"""

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import faults
import writers

PRELOADED = ["faults", "writers", "scoresde_bench.cli", "scoresde_bench.run.work", "scoresde_bench.run.worker",
             "scoresde_bench.report.page", "scoresde_bench.report.table", "scoresde_bench.plan.sweep", "torch._dynamo",
             "scoresde_plugins.evaluate.rows", "scoresde_run.training.run", "matplotlib.figure",
             "matplotlib.backends.backend_agg"]  # fmt: skip


def main():
    options = _options()
    place = Path(tempfile.mkdtemp(dir=options.scratch))
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    (place / "start").mkdir()
    start = multiprocessing.get_context("spawn").Process(target=writers.prepare, args=(place / "start",))
    start.start()
    start.join()
    rows = faults.run([*writers.COMMANDS["scoresde-bench"][:-1], "rows"], place / "start", place / "log")
    assert rows.code == 0, rows.err
    wrong, begun = [], time.monotonic()
    print(f"{'command':18}{'operations':>11}" + "".join(f"{mode:>9}" for mode in options.modes) + "   wrong")
    for name in options.commands or writers.COMMANDS:
        trial = faults.Trial(name, writers.COMMANDS[name], place / "start", place / name)
        count = len(trial.straight.operations)
        survived = dict.fromkeys(options.modes, 0)
        asked = [faults.Fault(number, mode) for mode in options.modes for number in range(1, count + 1, options.every)]
        with ThreadPoolExecutor(options.jobs) as pool:
            for fault, problem in zip(asked, pool.map(trial.survives, asked), strict=True):
                if problem:
                    wrong.append({"command": name, "fault": str(fault), "problem": problem})
                    print(json.dumps(wrong[-1]), file=sys.stderr, flush=True)
                survived[fault.mode] += not problem
        failed = sum(each["command"] == name for each in wrong)
        print(
            f"{name:18}{count:11}" + "".join(f"{survived[mode]:9}" for mode in options.modes) + f"{failed:8}",
            flush=True,
        )
    print(f"{time.monotonic() - begun:.0f} s; {len(wrong)} operations not survived")
    shutil.rmtree(place)
    return 1 if wrong else 0


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=f"of {', '.join(writers.COMMANDS)}")
    parser.add_argument("--modes", nargs="+", default=list(faults.MODES), choices=faults.MODES)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th operation")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="trials at a time")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="where the trials run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
