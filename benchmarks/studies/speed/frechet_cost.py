"""Measures the time of a Frechet distance: symmetric eigenvalues against scipy's root of a product.

    python benchmarks/studies/speed/frechet_cost.py [--dimensions 2048] [--samples 10000] [--repeat 3] [--device cuda]

All start from the same moments of two sets of random features. ``a further distance`` is that of another set against
the same reference, whose root is cached. ``eigenvalues of the product`` is the method of torch-fidelity, ``scipy's
sqrtm`` that of pytorch-fid, clean-fid and EDM.
"""

import torch
from scipy.linalg import sqrtm
from side_by_side import compare, options_of, show

from scoresde_plugins.evaluators.frechet import Centre
from scoresde_plugins.evaluators.statistics_file import FeatureMoments


def moments(options, device, seed, scale=1.0):
    """The moments of correlated non-negative features, like those of a network."""
    generator, size = torch.Generator().manual_seed(seed), options.dimensions
    mixing = torch.randn(size, size, generator=torch.Generator().manual_seed(9)) / size**0.5
    features = scale * torch.randn(options.samples, size, generator=generator) @ mixing
    return FeatureMoments.of(features.relu().to(device))


def ways(options, device):
    x, y = moments(options, device, 1), moments(options, device, 2, 1.2)
    centre, offset = Centre(y), (x.mean - y.mean).square().sum() + x.covariance.trace() + y.covariance.trace()
    return {
        "symmetric eigenvalues": lambda: Centre(y).distance(x),
        "  a further distance": lambda: centre.distance(x),
        "eigenvalues of the product": lambda: float(
            offset - 2 * torch.linalg.eigvals(x.covariance @ y.covariance).sqrt().real.sum()
        ),
        "scipy's sqrtm": lambda: float(offset - 2 * sqrtm((x.covariance @ y.covariance).cpu().numpy()).trace().real),
    }


def main():
    parser = options_of(__doc__)
    parser.set_defaults(repeat=3)
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--samples", type=int, default=10_000)
    options = parser.parse_args()
    measured = compare(lambda device: ways(options, device), options)
    distances = {name: f"{found.result:.6f}" for name, found in measured.items()}
    show(f"{options.dimensions} dimensions, float64", measured, distance=distances)


if __name__ == "__main__":
    main()
