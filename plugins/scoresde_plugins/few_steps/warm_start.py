"""``warm_start``: the start of a run by the exact flow of a known target, in place of a network."""

from typing import ClassVar, Self

import attrs
from torch import Tensor
from scoresde_core import SDE, ExactScore, Noise, Observer, Sampler, ScoreModel, Target, param
from ..numerics.flow import Solver, velocity


@attrs.frozen
class WarmStartSampler(Sampler):
    """The probability flow of ``target`` from t_max to ``until``, by dopri5, then ``sampler`` with the model.

    The target must be in the units of the model: images from -1 to 1. A grid of ``sampler`` begins at ``until``.
    ``nfe`` and the observer know of the sampler's part alone: evaluations of the exact score, about a hundred, are not
    counted.
    """

    example: ClassVar = {"target": "gaussian[shape=[3]]", "until": 0.4, "sampler": "pc[steps=9]"}
    exempt: ClassVar = {"counts_evaluations": "its sampler gets a part of the model, which the model counts"} | (
        dict.fromkeys(("keeps_shape_and_dtype", "finds_the_moments"), "its target has one shape and law")
    )

    target: Target = param(help="whose exact flow starts the run, such as mnist_mfa")
    until: float = param(help="the time at which the sampler takes over")
    sampler: Sampler = param(help="what goes on from there, with the model")

    @property
    def serves(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.sampler.serves)

    def run(self, x: Tensor, model: ScoreModel, noise: Noise, observe: Observer | None = None) -> Tensor:
        exact = ExactScore(self.target.to(x.device, x.dtype), model.sde).framed()
        x = Solver().solve(lambda t, state: velocity(exact, t, state), x, model.sde.t_max, self.until)
        return self.sampler.run(x, model.part(sde=model.sde.until(self.until)), noise, observe)

    def skip(self, sde: SDE) -> str | None:
        """Refuse a time outside of the process, a process without an exact score, and what the sampler refuses."""
        if not sde.t_min < self.until < sde.t_max:
            return f"until must lie between t_min = {sde.t_min:g} and t_max = {sde.t_max:g}, got {self.until:g}"
        return sde.skip_target(self.target) or self.sampler.skip(sde.until(self.until))

    def skip_model(self, model: ScoreModel) -> str | None:
        """Refuse a model of other events than the target's, or of a part of its law."""
        if self.target.shape != model.shape:
            return f"the target has events of shape {self.target.shape}, the model of shape {model.shape}: take another"
        if model.known:
            return f"the flow of the target is that of all events, not of the {', '.join(model.known)} that is known"
        return self.sampler.skip_model(model)

    def caveat(self, shape: tuple[int, ...], count: int) -> str | None:
        return self.sampler.caveat(shape, count)

    def decoupled(self) -> Self:
        return attrs.evolve(self, sampler=self.sampler.decoupled())
