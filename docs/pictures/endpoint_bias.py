"""Measures the cost of stopping at t_min: the nll_gap of exact samples noised to t_min, and of their denoised mean.

    python docs/pictures/endpoint_bias.py

Every sampler that returns a noise-free mean converges to the last column with more steps.
"""

import torch
from scoresde import Evidence, ExactScore, create

target, evaluator = create("targets", "mnist_mfa"), create("evaluators", "nll_gap")
exact = target.sample(8192, seed=5)
z = torch.randn(exact.shape, generator=torch.Generator().manual_seed(3))
print(f"{'SDE':10} {'t_min':>8} {'sigma':>9} {'noisy':>16} {'denoised':>16}   (nats)")
for name in ("ve", "vp", "subvp", "linear_ve"):
    sde = create("sdes", name)
    level = sde.float_level(sde.t_min)
    noisy = level.alpha * exact + level.sigma * z
    gaps = []
    for samples in (noisy, ExactScore(target, sde).denoised(noisy, level)):
        (metric,) = evaluator.evaluate(Evidence(samples, target=target, seed=1))
        gaps.append(f"{metric.value:8.2f} ± {metric.stderr:.2f}")
    print(f"{name:10} {sde.t_min:8g} {level.sigma:9.2g} {gaps[0]:>16} {gaps[1]:>16}")
