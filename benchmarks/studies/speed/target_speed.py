"""Measures milliseconds per score call of the MNIST target.

python benchmarks/studies/speed/target_speed.py [--samples N]
"""

import statistics
from itertools import count

import torch
from side_by_side import options_of, prepare, seconds

from scoresde_core.sde import Level
from scoresde_plugins.targets.mfa import MNISTMFATarget


def milliseconds(call, device, repeats):
    """Median time of a call, after three calls to warm up."""
    return 1000 * statistics.median([seconds(call, device) for _ in range(repeats + 3)][3:])


def main():
    parser = options_of(__doc__)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    device = prepare(options, keep_memory=False)
    target = MNISTMFATarget().to(device)
    components, factors, dim = target.mixture.factors.shape
    x = target.sample(options.samples, seed=0).to(device)
    stack = torch.randn(components * (factors + 1), dim, device=device)
    sigma = torch.linspace(0.01, 1, len(x), device=device)
    fresh = (Level(0.5, 0.9, 0.3 + 1e-4 * k) for k in count())
    calls = {
        "score, level cached": lambda: target.score(x, Level(0.5, 0.9, 0.3)),
        "score, new level": lambda: target.score(x, next(fresh)),
        "score, a level per row": lambda: target.score(x, Level(sigma, 1.0, sigma)),
        "log density, new level": lambda: target.log_prob(x, next(fresh)),
        "the two products alone": lambda: (x.flatten(1) @ stack.T) @ stack,
    }
    print(
        f"{len(x)} samples of {dim} dimensions, {components} components of {factors} factors, float32, "
        f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for name, call in calls.items():
        print(f"{name:24} {milliseconds(call, device, options.repeats):8.1f} ms")


if __name__ == "__main__":
    main()
