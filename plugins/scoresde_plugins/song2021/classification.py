r"""Training a noise-conditional classifier (Song et al. 2021, arXiv:2011.13456, Appendix I.1).

    L = E_{t ~ U[t_min, 1]} -log q(y | x_t, t),    x_t = alpha x_0 + sigma z

At every t the exact posterior p_t(y | x) minimises the expected cross entropy. The minimum is the conditional entropy
H(y | x_t); any other q exceeds it by its mean KL divergence from the posterior. Under ``ve`` log sigma is uniform, as
in the paper's sum over geometric noise scales.
"""

from collections.abc import Mapping

import attrs
from attrs.validators import and_, gt, lt
from torch import Tensor
from scoresde_core import Draws, Loss, level_of, param
from scoresde_core.shapes import combine
from scoresde_run import NoisyClassifier
from .losses import STRATIFIED_HELP


@attrs.frozen
class ClassificationLoss(Loss):
    """-log q(y | x_t, t) at uniform times, in nats; the data set must have labels."""

    trains = NoisyClassifier
    needs = ("labels",)

    t_min: float = param(1e-5, "smallest time that the classifier is trained at", and_(gt(0), lt(1)))
    stratified: bool = param(False, STRATIFIED_HELP)

    def skip_data(self, model: NoisyClassifier, known: Mapping[str, Tensor]) -> str | None:
        """Refuse labels outside the network's classes."""
        low, high = (int(value) for value in known["labels"].aminmax())
        if low < 0 or high >= model.classes:
            return (
                f"the data have labels {low} to {high}, the network classes 0 to {model.classes - 1}: "
                f"set model.network.classes={high + 1}"
            )
        return None

    def per_sample(self, model: NoisyClassifier, x: Tensor, draws: Draws, *, labels: Tensor) -> Tensor:
        """(B,), for ``labels`` (B,)."""
        sde = model.sde
        level = level_of(sde, self.t_min + draws.uniform(stratified=self.stratified) * (sde.t_max - self.t_min), x)
        perturbed = combine(level.alpha, x, level.sigma, draws.normal(x))
        chosen = model.log_probabilities(perturbed, level).gather(1, labels.unsqueeze(1))
        return -chosen.squeeze(1)
