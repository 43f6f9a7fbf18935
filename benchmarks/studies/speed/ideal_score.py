"""Measures exact scores against the two matrix products that each cannot avoid.

    python benchmarks/studies/speed/ideal_score.py [--dataset 'mnist[root=data]'] [--threads 2] [--device cuda]

``mnist_mfa`` gets 1,024 queries, and ``empirical`` of N x D events 256. ``products`` are two ``torch.mm`` of the same
shapes in one piece, in the precision that the level needs; ``naive`` has all distances (``torch.cdist``) and weights in
memory. The column "speed" is relative to the products.
"""

import torch
from side_by_side import in_turn, options_of, prepare, show
from scoresde_core import Level, create

BATCH = 256
parser = options_of(__doc__, published=False)
parser.add_argument("--dataset", default="mnist[root=data]")
options = parser.parse_args()
device, where = prepare(options)
mixture = create("targets", "mnist_mfa").to(device).as_mixture()
points, level = mixture.sample(1024).to(device), Level(1.0, 1.0, 0.5)
stack = torch.cat([mixture.factors, mixture.means.unsqueeze(1)], 1).flatten(0, 1).float()
flat, shares = points.flatten(1), torch.rand(len(points), len(stack), device=device)
runs = {"products": lambda: (flat @ stack.T, shares @ stack), "mnist_mfa": lambda: mixture.score(points, level)}
show(where, in_turn(runs, device, 10 * options.repeat))
target = create("targets", "empirical", dataset=create("datasets", options.dataset)).to(device)
events = sum(target._events[:2]).flatten(1)
print(f"{where}, {len(events)} events of {events.shape[1]} numbers, {BATCH} queries, {torch.get_num_threads()} threads")
for sigma, dtype in ((1.0, torch.float32), (0.02, torch.float64)):
    noisy = (target.sample(BATCH) + sigma * torch.randn(BATCH, *target.shape)).to(device)
    keys, queries = events.to(dtype), noisy.flatten(1).to(dtype)
    runs = {  # all of them run within this turn of the loop
        "products": lambda: queries @ keys.T @ keys,  # noqa: B023
        "empirical": lambda: target.score(noisy, Level(1.0, 1.0, sigma)),  # noqa: B023
        "naive": lambda: (-torch.cdist(queries, keys).square() / (2 * sigma**2)).softmax(1) @ keys,  # noqa: B023
    }
    show(f"sigma = {sigma:g}, {dtype}", in_turn(runs, device, options.repeat))
