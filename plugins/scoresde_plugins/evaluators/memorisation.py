"""Whether samples are copies of training events: how near these are, compared with events that were held out.

For a model that has not seen them, the T training events and the H held-out ones are draws of one law: its sample is
nearest to a training event with the probability c = T / (T + H), whatever the model. If a share m are copies,

    P(nearest is a training event) = m + (1 - m) c,        m = (share - c) / (1 - c)
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import and_, gt, lt
from torch import Tensor
from scoresde_core import Estimate, Evaluator, Metric, param
from scoresde_run import Dataset, Evidence, Split, Units
from scoresde_run.data.dataset import content_hash
from .comparison import Origin

_ROWS = 2048


def nearest(x: Tensor, events: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distances (n, 2) of ``x`` (n, *shape) to its two nearest stored events (N, *shape), and which."""
    found, which = x.new_full((len(x), 2), math.inf), torch.zeros(len(x), 2, dtype=torch.int64, device=x.device)
    for start in range(0, len(events), _ROWS):
        block = Units().encode(events[start : start + _ROWS]).flatten(1).to(x)
        here = torch.arange(start, start + len(block), device=x.device).expand(len(x), -1)
        found, chosen = torch.cat([found, torch.cdist(x.flatten(1), block)], 1).topk(2, largest=False)
        which = torch.cat([which, here], 1).gather(1, chosen)
    return found, which


def share(hits: Tensor, event: Tensor, least: float) -> Estimate:
    """(share of ``hits`` (n,) - least) / (1 - least); samples with one nearest ``event`` (n,) count as one piece."""
    value, (_, piece, sizes) = hits.double().mean(), torch.unique(event, return_inverse=True, return_counts=True)
    sums = torch.zeros_like(sizes, dtype=torch.float64).index_add_(0, piece, hits.double() - value)
    df = max(len(sizes) - 1, 1)
    error = max(math.sqrt(float(sums.square().sum()) * len(sizes) / df), 1.0) / len(hits)
    return Estimate((float(value) - least) / (1 - least), error / (1 - least), df)


@attrs.frozen
class Memorisation(Evaluator):
    """Two shares of samples, by Euclidean distances: 0 is no copy, 1 copies alone.

    ``memorised`` is m; it scatters around 0 for any model that has not seen the training events. ``copies`` counts
    samples nearer to a training event than ``ratio`` times the distance to the second nearest (Gu et al. 2023,
    arXiv:2310.02664). The floor is that of as many held-out events, if twice as many exist; it is not 0 where the
    splits differ in law, as by their writers. The errors include the scatter of the events.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    example: ClassVar = {"data": "exact[target=gaussian[shape=[2]],count=1000,test_count=1500]"}
    exempt: ClassVar = {"worse_evidence_scores_worse": "a sample far from all events is no copy"}

    data: Dataset | None = param(None, "data set of the model, which saw its train split, not its test split", eq=repr)
    ratio: float = param(1 / 3, "threshold of copies", and_(gt(0), lt(1)))

    def prepare(self) -> None:
        self._splits()

    def depends_on(self, evidence: Evidence) -> Mapping[str, Any]:
        return {"hashes": [content_hash(events) for events in self._splits()]}

    def skip(self, evidence: Evidence) -> str | None:
        if self.data is None:
            return "Memorisation needs the data set of the model: memorisation[data=mnist[root=data]]"
        own, found = self.data.shape, tuple(evidence.samples.shape[1:])
        return None if own == found else f"{self.data} has events of shape {own}, the samples {found}: take another"

    def evaluate(self, evidence: Evidence) -> list[Metric]:
        """The metrics ``memorised`` and ``copies``; NaN if a sample is not finite."""
        if (reason := self.skip(evidence)) or self.data is None:
            raise ValueError(reason)
        x, (train, test) = evidence.gathered().double(), self._splits()
        held, rest = Origin(self.data, "test").reference(len(x), evidence.seed, x.device), test
        if held.sets >= 2:
            rest = test[torch.ones(len(test), dtype=torch.bool).index_fill_(0, held.rows(0), False)]
        chance = len(train) / (len(train) + len(rest))

        def judge(x: Tensor) -> tuple[Estimate, Estimate]:
            if not bool(x.isfinite().all()):
                return Estimate(math.nan, math.nan), Estimate(math.nan, math.nan)
            (near, which), (other, others) = nearest(x, train), nearest(x, rest)
            seen = near[:, 0] < other[:, 0]
            event = torch.where(seen, which[:, 0], len(train) + others[:, 0])
            return share(seen, event, chance), share(near[:, 0] < self.ratio * near[:, 1], which[:, 0], 0.0)

        floor = (None, None) if rest is test else held.once((self, "floor"), lambda: judge(held.draw(0).to(x)))
        more: dict[str, Any] = {"training": len(train), "held_out": len(rest), "chance": chance}
        return [self.metric(*each, **more) for each in zip(("memorised", "copies"), judge(x), floor, strict=True)]

    def _splits(self) -> list[Tensor]:
        splits: tuple[Split, ...] = ("train", "test") if self.data is not None else ()
        return [Origin(self.data, split).events() for split in splits]  # type: ignore[arg-type]
