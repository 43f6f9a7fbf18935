"""The problem's own way, as a method: known coefficients are replaced after each step (Song et al. 2021)."""

import attrs
from attrs.validators import ge
from scoresde_core import param
from scoresde_run.sampling.condition import Condition, Observation
from ..conditions.known import Inpaint
from .method import PosteriorMethod


@attrs.frozen
class Replacement(PosteriorMethod):
    """Known coefficients are set to their law at each level; what the problem does without a method."""

    differentiates = False
    condition: Condition = param(attrs.Factory(Inpaint), "the problem: linear, inpaint or colorize")

    def given(self, known: Observation) -> Observation:
        return known


@attrs.frozen
class RePaint(Replacement):
    """Replacement with each block of ``jump`` steps taken ``rounds`` times, so that the rest adapts to what is known.

    Lugmayr et al. 2022, arXiv:2201.09865: both are 10 there, in 250 steps.
    """

    rounds: int = param(5, "how often each block of steps is taken", ge(1))
    jump: int = param(1, "steps of a block, after which the run goes back", ge(1))
