"""Runs commands at random for minutes, kills them, repeats them, and checks everything that they stored.

    nice -n 19 python tests/long/soak.py [--minutes 120] [--seed 0] [--folder DIR]

Each command that writes has a folder, and what an undisturbed run leaves there is known. Again and again one of them is
started. Some are killed after a random time (SIGKILL, SIGTERM or SIGINT to the command, or SIGKILL to its whole group),
and the next start goes on from what is there. A command that ends by itself must exit with 0, leave the known content,
no temporary file, and nothing that ``scoresde verify`` finds damaged; then it is repeated, or begins anew. In the end
all are finished and checked. Prints the counts as JSON; exit code 1: something was wrong.
"""

import argparse
import collections
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

KILLS = {"kill": signal.SIGKILL, "group": signal.SIGKILL, "terminate": signal.SIGTERM, "interrupt": signal.SIGINT}
ENDED = {"kill": -9, "group": -9, "terminate": 143, "interrupt": 130}
"""The exit codes after a signal, besides 0: of a command that has ended, or a training run that has saved its state."""
STARTING = ("\nKeyboardInterrupt\n", "Importing the numpy C-extensions failed")
"""What an interrupt before the command begins may say, with exit code 1: as Python starts, and as this loads NumPy."""
STARTS = "import sys; sys.path.insert(0, sys.argv.pop(1)); import faults; sys.exit(faults.call(sys.argv[1:]))"


class Soak:
    """A copy of what the commands read for each of them, with the counts of what happened."""

    def __init__(self, folder, seed):
        self.folder, self.random = folder, random.Random(seed)
        self.counts, self.wrong = collections.Counter(), []
        self.known, self.seconds = {}, {}
        start = folder / "start"
        start.mkdir(parents=True)
        writers.prepare(start)
        self.run(start, [*writers.COMMANDS["scoresde-bench"][:-1], "rows"])
        for name, words in writers.COMMANDS.items():
            straight = folder / "straight"
            shutil.copytree(start, straight)
            begun = time.monotonic()
            assert self.run(straight, words)[0] == 0, name
            self.known[name], self.seconds[name] = writers.content(straight), time.monotonic() - begun
            straight.rename(folder / name)

    def run(self, place, words, kill=None):
        """Run a command line in a process group of its own; with ``kill``, end it by that after a random time.

        Returns its exit code, and whether it was killed.
        """
        log = (self.folder / "log").open("w")
        tests = str(Path(__file__).parents[1])
        process = subprocess.Popen(
            [sys.executable, "-c", STARTS, tests, *words], cwd=place, stdout=log, stderr=log, start_new_session=True
        )
        try:
            process.wait(None if kill is None else self.random.uniform(0, 1.1 * self.seconds[place.name]))
            return process.returncode, False
        except subprocess.TimeoutExpired:
            (os.killpg if kill == "group" else os.kill)(process.pid, KILLS[kill])
            self.counts[kill] += 1
            return process.wait(), True

    def turn(self, name):
        """One start of a command, and what must hold after it."""
        place, kill = self.folder / name, self.random.choice([None, *KILLS])
        code, struck = self.run(place, writers.COMMANDS[name], kill)
        if struck:
            # A signal in the first moments has its usual effect.
            told = (self.folder / "log").read_text() if code == 1 else ""
            usual = code in (0, ENDED[kill], -KILLS[kill]) or any(text in told for text in STARTING)
            return self.judge(name, {"code": not usual and code})
        self.check(name, code)
        if self.random.random() < 0.7:  # else the next start repeats a command that is finished
            for path in place.glob("out*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def check(self, name, code):
        """What must hold after a command that was not killed."""
        self.counts["finished"] += 1
        place, expected = self.folder / name, self.known[name]
        found = writers.content(place)
        different = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
        self.judge(name, {"code": code, "left": writers.left(place), "different": different})
        out = next(place.glob("out*"), None)
        # A folder without stored results, such as a package of one's own, is a usage error.
        self.judge(name, {"damaged": out is None or self.run(place, ["scoresde", "verify", out.name])[0] not in (0, 2)})

    def judge(self, name, problems):
        if any(problems.values()):
            self.wrong.append({"command": name, **problems, "log": (self.folder / "log").read_text()[-500:]})
            print(json.dumps(self.wrong[-1]), file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background processes with it ignored
    soak = Soak(options.folder or Path(tempfile.mkdtemp()), options.seed)
    end = time.monotonic() + 60 * options.minutes
    while time.monotonic() < end:
        soak.turn(soak.random.choice(list(writers.COMMANDS)))
    for name, words in writers.COMMANDS.items():
        soak.check(name, soak.run(soak.folder / name, words)[0])
    print(json.dumps({"minutes": options.minutes, **soak.counts, "wrong": len(soak.wrong)}, indent=2))
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
