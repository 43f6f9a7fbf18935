r"""Training a noise-conditional classifier (Song et al. 2021, arXiv:2011.13456, Appendix I.1).

    L = E_{t ~ U[t_min, 1]} -log q(y | x_t, t),    x_t = alpha x_0 + sigma z

At every t the exact posterior p_t(y | x) minimises the expected cross entropy. The minimum is the conditional entropy
H(y | x_t); any other q exceeds it by its mean KL divergence from the posterior. Under ``ve`` log sigma is uniform, as
in the paper's sum over geometric noise scales.
"""

import math
from collections.abc import Mapping

import attrs
import torch
from attrs.validators import and_, gt, lt
from torch import Tensor
from scoresde_core import Draws, Loss, level_of, param
from scoresde_core.shapes import combine
from scoresde_run import NoisyClassifier
from .losses import STRATIFIED_HELP

_CHUNK = 500


@attrs.frozen
class ClassificationLoss(Loss):
    """-log q(y | x_t, t) at uniform times, in nats; the data set must have labels."""

    trains = NoisyClassifier
    needs = ("labels",)

    t_min: float = param(1e-5, "smallest time that the classifier is trained at", and_(gt(0), lt(1)))
    stratified: bool = param(False, STRATIFIED_HELP)

    def skip_data(self, model: NoisyClassifier, known: Mapping[str, Tensor]) -> str | None:
        low, high = (int(value) for value in known["labels"].aminmax())
        if low < 0 or high >= model.classes:
            why = f"the data have labels {low} to {high}, the network classes 0 to {model.classes - 1}"
            return f"{why}: set model.network.classes={high + 1}"
        return None

    def per_sample(self, model: NoisyClassifier, x: Tensor, draws: Draws, *, labels: Tensor) -> Tensor:
        sde = model.sde
        level = level_of(sde, self.t_min + draws.uniform(stratified=self.stratified) * (sde.t_max - self.t_min), x)
        perturbed = combine(level.alpha, x, level.sigma, draws.normal(x))
        return -model.log_probabilities(perturbed, level).gather(1, labels.unsqueeze(1)).squeeze(1)


@torch.no_grad()
def accuracy(
    model: NoisyClassifier, x: Tensor, labels: Tensor, levels: int = 11, seed: int = 0
) -> list[dict[str, float]]:
    """Accuracy and cross entropy (nats) on events ``x`` (N, *shape) at times spread evenly over the classifier's SDE.

    The noise is the same for every classifier, so two may be compared level by level.
    """
    rows = []
    for t in torch.linspace(model.sde.t_min, 1, levels, dtype=torch.float64).tolist():
        level, found = model.sde.float_level(t), []
        for number, (part, own) in enumerate(zip(x.split(_CHUNK), labels.split(_CHUNK), strict=True)):  # type: ignore[no-untyped-call]
            noise = Draws(seed, f"accuracy {number}", len(part), total=_CHUNK, device=x.device).normal(part)
            logs = model.log_probabilities(combine(level.alpha, part, level.sigma, noise), level)
            right = (logs.argmax(1) == own).double()
            found.append(torch.stack([right, -logs.gather(1, own.unsqueeze(1)).squeeze(1).double()]))
        both = torch.cat(found, 1)
        value, error = both.mean(1).tolist(), (both.std(1) / math.sqrt(len(x))).tolist()
        row = {"sigma_over_alpha": float(level.sigma / level.alpha), "accuracy": value[0], "accuracy_stderr": error[0]}
        rows.append({**row, "cross_entropy": value[1], "cross_entropy_stderr": error[1]})
    return rows
