"""Gives hostile input of every grammar to the commands that read it, and counts what ends in anything but one line.

    python benchmarks/studies/kill/fuzz.py [--inputs 2000] [--seed 0] [--seconds 20] [--memory 1000]

Each command runs in a fork of a process that has imported everything. Faults are tracebacks, unexpected errors, wrong
exit codes, control characters, more than ``--seconds``, and more than ``--memory`` MB beyond those of the imports.
"""

import argparse
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))

from hostile import GRAMMARS, fault  # beside the tests

import scoresde_bench
import scoresde_plugins
import scoresde_run
from scoresde_bench import cli
from scoresde_core import shell

IDLE = 0.002


def attempt(case, seconds):
    """Run a case in a fork; return its exit code (None: it hung), output, errors, seconds and peak memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in case.files.items():
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        started, child = time.monotonic(), os.fork()
        if child == 0:
            run(case.words, folder)
        while (found := os.wait4(child, os.WNOHANG))[0] == 0 and time.monotonic() - started < seconds:
            time.sleep(IDLE)
        took = time.monotonic() - started
        if found[0] == 0:
            os.kill(child, signal.SIGKILL)
            found = os.wait4(child, 0)
        code = None if took >= seconds else os.waitstatus_to_exitcode(found[1])
        texts = [Path(folder, name).read_text(encoding="utf-8", errors="replace") for name in (".out", ".err")]
        return code, *texts, took, found[2].ru_maxrss / 1024


def run(words, folder):
    """Run a command in the child, and end it."""
    code = 70
    try:
        os.chdir(folder)
        for name, number in ((".out", 1), (".err", 2)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
        code = cli.main(words[1:]) if words[0] == "bench" else shell.main(words)
        sys.stdout.flush()
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        code = 71
    finally:
        os._exit(code)


def fuzz(grammar, arguments, idle):
    """Give inputs of one grammar, print what became of them, and return the number of faults."""
    codes, found, spent, memory = Counter(), [], [0.0], [0.0]

    def body(case):
        code, out, err, took, peak = attempt(case, arguments.seconds)
        wrong = "hang" if code is None else fault(code, out, err)
        wrong = wrong or ("memory" if peak > idle + arguments.memory else None)
        codes[code] += 1
        spent.append(took)
        memory.append(peak - idle)
        if wrong:
            found.append({"fault": wrong, "words": case.words, "error": err[-600:], "files": str(case.files)[:1500]})

    count = arguments.inputs // len(arguments.grammar)
    quiet = {"database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}
    how = settings(max_examples=count, phases=[Phase.generate], **quiet)
    seed(arguments.seed)(how(given(GRAMMARS[grammar])(body)))()
    counts = "".join(f"{codes[code]:8}" for code in (0, 1, 2))
    print(f"{grammar:15}{len(spent) - 1:8}{counts}{len(found):8}{max(spent):7.1f} s{max(memory):10.0f} MB", flush=True)
    for each in found[:20]:
        print(json.dumps(each))
    return len(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--memory", type=float, default=1000, help="MB")
    parser.add_argument("--grammar", nargs="+", choices=GRAMMARS, default=list(GRAMMARS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for package in (scoresde_run, scoresde_plugins, scoresde_bench):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if "__main__" not in module.name:
                importlib.import_module(module.name)
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("grammar          inputs  exit 0  exit 1  exit 2  faults  longest  most memory", flush=True)
    faults = sum(fuzz(grammar, arguments, idle) for grammar in arguments.grammar)
    print(f"{faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
