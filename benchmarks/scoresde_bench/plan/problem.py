"""What the samples of a cell are given: observations of events of its truth, and the method that samples given them."""

from typing import Any, Self

import attrs
import torch
from scoresde_core import Registry, Sampler, Spec, UsageError, parameters, skip
from scoresde_core.noise import key
from scoresde_run import Condition, ConditionedSampler, GuidedSampler, Observation, Observed
from .score_sources import ScoreSource


@attrs.frozen(eq=False)
class Problem:
    """A ``condition`` on ``count`` events drawn by ``seed``; ``method`` samples given them, or says why it cannot."""

    condition: Condition
    method: Any
    count: int
    seed: int

    @classmethod
    def of(cls, registry: Registry, source: ScoreSource, given: tuple[Spec, Spec], count: int, seed: int) -> Self:
        """The problem of ``source`` with the condition and the method ``given``, and the ``seed`` of a cell."""
        condition, method = given
        if source.truth is None:
            needed = "--condition draws the events that are observed from a target"
            raise UsageError(f"{needed}: add --target, such as mnist_mfa")
        free = {p.name for p in parameters(registry.load("conditions", method.name))} - set(method.params)
        if "condition" not in free:
            why = "its problem is that of --condition" if "condition" in method.params else "it is no method"
            raise UsageError(f"--method {method}: {why}; write exact, mmps, dps[scale=0.1] or the like")
        own = key(seed, "observations") % 2**31
        known = registry.create("conditions", condition, seed=own)
        registry.create("conditions", method, target=source.truth)  # an error, if it is wrong under any condition
        try:
            made = registry.create("conditions", method, target=source.truth, condition=known)
        except UsageError as error:
            made = str(error)
        return cls(known, made, count, own)

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything that observations and method depend on, besides the source."""
        return {"condition": self.condition, "method": self.method, "observations": self.count}

    def refusal(self, sampler: Sampler, source: ScoreSource) -> str | None:
        """Why ``sampler`` cannot draw from the posterior by the method, or None."""
        if isinstance(self.method, str):
            return self.method
        if isinstance(sampler, GuidedSampler):
            return "guidance leads away from the posterior: leave --guidance or --condition out"
        if reason := self.method.skip(source.shape):
            return str(reason)
        if self.condition.mixes_channels and len({*source.units.scale}) > 1:
            return f"{self.condition!r} knows sums of channels, but the model scales each channel separately"
        try:
            given = self.method.given(self.condition.observe(torch.zeros(self.count, *source.shape)))
        except ValueError as error:
            return str(error)
        return skip(self.conditioned(sampler, given), source.sde, source.shape)

    def observe(self, source: ScoreSource) -> Observed:
        """The events, and what is known of them."""
        assert source.truth is not None  # checked by of()
        events = source.truth.sample(self.count, self.seed)
        return Observed(events, self.condition.observe(source.units.encode(events).double()))

    def given(self, observed: Observed, samples: int) -> Observation:
        """What the method knows of ``samples`` samples, equally many of each event."""
        rows = torch.arange(self.count).repeat_interleave(samples // self.count)
        found: Observation = self.method.given(observed.known.select(rows))
        return found

    def conditioned(self, sampler: Sampler, given: Observation) -> Sampler:
        """``sampler`` under what the method knows."""
        return ConditionedSampler(sampler, given, self.method.rounds, self.method.jump)
