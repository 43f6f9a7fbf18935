"""Measures time and memory of a Frechet distance: symmetric eigenvalues against scipy's root of a product.

    python benchmarks/studies/speed/frechet_cost.py [--dimensions 2048] [--samples 10000] [--repeats 3] [--device cuda]

Each method runs in its own process, which reports the fastest repeat and the increase of its peak memory (on Linux, or
on a GPU). All start from the same moments of two sets of random features. ``second distance`` is the time of each
further set against the same reference, whose root is cached. ``eigenvalues of the product`` is the method of
torch-fidelity. scipy is skipped if it is not installed.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import torch
from side_by_side import options_of, prepare, seconds

from scoresde_plugins.evaluators.feature_moments import FeatureMoments
from scoresde_plugins.evaluators.frechet import Centre
from scoresde_run.machine.environment import describe_device

MIB = 2**20
RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def features(dimensions, samples, seed, scale=1.0):
    """Correlated non-negative features, like those of a network."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=torch.Generator().manual_seed(9)) / dimensions**0.5
    return (scale * torch.randn(samples, dimensions, generator=generator) @ mixing).relu()


def symmetric(x, y):
    """Ours; returns the centre as well, so that a second distance can be timed."""
    centre = Centre(y)
    return centre.distance(x), centre


def product(x, y):
    """Complex eigenvalues of the product of the covariances, as in torch-fidelity."""
    roots = torch.linalg.eigvals(x.covariance @ y.covariance).sqrt().real.sum()
    return _assembled(x, y, float(roots)), None


def schur(x, y):
    """scipy's sqrtm of the product, as in pytorch-fid, clean-fid and EDM."""
    from scipy.linalg import sqrtm

    root = sqrtm((x.covariance @ y.covariance).cpu().numpy())
    return _assembled(x, y, float(root.trace().real)), None


def _assembled(x, y, trace_of_root):
    offset = (x.mean - y.mean).square().sum()
    return float(offset + x.covariance.trace() + y.covariance.trace()) - 2 * trace_of_root


WAYS = {"symmetric eigenvalues": symmetric, "eigenvalues of the product": product, "scipy's sqrtm": schur}


def measure(options):
    """Measure one method in this process."""
    device = prepare(options, keep_memory=False)
    x, y = (
        FeatureMoments.of(features(options.dimensions, options.samples, seed, scale).to(device))
        for seed, scale in ((1, 1.0), (2, 1.2))
    )
    run = WAYS[options.way]
    run(*(FeatureMoments.of(features(64, 200, seed).to(device)) for seed in (3, 4)))  # loads libraries
    before, first, second = _start_memory(device), [], []
    for _ in range(options.repeats):
        value, taken, centre = _timed(device, run, x, y)
        first.append(taken)
        if centre is not None:
            second.append(_timed(device, lambda a, kept: (kept.distance(a), kept), x, centre)[1])
    report = {"value": value, "seconds": min(first), "MiB": (_peak(device) - before) / MIB}
    print(json.dumps({**report, "second distance": min(second, default=None)}))


def _timed(device, run, x, y):
    found = []
    taken = seconds(lambda: found.append(run(x, y)), device)
    ((value, kept),) = found
    return value, taken, kept


def _start_memory(device):
    """Reset the peak; returns the bytes held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if not RESET.exists():
        return math.nan
    RESET.write_text("5")
    return _status("VmRSS")


def _peak(device):
    """The peak of bytes held since the reset."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(name):
    """An entry of /proc/self/status, in bytes."""
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), math.nan)


def main():
    parser = options_of(__doc__)
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", choices=list(WAYS), help="measure only this method and print JSON")
    options = parser.parse_args()
    if options.way:
        measure(options)
        return
    device = prepare(options)
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
