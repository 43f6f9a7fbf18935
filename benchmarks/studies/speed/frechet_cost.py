"""What a Frechet distance costs: the symmetric eigenvalue form against scipy's root of a product, seconds and memory.

    python benchmarks/studies/speed/frechet_cost.py [--dimensions 2048] [--samples 10000] [--repeats 3] [--device cuda]

Each way runs in a process of its own, which reports the fastest of its repeats and the most memory it held beyond what
it held before it began (on Linux, or on a GPU). All start from the same moments of two sets of random features.
``second distance`` is what each further set costs against the same reference, whose root is kept. ``eigenvalues of the
product`` is torch-fidelity's way. scipy is left out where it is not installed.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import torch

from scoresde_plugins.evaluators.feature_moments import FeatureMoments
from scoresde_plugins.evaluators.frechet import Centre
from scoresde_run.machine.device import find_device
from scoresde_run.machine.environment import describe_device

MIB = 2**20
RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def features(dimensions, samples, seed, scale=1.0):
    """Correlated features that are never negative, as a network's are."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=torch.Generator().manual_seed(9)) / dimensions**0.5
    return (scale * torch.randn(samples, dimensions, generator=generator) @ mixing).relu()


def symmetric(x, y):
    """Ours; returns the centre as well, so that a second distance can be timed."""
    centre = Centre(y)
    return centre.distance(x), centre


def product(x, y):
    """The eigenvalues of the product of the covariances, complex, as torch-fidelity takes them."""
    roots = torch.linalg.eigvals(x.covariance @ y.covariance).sqrt().real.sum()
    return _assembled(x, y, float(roots)), None


def schur(x, y):
    """scipy's sqrtm of the product, as pytorch-fid, clean-fid and EDM take it."""
    from scipy.linalg import sqrtm

    root = sqrtm((x.covariance @ y.covariance).cpu().numpy())
    return _assembled(x, y, float(root.trace().real)), None


def _assembled(x, y, trace_of_root):
    offset = (x.mean - y.mean).square().sum()
    return float(offset + x.covariance.trace() + y.covariance.trace()) - 2 * trace_of_root


WAYS = {"symmetric eigenvalues": symmetric, "eigenvalues of the product": product, "scipy's sqrtm": schur}


def measure(options):
    """One way, in this process."""
    device = find_device(options.device)
    x, y = (
        FeatureMoments.of(features(options.dimensions, options.samples, seed, scale).to(device))
        for seed, scale in ((1, 1.0), (2, 1.2))
    )
    run = WAYS[options.way]
    run(*(FeatureMoments.of(features(64, 200, seed).to(device)) for seed in (3, 4)))  # libraries are loaded here
    before, seconds, second = _start_memory(device), [], []
    for _ in range(options.repeats):
        value, taken, centre = _timed(device, run, x, y)
        seconds.append(taken)
        if centre is not None:
            second.append(_timed(device, lambda a, kept: (kept.distance(a), kept), x, centre)[1])
    report = {"value": value, "seconds": min(seconds), "MiB": (_peak(device) - before) / MIB}
    print(json.dumps({**report, "second distance": min(second, default=None)}))


def _timed(device, run, x, y):
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    value, kept = run(x, y)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return value, time.perf_counter() - started, kept


def _start_memory(device):
    """The bytes held now; the peak starts from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if not RESET.exists():
        return math.nan
    RESET.write_text("5")
    return _status("VmRSS")


def _peak(device):
    """The most bytes held since."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(name):
    """A number of this process's, in bytes."""
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), math.nan)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--way", choices=list(WAYS), help="measure this one alone and print JSON")
    options = parser.parse_args()
    if options.way:
        measure(options)
        return
    device = find_device(options.device)
    print(f"{describe_device(device)}, torch {torch.__version__}, {torch.get_num_threads()} threads, ", end="")
    print(f"{options.dimensions} dimensions, moments of {options.samples} samples, float64")
    for way in WAYS:
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--way", way], capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(f"{way:28} {done.stderr.strip().splitlines()[-1]}")
            continue
        found = json.loads(done.stdout.strip().splitlines()[-1])
        more = "" if found["second distance"] is None else f", second distance {found['second distance']:.2f} s"
        print(f"{way:28} {found['seconds']:7.2f} s {found['MiB']:7.0f} MiB   {found['value']:.9f}{more}")


if __name__ == "__main__":
    main()
