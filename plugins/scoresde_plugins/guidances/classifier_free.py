"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, Eq. 6), in an interval of noise levels.

    score = s(x) + w (s(x | c) - s(x))

w = 1 is the conditional score, w = 0 the unconditional one; the paper's weight is w - 1. One network gives both,
trained without the class of some events (``training.known_dropout``). Guidance at high noise costs variety, and at low
noise it does little, so an interval may do better (Kynkäänniemi et al. 2024, arXiv:2404.07724).
"""

import attrs
from torch import Tensor
from scoresde_core import ScoreModel, UsageError
from scoresde_run import Guidance


@attrs.frozen(kw_only=True)
class ClassifierFreeGuidance(Guidance):
    """Away from the score of the same model that knows nothing; two evaluations a step in the interval."""

    def skip(self, model: ScoreModel) -> str | None:
        """Refuse a model that knows nothing of its samples, or was never trained without what it knows."""
        if not model.known:
            names = ", ".join(model.takes) or "nothing"
            return f"cfg guides by what is known of each sample, and nothing is; the model takes {names}: give --known"
        try:
            model.unconditional()
        except UsageError as error:
            return str(error)
        return super().skip(model)

    def base(self, model: ScoreModel, like: Tensor) -> ScoreModel:
        return model.unconditional()
