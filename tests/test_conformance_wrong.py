"""The conformance suite tells wrong components from right ones: each has one fault, and a check names it."""

import math
import re

import attrs
import pytest
import torch
from attrs.validators import gt
from registries import failures
from torch import nn

from scoresde_core import (
    DATA,
    SDE,
    Corrector,
    Dequantizer,
    Evaluator,
    Grid,
    Metric,
    Predictor,
    ScoreModel,
    param,
)
from scoresde_core.condition import Condition, Observation
from scoresde_core.conformance.exact import (
    ConstantRateSDE,
    Mixture,
    PlainPredictor,
    PlainSampler,
    Watched,
)
from scoresde_core.dataset import Dataset
from scoresde_core.evaluator import Comparison, Evidence
from scoresde_core.network import Network
from scoresde_core.noise import Noise, key
from scoresde_core.target import Estimate


def by_name(value):
    """Parametrised cases are called after their class."""
    return value.__name__ if isinstance(value, type) else ""


def names_it(kind, cls, check, words):
    """That check fails, with these words."""
    found = failures(kind, cls, only=check)
    assert check in found, f"{cls.__name__} passes {check}"
    assert words in found[check]


@attrs.frozen
class HalfDiffusionSDE(ConstantRateSDE):
    """Its diffusion has lost a factor."""

    def diffusion(self, t):
        return SDE.diffusion(self, t) * 0.5


@attrs.frozen
class RememberingSDE(ConstantRateSDE):
    """At t = 1 half of the signal is left."""

    rate: float = param(1.4, "b")


@attrs.frozen
class LossySDE(ConstantRateSDE):
    """1 - exp near t = 0 loses its digits in float32."""

    t_min = 1e-5

    def sigma(self, t):
        return torch.sqrt(1 - torch.exp(-self.rate * t))


@attrs.frozen
class OtherPriorSDE(ConstantRateSDE):
    """Its prior is wider than the marginal."""

    @property
    def prior(self):
        return attrs.evolve(SDE.prior.fget(self), std=1.1)


@attrs.frozen
class OtherDriftSDE(ConstantRateSDE):
    """Its drift is not that of its signal."""

    def drift_rate(self, t):
        return torch.full_like(t, -0.55 * self.rate)


@attrs.frozen
class OffTimeSDE(ConstantRateSDE):
    """Its times are those of another rate."""

    def time_at(self, log_noise_ratio, t_min=None):
        return SDE.time_at(self, log_noise_ratio, t_min) * 0.99


@attrs.frozen
class OffRatioSDE(ConstantRateSDE):
    """Its noise ratio is that of the variances; its times fit the ratio of its sigma and alpha."""

    def log_noise_ratio(self, t):
        return 2 * SDE.log_noise_ratio(self, t)

    def time_at(self, log_noise_ratio, t_min=None):
        return SDE.time_at(self, 2 * log_noise_ratio, t_min)


@attrs.frozen
class OffTableSDE(ConstantRateSDE):
    """Wrong on the published grid alone, where many steps are evenly spaced."""

    def transition(self, times):
        exact = SDE.transition(self, times)
        return attrs.evolve(exact, backward_std=exact.backward_std * 1.1) if len(times) > 100 else exact


@attrs.frozen
class LossyTransitionSDE(ConstantRateSDE):
    """Its transition forgets that variances shrink."""

    def transition(self, times):
        exact = SDE.transition(self, times)
        return attrs.evolve(exact, std=exact.std * 1.01)


@attrs.frozen
class ShiftedPriorSDE(ConstantRateSDE):
    """Its prior has a mean, and the marginal has none."""

    @property
    def prior(self):
        return attrs.evolve(SDE.prior.fget(self), mean=0.3)


@attrs.frozen
class WidePriorSDE(ConstantRateSDE):
    """Its prior is wider than the marginal by half a percent."""

    @property
    def prior(self):
        return attrs.evolve(SDE.prior.fget(self), std=1.005)


@attrs.frozen
class StubbornTimeSDE(ConstantRateSDE):
    """Its times never fall below its own t_min, whatever the caller wants."""

    def time_at(self, log_noise_ratio, t_min=None):
        return ConstantRateSDE.time_at(self, log_noise_ratio)


@attrs.frozen
class OffChainSDE(ConstantRateSDE):
    """Its chain has too much noise by 2 %."""

    def discretize(self, times):
        chain = SDE.discretize(self, times)
        return attrs.evolve(chain, diffusion=1.02 * chain.diffusion)


@attrs.frozen
class OffDriftChainSDE(ConstantRateSDE):
    """Its chain drifts too little by 2 %."""

    def discretize(self, times):
        chain = SDE.discretize(self, times)
        return attrs.evolve(chain, drift=0.98 * chain.drift)


@attrs.frozen
class OffLevelsSDE(ConstantRateSDE):
    """Its table of discrete levels has a few entries too many."""

    def discrete_level(self, t, n):
        return self.level(t * (n - 1) / (n + 9))


@pytest.mark.parametrize(
    ("cls", "check", "words"),
    [
        (HalfDiffusionSDE, "sigma_fits_the_diffusion", "diffusion disagrees with sigma: at t = 1 sigma is 0.99"),
        (OtherDriftSDE, "alpha_fits_the_drift", "drift_rate disagrees with alpha"),
        (RememberingSDE, "forgets_the_data", "expected at most 0.005"),
        (LossySDE, "is_accurate_in_float32", "in float32"),
        (OtherPriorSDE, "prior_is_the_marginal", "the prior's std is 1.1, but at t = 1 sigma is 0.99"),
        (WidePriorSDE, "prior_is_the_marginal", "the prior's std is 1.005"),
        (ShiftedPriorSDE, "prior_is_the_marginal", "the prior N(0.3, 1^2) is 0.045 nats a dimension from x_1"),
        (OffTimeSDE, "time_at_inverts_the_noise", "time_at disagrees with alpha and sigma"),
        (StubbornTimeSDE, "time_at_inverts_the_noise", ", t_min=0.0001 it is 0.001"),
        (OffRatioSDE, "log_noise_ratio_is_of_alpha_and_sigma", "log_noise_ratio disagrees with alpha and sigma"),
        (OffTableSDE, "chain_tends_to_the_sde", "the backward_std of transition disagrees with diffusion"),
        (OffChainSDE, "chain_tends_to_the_sde", "the diffusion of discretize disagrees with diffusion"),
        (OffDriftChainSDE, "chain_tends_to_the_sde", "the drift of discretize disagrees with drift_rate"),
        (OffLevelsSDE, "discrete_levels_tend_to_the_sde", "discrete_level disagrees with alpha"),
        (LossyTransitionSDE, "transition_composes", "of the transition is"),
    ],
    ids=by_name,
)
def test_wrong_sde(cls, check, words):
    names_it("sdes", cls, check, words)


@pytest.mark.parametrize(
    ("base", "name", "words"),
    [
        (SDE, "drift", "override drift_rate"),
        (SDE, "perturb", "read alpha and sigma"),
        (SDE, "level", "read alpha and sigma"),
        (SDE, "scales", "read alpha and sigma"),
        (ScoreModel, "score", "override evaluate"),
        (ScoreModel, "noise", "override evaluate"),
        (ScoreModel, "denoised", "override evaluate"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.islower() and " " not in value else None,
)
def test_an_override_that_nobody_reads_is_refused(base, name, words):
    """When the class is made, however deep it lies, by a mixin or a field as well as by a method."""
    concrete = {SDE: ConstantRateSDE, ScoreModel: Watched}[base]
    for bases, body in (
        ((base,), {name: lambda self, *_: 0}),
        ((concrete,), {name: lambda self, *_: 0}),
        ((type("Mixin", (), {name: lambda self, *_: 0}), concrete), {}),
        ((concrete,), {name: param(1.0, "a field"), "__annotations__": {name: float}}),
    ):
        with pytest.raises(TypeError, match=rf"^Wrong must not override {base.__name__}\.{name}: .*{words}"):
            attrs.frozen(type("Wrong", bases, body))


def test_right_sde():
    assert failures("sdes", ConstantRateSDE, level="full") == {}


class Flow(Predictor):
    """Euler's rule on d(x/alpha) = eps d(sigma/alpha): the base of the wrong ones."""

    stochastic = False

    def step(self, x, step, model, noise):
        rise = step.next.sigma / step.next.alpha - step.now.sigma / step.now.alpha
        x = (x / step.now.alpha + rise * model.noise(x, step.now)) * step.next.alpha
        return x, x


@attrs.frozen
class RightPredictor(Flow):
    """First order, as it says."""


@attrs.frozen
class BoastingPredictor(Flow):
    """First order, but declared second."""

    order = 2.0


@attrs.frozen
class BiasedPredictor(Flow):
    """Converges to another distribution."""

    def step(self, x, step, model, noise):
        x, _ = Flow.step(self, x, step, model, noise)
        return x * (1 + 0.05 * step.dt), x


@attrs.frozen
class UncountedPredictor(Flow):
    """Walks around the counter."""

    def step(self, x, step, model, noise):
        extra = model.evaluate(x, step.now)
        return Flow.step(self, x + 0 * extra, step, model, noise)


@attrs.frozen
class SecretlyStochasticPredictor(Flow):
    """Draws noise, and says that it does not."""

    def step(self, x, step, model, noise):
        moved, _ = Flow.step(self, x, step, model, noise)
        return moved + 1e-3 * noise(), moved


@attrs.define
class StatefulPredictor(Flow):
    """Remembers the last run."""

    runs: int = attrs.field(default=0, init=False, repr=False)

    def step(self, x, step, model, noise):
        self.runs += 1
        x, _ = Flow.step(self, x, step, model, noise)
        return x * (1 + 1e-6 * self.runs), x


@attrs.frozen
class InPlacePredictor(Flow):
    """Overwrites the state that it was given."""

    def step(self, x, step, model, noise):
        moved, _ = Flow.step(self, x, step, model, noise)
        return x.copy_(moved), moved


@attrs.frozen
class CoupledPredictor(Flow):
    """A sample sees its batch."""

    def step(self, x, step, model, noise):
        x, _ = Flow.step(self, x, step, model, noise)
        return x + 1e-2 * step.dt * x.mean(), x


@attrs.frozen
class FloatsOnlyPredictor(Flow):
    """Takes the numbers of a step for Python floats."""

    def step(self, x, step, model, noise):
        return Flow.step(self, x * math.exp(0 * step.dt), step, model, noise)


@attrs.frozen
class NoisyMeanPredictor(PlainPredictor):
    """Calls the state its mean, noise and all."""

    def step(self, x, step, model, noise):
        x, _ = PlainPredictor.step(self, x, step, model, noise)
        return x, x


@attrs.frozen
class OneOptionPredictor(Flow):
    """Right as it is, and wrong with one of its options."""

    variants = ({"speed": 2.0},)
    speed: float = param(1.0, "1, or wrong")

    def step(self, x, step, model, noise):
        x, _ = Flow.step(self, x, step, model, noise)
        return (x, x) if self.speed == 1 else (x * (1 + 0.05 * step.dt), x)


@attrs.frozen
class FirstStepPredictor(Predictor):
    """Takes a time a row in its first step, and Python floats from its second on."""

    stochastic = False

    def step(self, x, step, model, noise):
        rise = step.next.sigma / step.next.alpha - step.now.sigma / step.now.alpha
        past = step.memory.setdefault("past", [])
        eps = model.noise(x, step.now)
        weight = 0.0 * math.exp(step.dt) if past else 0.0
        past.append(eps)
        x = (x / step.now.alpha + rise * ((1 + weight) * eps - weight * past[0])) * step.next.alpha
        return x, x


@pytest.mark.parametrize(
    ("cls", "check", "words"),
    [
        (BoastingPredictor, "converges_in_its_order", "order is 2, but step converges in order 0.99"),
        (BiasedPredictor, "converges_in_its_order", "converges in order"),
        (OneOptionPredictor, "converges_in_its_order", "predictor subject[speed=2.0] under the suite's own sde: order"),
        (UncountedPredictor, "counts_are_stable", "but 12 were counted"),
        (SecretlyStochasticPredictor, "is_as_stochastic_as_it_says", "stochastic is False, but 12 steps draw noise"),
        (NoisyMeanPredictor, "has_a_mean_without_noise", "with the sign of noise drawn after the last evaluation"),
        (StatefulPredictor, "forgets_between_runs", "another result the second time"),
        (InPlacePredictor, "keeps_shape_and_dtype", "changed x in place"),
        (CoupledPredictor, "steps_split_alike", "in batches of 5 differ by"),
        (FloatsOnlyPredictor, "takes_a_time_per_row", "only one element tensors"),
        (FirstStepPredictor, "takes_a_time_per_row", "only one element tensors"),
    ],
    ids=by_name,
)
def test_wrong_predictor(cls, check, words):
    names_it("predictors", cls, check, words)


@pytest.mark.parametrize("cls", [RightPredictor, PlainPredictor])
def test_right_predictor(cls):
    assert failures("predictors", cls, level="full") == {}


class Langevin(Corrector):
    """Unadjusted Langevin steps of size ``size`` v: the base of the wrong ones."""

    noise_power = 2.0
    drift = 0.0
    exponent = 0.5

    def correct(self, x, step, model, noise):
        size = self.size * (step.now.alpha**2 + step.now.sigma**2)
        mean = x + size * model.score(x, step.now) + self.drift * size
        return mean + (self.noise_power * size) ** 0.5 * noise(), mean

    def shrunk(self, factor):
        return attrs.evolve(self, size=self.size / factor ** (2 * self.exponent))


@attrs.frozen
class RightCorrector(Langevin):
    """Langevin's."""

    size: float = param(0.05, "step size", gt(0))


@attrs.frozen
class QuietCorrector(Langevin):
    """Too little noise by a tenth."""

    size: float = param(0.05, "step size", gt(0))
    noise_power = 1.8


@attrs.frozen
class DriftingCorrector(Langevin):
    """Pushes the mean."""

    size: float = param(0.05, "step size", gt(0))
    drift = 0.3


@attrs.frozen
class WrongShrinkCorrector(Langevin):
    """Divides its step size by the square of the factor."""

    size: float = param(0.05, "step size", gt(0))
    exponent = 1.0


@attrs.frozen
class UnshrinkableCorrector(Langevin):
    """Moves, but gives no smaller version of itself."""

    size: float = param(0.05, "step size", gt(0))

    def shrunk(self, factor):
        return None


@attrs.frozen
class NoisyMeanCorrector(Langevin):
    """Calls the state its mean, noise and all."""

    size: float = param(0.05, "step size", gt(0))

    def correct(self, x, step, model, noise):
        x, _ = Langevin.correct(self, x, step, model, noise)
        return x, x


@pytest.mark.parametrize(
    ("cls", "check", "words"),
    [
        (QuietCorrector, "leaves_the_marginal", "the variance changes by -0.1"),
        (DriftingCorrector, "leaves_the_marginal", "the mean changes by"),
        (WrongShrinkCorrector, "shrinks_its_steps", "falls by 16"),
        (UnshrinkableCorrector, "leaves_the_marginal", "but correct moves x"),
        (NoisyMeanCorrector, "has_a_mean_without_noise", "with the sign of noise drawn after the last evaluation"),
    ],
    ids=by_name,
)
def test_wrong_corrector(cls, check, words):
    names_it("correctors", cls, check, words)


def test_right_corrector():
    assert failures("correctors", RightCorrector, level="full") == {}


@attrs.frozen
class CarelessSampler(PlainSampler):
    """Draws from torch's global generator, stops early, and asks the model behind the counter's back."""

    def run(self, x, model, sde, noise, observe=None):
        model.evaluate(x, sde.level(torch.ones((), dtype=torch.float64)))
        return PlainSampler.run(self, x, model, sde, noise, None) + 0.3 + 1e-3 * torch.randn_like(x)


class Renoised(Noise):
    """Noise whose keys are changed by ``rule``."""

    rule = staticmethod(lambda step, purpose: (step, purpose))

    def draw(self, step, purpose, draw=0):
        return Noise.draw(self, *self.rule(step, purpose), draw)


class Loop(PlainSampler):
    """The suite's own loop with a place for a fault: which noise a part hears, and which step."""

    def run(self, x, model, sde, noise, observe=None):
        from scoresde_core import Schedule

        times = torch.cat([torch.linspace(1, sde.t_min, self.steps, dtype=torch.float64), torch.zeros(1).double()])
        steps = Schedule(sde, times).steps
        for k, step in enumerate(steps):
            x, _ = self.corrector.correct(x, self.level(steps, k), model, self.heard(noise, k, "corrector"))
            if k or not self.late:
                x, mean = self.predictor.step(x, step, model, self.heard(noise, k, "predictor"))
            if observe is not None:
                observe(k + 1, self.steps, x)
        return mean

    late = False

    def level(self, steps, k):
        return steps[k]

    def heard(self, noise, k, purpose):
        return noise.at(k, purpose)


@attrs.frozen
class SharedNoiseSampler(Loop):
    """Predictor and corrector hear the same noise."""

    def heard(self, noise, k, purpose):
        return noise.at(k, "step")


@attrs.frozen
class LateSampler(Loop):
    """Leaves out the first step of the predictor."""

    late = True


@attrs.frozen
class WrongLevelSampler(Loop):
    """Corrects at the level where the next step arrives, before it was made."""

    def level(self, steps, k):
        return steps[min(k + 1, len(steps) - 1)]


@attrs.frozen
class ShrinkingSampler(PlainSampler):
    """Its samples have too small a variance by 4 %, and there is no noise in them."""

    predictor: Predictor = param(attrs.Factory(RightPredictor), "reverse-time step")

    def run(self, x, model, sde, noise, observe=None):
        return 0.5 + (PlainSampler.run(self, x, model, sde, noise, observe) - 0.5) * 0.98


def test_careless_sampler():
    found = failures("samplers", CarelessSampler)
    expected = {
        "is_split_invariant",
        "follows_the_seed",
        "counts_evaluations",
        "tells_of_its_steps",
        "finds_the_moments",
    }
    assert expected <= set(found)
    assert re.search(r"the mean of samples is 0\.[78]\d*, expected 0\.5000", found["finds_the_moments"])


@pytest.mark.parametrize(
    ("cls", "check", "words"),
    [
        (SharedNoiseSampler, "draws_no_number_twice", "(0, 'step', 0) is drawn more than once"),
        (LateSampler, "steps_meet_the_state", "but the state is at t = 1"),
        (WrongLevelSampler, "steps_meet_the_state", "the corrector gets a step from t ="),
        (ShrinkingSampler, "finds_the_moments", "the variance of samples is 0.2"),
    ],
    ids=by_name,
)
def test_wrong_sampler(cls, check, words):
    names_it("samplers", cls, check, words)


def test_right_sampler():
    assert failures("samplers", PlainSampler, level="full") == {}


@attrs.frozen
class ShortGrid(Grid):
    """Forgets clean data, and goes backwards."""

    def times(self, sde, steps):
        return torch.linspace(sde.t_min, 1, steps + 1)


def test_wrong_grid():
    found = failures("grids", ShortGrid)
    assert set(found) == {"runs_from_one_to_zero", "decreases", "is_float64_on_the_cpu", "refuses_no_steps"}


@attrs.frozen
class RightTarget(Mixture):
    """The kit's own mixture, with help."""

    weights: tuple[float, ...] = param((0.3, 0.7), "weights")
    means: tuple[float, ...] = param((-1.0, 1.0), "means")
    std: float = param(0.4, "width")
    event: tuple[int, ...] = param((2,), "shape")


@attrs.frozen
class LyingTarget(RightTarget):
    """Its samples are wider than its density."""

    def sample(self, n, seed=0):
        return Mixture.sample(self, n, seed) * 1.1


@attrs.frozen
class SteepTarget(RightTarget):
    """Its score is not the gradient of its density."""

    def score(self, x, level=DATA):
        return Mixture.score(self, x, level) * 1.001


@attrs.frozen
class GuessingTarget(RightTarget):
    """Classifies clean points only."""

    def log_responsibilities(self, x, level=DATA):
        clean = self.responsibilities(x).log()
        return clean if level.sigma == 0 else torch.full_like(clean, math.log(0.5))


@attrs.frozen
class OffCovarianceTarget(RightTarget):
    """The variance that it tells is off by a percent, which 2000 samples do not show."""

    def moments(self):
        mean, covariance = Mixture.moments(self)
        return mean, 1.01 * covariance


@attrs.frozen
class UniformTarget(Mixture):
    """Uniform on [0, 1] in two dimensions: the density of clean data is constant, the entropy 0."""

    weights: tuple[float, ...] = attrs.field(default=(1.0,), init=False, repr=False)
    means: tuple[float, ...] = attrs.field(default=(0.5,), init=False, repr=False)
    std: float = attrs.field(default=math.sqrt(1 / 12), init=False, repr=False)
    event: tuple[int, ...] = attrs.field(default=(2,), init=False, repr=False)

    def sample(self, n, seed=0):
        return torch.rand(n, 2, generator=torch.Generator().manual_seed(seed))

    def log_prob(self, x, level=DATA):
        return self._interval(x, level).log().sum(1)

    def score(self, x, level=DATA):
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.log_prob(x, level).sum() + 0 * x.sum(), x)
        return slope

    def entropy(self):
        return Estimate(0.0)

    @staticmethod
    def _interval(x, level):
        """The density of a coordinate."""
        alpha, sigma = (torch.as_tensor(value, dtype=x.dtype) for value in (level.alpha, level.sigma))
        if not bool((sigma > 0).all()):
            return ((x >= 0) & (x <= 1)).to(x.dtype)
        middle, half = (x - 0.5 * alpha) / sigma, 0.5 * alpha / sigma
        # A difference of two distribution functions on the side where it does not cancel.
        return (torch.special.ndtr(half - middle.abs()) - torch.special.ndtr(-half - middle.abs())) / alpha


def test_target_with_wrong_samples():
    found = failures("targets", LyingTarget)
    assert {"score_fits_the_samples", "moments_are_those_of_samples", "density_is_normalised"} <= set(found)
    assert "score_is_the_gradient" not in found


@pytest.mark.parametrize(
    ("cls", "check", "words"),
    [
        (SteepTarget, "score_is_the_gradient", "is off by 0.001 of the gradient of log_prob"),
        (OffCovarianceTarget, "moments_are_those_of_the_score", "the covariance of moments is off by 0.0"),
        (GuessingTarget, "components_are_told_from_noisy_events", "log_responsibilities of component 0 at sigma ="),
    ],
    ids=by_name,
)
def test_wrong_target(cls, check, words):
    names_it("targets", cls, check, words)


@pytest.mark.parametrize("shape", ["[2]", "[2,3,3]"])
def test_right_target(shape):
    assert failures("targets", RightTarget, name=f"subject[event={shape}]") == {}


def test_a_target_of_constant_density():
    """No statistic of a constant has a standard error, and none is divided by it."""
    assert failures("targets", UniformTarget, level="full") == {}


@attrs.frozen
class FlatEvaluator(Evaluator):
    """Measures nothing, with a new value every time."""

    def evaluate(self, evidence: Evidence) -> list[Metric]:
        return [Metric("flat", float(torch.rand(())), 0.1)]


class OffGap(Comparison):
    """The mean of -log p less the entropy, in nats: the base of wrong ones."""

    name = "gap"
    unit = "nats"
    better = "zero"
    factor = 1.0
    offset = 0.0

    def measure(self, samples, reference):
        surprise = -reference.precise.log_prob(samples).double()
        error = self.factor * float(surprise.std()) / math.sqrt(len(samples))
        return Estimate(float(surprise.mean()) - reference.precise.entropy().value + self.offset, error)


@attrs.frozen
class RightGap(OffGap):
    """As it should be."""


@attrs.frozen
class SureGap(OffGap):
    """Its errors are too small by a factor of 3."""

    factor = 1 / 3


@attrs.frozen
class UnsureGap(OffGap):
    """Its errors are those of a single sample."""

    factor = 10.0


@attrs.frozen
class OffsetGap(OffGap):
    """It is not zero for the truth."""

    offset = 1.0


@attrs.frozen
class SquaredDistance(Comparison):
    """The square of a distance, in the units of the distance."""

    name = "distance"
    unit = "data units"

    def measure(self, samples, reference):
        off = samples.mean(0) - reference.precise.moments()[0]
        return Estimate(float(off.square().sum()), float(2 * (samples @ off).std()) / math.sqrt(len(samples)))


@pytest.mark.parametrize(
    ("cls", "check", "words"),
    [
        (SureGap, "errors_are_the_scatter", "16 values of gap scatter by"),
        (UnsureGap, "errors_are_the_scatter", "16 values of gap scatter by"),
        (OffsetGap, "zero_is_the_truth", "gap of the truth is 1"),
        (SquaredDistance, "values_have_their_unit", "3 times as large, expected"),
    ],
    ids=by_name,
)
def test_wrong_evaluator(cls, check, words):
    names_it("evaluators", cls, check, words)


def test_careless_evaluator():
    found = failures("evaluators", FlatEvaluator)
    assert {"worse_evidence_scores_worse", "repeats_with_the_seed", "survives_nan"} <= set(found)


def test_right_evaluator():
    assert failures("evaluators", RightGap, level="full") == {}


class Guided(ScoreModel):
    """A score plus ``scale`` times the gradient of the log responsibility of ``labels``."""

    def __init__(self, model, target, labels, scale):
        self.model, self.target, self.labels, self.scale = model, target, labels, scale

    def evaluate(self, x, level):
        with torch.enable_grad():
            at = x.detach().requires_grad_(True)
            logits, _ = self.target._logits(at, level)
            chosen = logits.log_softmax(1).gather(1, self.labels.unsqueeze(1)).sum()
            (slope,) = torch.autograd.grad(chosen, at)
        return self.model.score(x, level) + self.scale * slope


@attrs.frozen(eq=False)
class Labels(Observation):
    labels: torch.Tensor
    target: Mixture
    scale: float
    acts_on_state = False

    def rows(self, start, count):
        return attrs.evolve(self, labels=self.labels[start : start + count])

    def guide(self, model):
        return Guided(model, self.target, self.labels, self.scale)


@attrs.frozen
class RightGuidance(Condition):
    """Samples of one component of a mixture."""

    strength: float = param(1.0, "1 is Bayes' rule")
    needs_data = False

    @property
    def target(self):
        return Mixture()

    def skip(self, shape):
        return None if shape == (2,) else f"events have shape (2,), not {shape}"

    def observe(self, x):
        if self.skip(tuple(x.shape[1:])):
            raise ValueError(self.skip(tuple(x.shape[1:])))
        return Labels(torch.zeros(len(x), dtype=torch.int64), self.target, self.strength)


@attrs.frozen
class BackwardGuidance(RightGuidance):
    """Leads away from the class."""

    strength: float = param(-1.0, "wrong")


def test_wrong_guidance():
    words = "score of guide at sigma"
    names_it("conditions", BackwardGuidance, "guides_by_bayes_rule", words)


def test_right_guidance():
    assert failures("conditions", RightGuidance) == {}


class Net(nn.Module):
    """A layer that is told the label: the base of wrong ones."""

    def __init__(self, size, spec):
        super().__init__()
        self.spec, self.layer, self.told = spec, nn.Linear(size, size), nn.Linear(1, size)
        self.shift = torch.randn(size) if spec.fault == "forgets" else torch.zeros(size)
        if spec.fault == "idle":
            self.spare = nn.Linear(size, size)

    def forward(self, x, label):
        h = self.layer(x.flatten(1)) + self.shift
        if self.spec.fault == "couples":
            h = h - h.mean(0)
        if self.spec.fault == "drops":
            h = h * torch.bernoulli(torch.full_like(h, 0.5))
        if self.spec.fault != "deaf":
            h = h + self.told(label.unsqueeze(1))
        elif self.spec.fault == "deaf":
            h = h + self.told(torch.zeros(len(x), 1))
        return h.reshape(x.shape)[:, :1] if self.spec.fault == "short" else h.reshape(x.shape)


@attrs.frozen(kw_only=True)
class NetOfOneLayer(Network):
    """A linear network with a choice of faults."""

    fault: str = param("", "what is wrong")

    def build(self, shape):
        if not shape:
            raise ValueError("" if self.fault == "silent" else "there is no event without a shape")
        return Net(math.prod(shape), self)


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        ("short", "answers_like_the_events", "shapes must be equal"),
        ("couples", "treats_every_row_by_itself", "alone and among others differs"),
        ("drops", "treats_every_row_by_itself", "another answer the second time"),
        ("deaf", "hears_the_noise_level", "it ignores them"),
        ("idle", "learns_with_every_parameter", "no gradient reaches spare.weight, spare.bias"),
        ("forgets", "is_all_in_its_state", "with the same state_dict gives other answers"),
        ("silent", "says_which_shapes_it_takes", "refuses events of shape () without a reason"),
    ],
)
def test_wrong_network(fault, check, words):
    assert words in failures("networks", NetOfOneLayer, only=check, name=f"subject[fault={fault}]")[check]


def test_right_network():
    assert failures("networks", NetOfOneLayer) == {}


@attrs.frozen
class Points(Dataset):
    """Points in the plane with a choice of faults."""

    fault: str = param("", "what is wrong")

    @property
    def shape(self):
        return (3,) if self.fault == "shape" else (2,)

    def load(self, split="train"):
        place = "" if self.fault == "splits" else split
        seed = int(torch.randint(2**31, ())) if self.fault == "chance" else key("points", place) % 2**31
        points = torch.randn(12, 2, generator=torch.Generator().manual_seed(seed))[: 12 if split == "train" else 8]
        return points.double() if self.fault == "dtype" else points

    def open(self, split="train"):
        return self.load(split).flip(0) if self.fault == "order" else self.load(split)

    def known(self, split="train"):
        rows = 12 if self.fault == "known" else len(self.load(split))
        labels = torch.arange(rows) % 2
        return {"labels": labels.float() if self.fault == "labels" else labels}


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        ("shape", "has_events_of_its_shape", "has shape (2,), but shape is (3,)"),
        ("dtype", "has_events_of_its_shape", "events are torch.float64, expected uint8 or float32"),
        ("order", "opens_what_it_loads", "event 0 of train is another one by open than by load"),
        ("chance", "repeats_itself", "load gives other events of train the second time"),
        ("splits", "keeps_its_splits_apart", "8 of the first 8 events of test are events of train"),
        ("known", "knows_a_row_an_event", "known has 12 labels of test, which has 8 events"),
        ("labels", "knows_a_row_an_event", "labels are torch.float32, expected torch.int64"),
    ],
)
def test_wrong_dataset(fault, check, words):
    assert words in failures("datasets", Points, only=check, name=f"subject[fault={fault}]")[check]


def test_right_dataset():
    assert failures("datasets", Points) == {}


@attrs.frozen
class Squared(Dequantizer):
    """u = v^2 of a uniform v, of density 1 / (2 sqrt(u)), with a choice of faults."""

    fault: str = param("", "what is wrong")

    def dequantize(self, images, noise):
        v = torch.special.ndtr(noise()).clamp(2.0**-20, 1 - 2.0**-16)
        u = 1.5 * v.square() if self.fault == "cell" else v.square()
        if self.fault == "couples":
            u = u * 0.5 + 0.5 * u.mean(0)
        log_q = -(2 * v).log().flatten(1).sum(1)
        if self.fault == "density":
            log_q = log_q + 0.1
        if self.fault == "other density":
            log_q = 0 * log_q
        return images.to(u) + u, log_q


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        ("cell", "stays_in_the_cell", "expected in [0, 1)"),
        ("density", "tells_its_density", "1 / q, averaged over u of density q"),
        ("other density", "tells_its_density", "u / q, averaged over u of density q"),
        ("couples", "treats_every_row_by_itself", "alone and among others differs"),
    ],
)
def test_wrong_dequantizer(fault, check, words):
    assert words in failures("dequantizers", Squared, only=check, name=f"subject[fault={fault}]")[check]


def test_right_dequantizer():
    assert failures("dequantizers", Squared) == {}


@attrs.frozen
class RefusingEvaluator(Evaluator):
    """Always has a reason."""

    def skip(self, evidence):
        return "the stars are wrong"

    def evaluate(self, evidence):
        raise AssertionError


@attrs.frozen
class NeedyPredictor(Flow):
    """Cannot be built by name alone."""

    table: str = param(help="path of a table")


@pytest.mark.parametrize(
    ("kind", "cls", "words"),
    [
        ("evaluators", RefusingEvaluator, "it refuses every target: the stars are wrong"),
        ("predictors", NeedyPredictor, "table is required: check 'subject[table=...]'"),
    ],
    ids=["refuses", "needs a parameter"],
)
def test_all_skipped_is_a_failure(kind, cls, words):
    found = failures(kind, cls)
    assert list(found) == ["something_was_checked"]
    assert words in found["something_was_checked"]


class Undecorated(Flow):
    def __init__(self, speed=1.0):
        self.speed = speed


@attrs.frozen
class Helpless(Flow):
    """Its parameter has no help."""

    speed: float = attrs.field(default=1.0)


@attrs.frozen
class OddDefault(Flow):
    """Its default is not of its type."""

    speed: int = param(1.5, "a whole number")


@pytest.mark.parametrize(
    ("cls", "check", "words"),
    [
        (Undecorated, "is_an_attrs_class", "decorate it with @attrs.frozen"),
        (Undecorated, "is_documented", "has no docstring"),
        (Helpless, "is_documented", "speed of Helpless has no help"),
        (OddDefault, "defaults_are_of_their_types", "speed must be int, got 1.5"),
        (Predictor, "loads_as_its_kind", "lacks step"),
    ],
    ids=["no attrs class", "no docstring", "no help", "odd default", "abstract"],
)
def test_wrong_component(cls, check, words):
    names_it("predictors", cls, check, words)
