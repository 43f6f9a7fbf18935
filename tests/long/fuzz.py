"""Gives hostile input of every grammar to the commands that read it, and counts what ends in anything but one line.

    python tests/long/fuzz.py [--inputs 2000] [--seed 0] [--seconds 20] [--memory 1000]

Each command runs in a fork of a process that has imported everything. Faults are tracebacks, unexpected errors, wrong
exit codes, control characters, more than ``--seconds``, and more than ``--memory`` MB beyond those of the imports.
"""

import argparse
import importlib
import json
import pkgutil
import resource
import sys
from collections import Counter
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).parents[1]))

from hostile import GRAMMARS, attempt, fault  # beside the tests
import scoresde_bench
import scoresde_plugins
import scoresde_run


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
    counts = "".join(f"{codes[code]:8}" for code in (0, 1, 2, 3))
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
    print("grammar          inputs  exit 0  exit 1  exit 2  exit 3  faults  longest  most memory", flush=True)
    faults = sum(fuzz(grammar, arguments, idle) for grammar in arguments.grammar)
    print(f"{faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
