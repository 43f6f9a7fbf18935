"""Guidances: scale 1 is the model itself, samples keep their rows, and every evaluation is counted."""

from collections.abc import Mapping

import torch
from torch import Tensor
from scoresde_core import Level, Noise, ScoreModel
from . import exact, expect
from .candidate import Candidate

LEVEL = Level(0.3, 0.8, 0.6)


class Told(ScoreModel):
    """Normal points in the plane, about the mean of their class, or about 0 if none is known."""

    sde, shape = exact.ConstantRateSDE(), (2,)

    @property
    def takes(self) -> Mapping[str, int]:
        return {"class": 3}

    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        mean = self.known["class"].unsqueeze(1) + 1 if "class" in self.known else 0.0
        return (level.alpha * mean - x) / (0.25 * level.alpha**2 + level.sigma**2)


def _told() -> tuple[Told, Tensor]:
    return Told().given(**{"class": torch.arange(6) % 3}), Noise(3, (2,), 6).draw("conformance", "x")


def scale_one_is_the_model(candidate: Candidate) -> None:
    """With scale 1, and outside of its interval, the score is that of the model; with scale 2 it is another."""
    model, x = _told()
    for change, same in (({"scale": 1.0}, True), ({"scale": 2.0}, False), ({"interval": (1.0, 9.0)}, True)):
        guided = candidate.build(**{"scale": 2.0, **change}).guide(model, x)
        gap = float((guided.score(x, LEVEL) - model.score(x, LEVEL)).abs().max())
        assert (gap < 1e-5) == same, f"with {change} the guided score differs from the model's by {gap:.3g}"


def keeps_rows_and_counts(candidate: Candidate) -> None:
    """The guided score of some samples is that of their rows; the model counts all evaluations that it takes."""
    model, x = _told()
    guided, index = candidate.component.guide(model, x), torch.tensor([4, 1, 2])
    expected = guided.score(x, LEVEL)[index]
    assert model.rows >= 12, f"the model counted {model.rows} evaluations of 6 samples, expected 2 each"
    expect.agree(guided.select(index).score(x[index], LEVEL), expected, 1e-5, "the score of rows 4, 1, 2 differs by")


def refuses_or_serves(candidate: Candidate) -> None:
    """``skip`` accepts a model that knows its classes; of one that does not it says why, or guides it."""
    model, x = _told()
    assert (reason := candidate.component.skip(model)) is None, f"skip refuses a model that knows classes: {reason}"
    if candidate.component.skip(Told()) is None:
        assert bool(candidate.component.guide(Told(), x).score(x, LEVEL).isfinite().all()), "its score is not finite"
