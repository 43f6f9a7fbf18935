"""``tuned``: N steps with the times and weights that ``scoresde tune-grid --method weights`` found."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import attrs
from torch import Tensor
from scoresde_core import SDE, Draw, Level, Noise, Observer, Registry, Sampler, Scalar, Schedule, ScoreModel, Step
from scoresde_core.components import param
from scoresde_core.registry import handed_registry
from scoresde_core.steps import MultistepPredictor, Past
from ..coordinates import blend, noise_ratio, remember, usable_order
from ..deis.predictors import IPNDMPredictor, NoiseMultistep
from ..grids import LogSNRGrid
from ..song2021.samplers import PredictorCorrectorSampler
from ..song2021.sdes import VPSDE
from .grid_file import FileGrid, write


@attrs.frozen(eq=False)
class Weighted(MultistepPredictor):
    """Step k of y = x / alpha over s = sigma / alpha: y' = y + (s' - s) sum_j rows[k][j] eps_{k - j}.

    Every linear multistep method without noise is of this form, also one of denoised states. The weights of a row
    need not add up to 1.
    """

    rows: Sequence[Sequence[Scalar]]
    stochastic = False

    def advance(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw, past: Past) -> tuple[Tensor, Tensor, Past]:
        past = remember(past, step, model.noise(x, step.now), max(map(len, self.rows)))
        length = step.next.alpha * (noise_ratio(step.next) - noise_ratio(step.now))
        first, *more = ((length * w, eps) for w, (_, eps) in zip(self.rows[step.index], past, strict=False))
        x = blend(step.next.alpha / step.now.alpha, x, *first, *more)
        return x, x, past


def rows_of(predictor: NoiseMultistep, steps: Sequence[Step]) -> list[list[Scalar]]:
    """The weights of a predictor in all ``steps``, newest noise first; none where there is no signal."""
    rows, levels = list[list[Scalar]](), list[Level]()
    for step in steps:
        if not step.now.alpha:
            rows.append([])
            continue
        levels.insert(0, step.now)
        used = levels[: usable_order(step, len(levels), predictor.max_order)]
        length = noise_ratio(step.next) - noise_ratio(step.now)
        rows.append([w / length for w in predictor.weights(step, used)])
    return rows


@attrs.frozen
class TunedSampler(Sampler):
    """Steps of a linear multistep method whose times and weights were tuned for a process and a number of steps.

    One evaluation a step, without noise. The file is one of ``scoresde tune-grid --method weights``.
    """

    @staticmethod
    def example(folder: Path) -> dict[str, str]:
        """A file of few and of many steps of Adams and Bashforth, for the conformance suite."""
        sde = VPSDE()
        grids = [LogSNRGrid().times(sde, steps) for steps in (5, 6, 400)]
        rows = [rows_of(IPNDMPredictor(), Schedule(sde, times).steps) for times in grids]
        write(folder / "grid.json", sde, [(times, {"weights": each}) for times, each in zip(grids, rows, strict=True)])
        return {"path": str(folder / "grid.json")}

    path: str = param(help="a file of scoresde tune-grid --method weights, or its name in a checkpoint's folder")
    checkpoint: str | None = param(None, "folder or name of the checkpoint that carries the file")
    steps: int = param(5, "number of steps, one that the file was tuned for", attrs.validators.ge(1))
    registry: Registry = handed_registry()

    def __attrs_post_init__(self) -> None:
        self._grid  # noqa: B018  # refuse an unusable file before any work starts

    @cached_property
    def _grid(self) -> FileGrid:
        return FileGrid(self.path, self.checkpoint, registry=self.registry)

    def files(self) -> list[Path]:
        """The file, whose content counts for a result."""
        return self._grid.files()

    def run(self, x: Tensor, model: ScoreModel, noise: Noise, observe: Observer | None = None) -> Tensor:
        weighted = Weighted(self._grid.stored[self.steps].weights)
        steps = PredictorCorrectorSampler(weighted, grid=self._grid, steps=self.steps)
        return steps.run(x, model, noise, observe)

    def skip(self, sde: SDE) -> str | None:
        """Refuse another process or number of steps, and a file that has times alone."""
        if reason := self._grid.skip_steps(sde, self.steps):
            return reason
        if not self._grid.stored[self.steps].weights:
            return f"{self.path} has times alone: take them as a grid, or tune with --method weights"
        return None
