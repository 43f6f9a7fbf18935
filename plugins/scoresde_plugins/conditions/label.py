"""Class-conditional sampling (Song et al. 2021, arXiv:2011.13456, Section 4.4 and Appendix I.1, Eq. 14).

    grad log p_t(x | y) = grad log p_t(x) + w grad log p_t(y | x)

The second term is the gradient of a noise-conditional classifier; w = 1 is Bayes' rule, w > 1 sharpens it
(Dhariwal & Nichol 2021, arXiv:2105.05233, Section 4.1). An exact target classifies by the posterior of its
components. A network classifier receives x_t / alpha with noise of scale sigma / alpha, so one classifier serves
every Gaussian-path SDE (for VE this is the published convention).
"""

from pathlib import Path
from typing import Any

import attrs
import torch
from attrs.validators import ge
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from scoresde_core import FileError, Level, Registry, ScoreModel, Target, WrappedScore, handed_registry, param
from scoresde_run import Condition, Network, NoisyClassifier, Observation, Units, plan_model
from scoresde_run.machine import inputs
from scoresde_run.models import checkpoint as checkpoints
from ..networks.classifier import NetworkClassifier

_SCALED = "a classifier needs noise of one scale, and the model or the classifier scales channels or columns separately"


@attrs.frozen(eq=False)
class TargetClassifier(NoisyClassifier):
    """The exact posterior of a target's components; ``scale`` and ``shift`` convert the sampled events to its units."""

    target: Target
    scale: float = 1.0
    shift: float = 0.0
    sde: Any = None

    @property
    def classes(self) -> int:
        return len(self.target.modes())  # type: ignore[arg-type]  # which the condition has checked

    def log_probabilities(self, x: Tensor, level: Level) -> Tensor:
        seen = self.scale * x + self.shift * level.alpha
        return self.target.log_responsibilities(seen, Level(level.t, level.alpha, self.scale * level.sigma))


class GuidedScore(WrappedScore):
    """A score plus ``scale`` times the gradient of a classifier's log probability of ``labels`` (B,).

    Evaluations of the score are counted by the wrapped model; the classifier's are not counted.
    """

    def __init__(self, model: ScoreModel, classifier: NoisyClassifier, labels: Tensor, scale: float) -> None:
        super().__init__(model)
        self.classifier, self.labels, self.scale = classifier, labels, scale

    def select(self, index: Tensor) -> "GuidedScore":
        return self.part(model=self.model.select(index), labels=self.labels[index.to(self.labels.device)])

    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        score = self.model.score(x, level)
        with torch.enable_grad():
            at = x.detach().requires_grad_(True)
            chosen = self.classifier.log_probabilities(at, level).gather(1, self.labels.unsqueeze(1))
            (gradient,) = torch.autograd.grad(chosen.sum(), at)
        return torch.add(score, gradient, alpha=self.scale)


@attrs.frozen(eq=False)
class ClassObservation(Observation):
    """The classes ``labels`` (n,) of samples."""

    labels: Tensor
    classifier: NoisyClassifier
    scale: float = 1.0
    acts_on_state = False

    def rows(self, start: int, count: int) -> "ClassObservation":
        if start + count > len(self.labels):
            raise ValueError(f"there are labels for {len(self.labels)} samples, too few for sample {start + count - 1}")
        return attrs.evolve(self, labels=self.labels[start : start + count])

    def to(self, x: Tensor) -> "ClassObservation":
        return attrs.evolve(self, labels=self.labels.to(x.device))

    def guide(self, model: ScoreModel) -> ScoreModel:
        return GuidedScore(model, self.classifier, self.labels, self.scale)


@attrs.frozen
class ClassCondition(Condition):
    """Samples of a class: one label for all, or a list that is cycled over the samples.

    The classifier is a ``target`` (its components are the classes), a ``checkpoint`` that ``scoresde train`` made with
    the loss ``classification`` (``mnist_classifier`` is bundled), or a ``network`` with ``weights`` (safetensors). A
    checkpoint records the units of its events, and converts those of a model in other units; a target has data units.
    From Python, :class:`ClassObservation` takes any :class:`NoisyClassifier`.
    """

    needs_data = False
    example = {"target": "mixture2d"}  # noqa: RUF012  # for the conformance suite

    label: int | tuple[int, ...] = param(0, "class, or a list of classes to cycle over")
    scale: float = param(1.0, "guidance scale w", ge(0))
    target: Target | None = param(None, "exact target that classifies by its components")
    checkpoint: str | None = param(None, "trained noise-conditional classifier: folder or name")
    network: Network | None = param(None, "specification of a noise-conditional classifier")
    weights: str | None = param(None, "weights of the network, a safetensors file")
    centered: bool = param(True, "sampled images are on [-1, 1]; false: on [0, 1]; used if units is null")
    units: Units | None = param(None, "units of the samples; 'scoresde sample' passes those of the model")
    registry: Registry = handed_registry()

    def __attrs_post_init__(self) -> None:
        if [self.target, self.checkpoint, self.network].count(None) != 2:
            raise ValueError("give one classifier: target=NAME, checkpoint=X, or network=classifier and weights=FILE")
        if (self.network is None) != (self.weights is None):
            raise ValueError(f"network and weights must be given together, got weights={self.weights!r}")
        if min(self.labels) < 0:
            raise ValueError(f"labels count from 0, got {min(self.labels)}")
        if self.target is not None:
            if (modes := self.target.modes()) is None:
                raise ValueError(f"{type(self.target).__name__} has no components to use as classes: choose a mixture")
            if max(self.labels) >= len(modes):
                raise ValueError(f"the target has classes 0 to {len(modes) - 1}, got {max(self.labels)}")

    @property
    def labels(self) -> tuple[int, ...]:
        """The labels to cycle over."""
        return (self.label,) if isinstance(self.label, int) else self.label

    def files(self) -> list[Path | str]:
        """Return the weights, or the folder of the checkpoint, which its name does not determine."""
        if self.checkpoint is not None:
            return [checkpoints.find(self.checkpoint, self.registry).folder]
        return [] if self.weights is None else [self.weights]

    def skip(self, shape: tuple[int, ...]) -> str | None:
        units = Units()
        if self.target is not None and self.target.shape != shape:
            return f"the classifier is for events of shape {self.target.shape}, not {shape}"
        if self.checkpoint is not None:
            config = checkpoints.find(self.checkpoint, self.registry).config
            plan = plan_model(config, self.registry, outputs=("logits",))
            if plan.shape != shape:
                return f"the classifier {self.checkpoint} is for events of shape {plan.shape}, not {shape}"
            classes = plan.network.view(nn.Identity(), plan.sde, shape).classes
            if max(self.labels) >= classes:
                return f"the classifier {self.checkpoint} has classes 0 to {classes - 1}, got {max(self.labels)}"
            units = plan.units
        return None if self.network is not None or self._onto(units, shape) else _SCALED

    def observe(self, x: Tensor) -> ClassObservation:
        if reason := self.skip(tuple(x.shape[1:])):
            raise ValueError(reason)
        index = torch.arange(len(x), device=x.device) % len(self.labels)
        return ClassObservation(torch.tensor(self.labels, device=x.device)[index], self._classifier(x), self.scale)

    def _classifier(self, x: Tensor) -> NoisyClassifier:
        if self.target is not None:
            scale, shift = self._onto(Units(), tuple(x.shape[1:])) or (1.0, 0.0)
            return TargetClassifier(self.target.to(x.device, x.dtype), scale, shift)
        if self.checkpoint is not None:
            found = checkpoints.find(self.checkpoint, self.registry)
            model = found.load(self.registry, outputs=("logits",)).to(x.device, x.dtype)
            model.network.requires_grad_(False)
            view: NetworkClassifier = model.view()
            scale, shift = self._onto(model.units, model.shape) or (1.0, 0.0)
            return attrs.evolve(view, scale=scale, shift=shift)
        assert self.network is not None and self.weights is not None  # noqa: PT018
        module = self.network.build(tuple(x.shape[1:]))
        try:
            module.load_state_dict(load_file(inputs.whole(Path(self.weights))))
        except (OSError, ValueError, SafetensorError, RuntimeError) as error:
            why = f"cannot load the classifier {self.weights} ({error})"
            raise FileError(f"{why}: give weights of this network") from error
        ready = module.to(x.device, x.dtype).eval().requires_grad_(False)
        return NetworkClassifier(ready, getattr(self.network, "classes", max(self.labels) + 1))

    def _onto(self, units: Units, shape: tuple[int, ...]) -> tuple[float, float] | None:
        """The scale and shift from sampled events to the classifier's ``units``; None if not two numbers."""
        own = self.units or Units(self.centered, levels=256 if len(shape) == 3 else None)
        return own.onto(units)
