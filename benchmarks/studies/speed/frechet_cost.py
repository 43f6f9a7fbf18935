"""Measures time and memory of a Frechet distance: symmetric eigenvalues against scipy's root of a product.

    python benchmarks/studies/speed/frechet_cost.py [--dimensions 2048] [--samples 10000] [--repeat 3] [--device cuda]

Each method runs in its own process, which reports the fastest repeat and the increase of its peak memory (on Linux, or
on a GPU). All start from the same moments of two sets of random features. ``second distance`` is the time of each
further set against the same reference, whose root is cached. ``eigenvalues of the product`` is the method of
torch-fidelity. scipy is skipped if it is not installed.
"""

import math
from importlib.util import find_spec
from pathlib import Path

import torch
from side_by_side import MIB, by_itself, in_turn, options_of, prepare

from scoresde_plugins.evaluators.frechet import Centre
from scoresde_plugins.evaluators.statistics_file import FeatureMoments
from scoresde_run.machine.environment import describe_device

RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def features(dimensions, samples, seed, scale=1.0):
    """Correlated non-negative features, like those of a network."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=torch.Generator().manual_seed(9)) / dimensions**0.5
    return (scale * torch.randn(samples, dimensions, generator=generator) @ mixing).relu()


def symmetric(x, y):
    return Centre(y).distance(x)


def product(x, y):
    """Complex eigenvalues of the product of the covariances, as in torch-fidelity."""
    return _assembled(x, y, float(torch.linalg.eigvals(x.covariance @ y.covariance).sqrt().real.sum()))


def schur(x, y):
    """scipy's sqrtm of the product, as in pytorch-fid, clean-fid and EDM."""
    from scipy.linalg import sqrtm

    return _assembled(x, y, float(sqrtm((x.covariance @ y.covariance).cpu().numpy()).trace().real))


def _assembled(x, y, trace_of_root):
    offset = (x.mean - y.mean).square().sum()
    return float(offset + x.covariance.trace() + y.covariance.trace()) - 2 * trace_of_root


WAYS = {"symmetric eigenvalues": symmetric, "eigenvalues of the product": product}
if find_spec("scipy") is not None:
    WAYS["scipy's sqrtm"] = schur


def measure(way, options):
    """The line of one method, measured in this process."""
    device, run = prepare(options, keep_memory=False), WAYS[way]
    run(*(FeatureMoments.of(features(64, 200, seed).to(device)) for seed in (3, 4)))  # loads libraries
    scales = ((1, 1.0), (2, 1.2))
    sets = [features(options.dimensions, options.samples, seed, scale).to(device) for seed, scale in scales]
    x, y = map(FeatureMoments.of, sets)
    del sets
    before = _memory(device, "VmRSS", reset=True)
    found = in_turn({way: lambda: run(x, y)}, device, options.repeat, warm_up=0)[way]
    more, peak = "", _memory(device, "VmHWM")
    if run is symmetric:
        centre = Centre(y)
        again = in_turn({way: lambda: centre.distance(x)}, device, options.repeat, warm_up=0)[way]
        more = f", second distance {min(again.seconds):.2f} s"
    return f"{min(found.seconds):7.2f} s {(peak - before) / MIB:7.0f} MiB   {found.result:.9f}{more}"


def _memory(device, entry, reset=False):
    """The bytes held now, where the peak is reset, or the peak since then; an ``entry`` of /proc/self/status."""
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) if reset else torch.cuda.max_memory_allocated(device)
    if not RESET.exists():
        return math.nan
    if reset:
        RESET.write_text("5")
    return next(int(line.split()[1]) * 1024 for line in STATUS.read_text().splitlines() if line.startswith(entry))


def main():
    parser = options_of(__doc__)
    parser.set_defaults(repeat=3)
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--samples", type=int, default=10_000)
    options = parser.parse_args()
    print(f"{describe_device(prepare(options))}, torch {torch.__version__}, ", end="")
    print(f"{options.dimensions} dimensions, moments of {options.samples} samples, float64")
    for way in WAYS:
        print(f"{way:28} {by_itself(measure, way, options)}")


if __name__ == "__main__":
    main()
