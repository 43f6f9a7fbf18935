"""Pairs for restoration: the events of a data set, and what an operator and noise leave of each."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import ge
from torch import Tensor
from scoresde_core import Noise, Spec, param
from scoresde_run import Dataset, Events, Operator, Split, Units
from ..operators.identity import IdentityOperator

_CHUNK = 1024


@attrs.frozen
class DegradedDataset(Dataset):
    """The events x of another data set, of which y = A x + noise z is known, z standard normal.

    Images are on [-1, 1] here, as in files; floats have their own units. Where A x has another shape than x, y is
    A^+ (A x + noise z), without singular values below a tenth of the largest. z depends on (seed, split, index) alone.
    """

    example: ClassVar[dict[str, Any]] = {"of": Spec("exact", {"target": "mixture2d", "count": 50, "test_count": 10})}

    of: Dataset = param(help="data set, such as mnist")
    by: Operator = param(attrs.Factory(IdentityOperator), "operator A, such as blur[width=1.5]; identity: noise alone")
    noise: float = param(0.3, "standard deviation of the noise of A x; images have a width of 2", ge(0))
    seed: int = param(0, "seed of the noise", ge(0))

    def __attrs_post_init__(self) -> None:
        reason = self.by.skip(self.of.shape)
        if not (reason or self.by.linear or self.by.measured(self.of.shape) == self.of.shape):
            reason = "it is not linear, and y has another shape than x"
        if reason:
            raise ValueError(f"by={self.by} does not fit {self.of}: {reason}")

    shape, levels, mirrors = (property(attrgetter(f"of.{name}")) for name in ("shape", "levels", "mirrors"))

    def open(self, split: Split = "train") -> Events:
        return self.of.open(split)

    def load(self, split: Split = "train") -> Tensor:
        return self.of.load(split)

    def known(self, split: Split = "train") -> Mapping[str, Tensor]:
        """``y``, float32 (N, *shape), and what the other set knows."""
        x, inverts = self.of.load(split), self.by.measured(self.shape) != self.shape
        noise = Noise(self.seed, self.by.measured(self.shape), len(x)).draw(split, "degraded")
        found = []
        for part, z in zip(torch.split(x, _CHUNK), torch.split(noise, _CHUNK), strict=True):
            y = self.by.apply(Units().encode(part).double()) + self.noise * z
            found.append((self.by.pseudo_inverse(y, self.shape, 0.1) if inverts else y).float())
        return {**self.of.known(split), "y": torch.cat(found)}
