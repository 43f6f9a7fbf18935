"""Draws of an exact target as a data set, so that a network trained on them can be compared with the exact score."""

from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import ge
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.noise import Noise, key
from scoresde_core.target import Target
from scoresde_run.data.dataset import Dataset, Split

_CHUNK = 4096


@attrs.frozen
class ExactDataset(Dataset):
    """A fixed set of draws of a target, float32 (N, *shape), on the target's own scale; the splits are independent."""

    levels = None
    example: ClassVar[dict[str, Any]] = {"target": "mixture2d", "count": 100, "test_count": 10}

    target: Target = param(help="target to draw from, such as mixture2d[layout=moons]")
    count: int = param(50_000, "draws in the train split", ge(1))
    test_count: int = param(10_000, "draws in the test split", ge(1))
    seed: int = param(0, "seed of the draws")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.target.shape

    def known(self, split: Split = "train") -> dict[str, Tensor]:
        """``labels`` of a target with components, drawn from their posterior, so that the law is joint."""
        if self.target.modes() is None:
            return {}
        parts = [self.target.responsibilities(x.double()) for x in torch.split(self.load(split), _CHUNK)]
        sums = torch.cat(parts).cumsum(1)
        u = Noise(self.seed, (), len(sums), dtype=torch.float64).uniform(split, "labels")
        return {"labels": (sums[:, :-1] < u.unsqueeze(1)).sum(1)}

    def load(self, split: Split = "train") -> Tensor:
        draws = self.count if split == "train" else self.test_count
        return self.target.sample(draws, seed=key(self.seed, "dataset", split) % 2**31).float()
