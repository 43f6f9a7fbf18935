"""Autoguidance (Karras et al. 2024, arXiv:2406.02507, Eq. 3): away from a worse version of the model.

    score = s_weak(x | c) + w (s(x | c) - s_weak(x | c))

The worse model is smaller, or trained for a shorter time, on the same data and process. It makes the same errors, only
larger, so the extrapolation corrects them without narrowing the law to the mode of a class as a classifier does.
"""

from functools import cached_property
from pathlib import Path

import attrs
from torch import Tensor
from scoresde_core import ExactScore, Registry, ScoreModel, Target, handed_registry, param
from scoresde_run import Guidance, Model, plan_model
from scoresde_run.models import checkpoint as checkpoints


@attrs.frozen(kw_only=True)
class AutoGuidance(Guidance):
    """Away from a weaker model: a checkpoint, or the exact score of a wider target."""

    example = {"target": "gaussian[shape=[2],std=2]"}  # noqa: RUF012  # for the conformance suite

    checkpoint: str | None = param(None, "the weaker model: folder or name")
    target: Target | None = param(None, "the weaker exact target, for exact scores")
    registry: Registry = handed_registry()

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if (self.checkpoint is None) == (self.target is None):
            raise ValueError("give the weaker model: either checkpoint=X, or target=NAME for an exact score")

    def files(self) -> list[Path | str]:
        """Return the folder of the checkpoint, which its name does not determine."""
        return [] if self.checkpoint is None else [checkpoints.find(self.checkpoint, self.registry).folder]

    def skip(self, model: ScoreModel) -> str | None:
        """Refuse a weaker model of other events or of another process."""
        if self.target is not None:
            shape, sde = self.target.shape, model.sde
        else:
            plan = plan_model(checkpoints.find(str(self.checkpoint), self.registry).config, self.registry)
            shape, sde = plan.shape, plan.sde
        if shape != model.shape:
            return f"the weaker model is for events of shape {list(shape)}, the model for {list(model.shape)}"
        if sde.given(**model.sde._known) != model.sde:
            return f"the weaker model has the process {sde!r}, the model {model.sde!r}: both must have one"
        return super().skip(model)

    @cached_property
    def _weak(self) -> Model:
        return checkpoints.find(str(self.checkpoint), self.registry).load(self.registry)

    def base(self, model: ScoreModel, like: Tensor) -> ScoreModel:
        """The weaker model, with what ``model`` knows, as far as it takes it."""
        if self.target is not None:
            weak: ScoreModel = ExactScore(self.target.to(like.device, like.dtype), model.sde)
        else:
            weak = self._weak.to(like.device, like.dtype).score()
            weak.sde = model.sde
        weak = weak.given(**{name: value for name, value in model.known.items() if name in weak.takes})
        return weak.counted_by(model)
