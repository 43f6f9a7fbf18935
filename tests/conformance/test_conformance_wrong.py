"""The conformance suite finds wrong SDEs, steps, samplers and grids: a check names the fault."""

import math
import re

import attrs
import pytest
import torch
from attrs.validators import gt
from registries import failures, names_it, wrong
from scoresde_conformance.exact import ConstantRateSDE, PlainPredictor, PlainSampler, Watched
from scoresde_core import SDE, Corrector, Evaluator, Grid, MultistepPredictor, Predictor, ScoreModel, param


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
    """Wrong only on the published grid, where many steps are evenly spaced."""

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
        return attrs.evolve(chain, std=1.02 * chain.std)


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


@wrong(
    (HalfDiffusionSDE, "sigma_fits_the_diffusion", "diffusion disagrees with sigma: at t = 1 sigma is 0.99"),
    (OtherDriftSDE, "alpha_fits_the_drift", "drift_rate disagrees with alpha"),
    (RememberingSDE, "forgets_the_data", "expected at most 0.005"),
    (LossySDE, "is_accurate_in_float32", "in float32"),
    (OtherPriorSDE, "prior_is_the_marginal", "the prior's std is 1.1, but at t_max sigma is 0.99"),
    (WidePriorSDE, "prior_is_the_marginal", "the prior's std is 1.005"),
    (ShiftedPriorSDE, "prior_is_the_marginal", "the prior N(0.3, 1^2) is 0.045 nats per dimension from x_1"),
    (OffTimeSDE, "time_at_inverts_the_noise", "time_at disagrees with alpha and sigma"),
    (StubbornTimeSDE, "time_at_inverts_the_noise", ", t_min=0.0001 it is 0.001"),
    (OffRatioSDE, "log_noise_ratio_is_of_alpha_and_sigma", "log_noise_ratio disagrees with alpha and sigma"),
    (OffTableSDE, "chain_tends_to_the_sde", "the backward_std of transition disagrees with diffusion"),
    (OffChainSDE, "chain_tends_to_the_sde", "the std of discretize disagrees with diffusion"),
    (OffDriftChainSDE, "chain_tends_to_the_sde", "the drift of discretize disagrees with drift_rate"),
    (OffLevelsSDE, "discrete_levels_tend_to_the_sde", "discrete_level disagrees with alpha"),
    (LossyTransitionSDE, "transition_composes", "of the transition is"),
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
    """First order, but declares second."""

    order = 2.0


@attrs.frozen
class BiasedPredictor(Flow):
    """Converges to another distribution."""

    def step(self, x, step, model, noise):
        x, _ = Flow.step(self, x, step, model, noise)
        return x * (1 + 0.05 * step.dt), x


@attrs.frozen
class UncountedPredictor(Flow):
    """Bypasses the counter."""

    def step(self, x, step, model, noise):
        extra = model.evaluate(x, step.now)
        return Flow.step(self, x + 0 * extra, step, model, noise)


@attrs.frozen
class SecretlyStochasticPredictor(Flow):
    """Draws noise, but declares that it does not."""

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
    """A sample depends on its batch."""

    def step(self, x, step, model, noise):
        x, _ = Flow.step(self, x, step, model, noise)
        return x + 1e-2 * step.dt * x.mean(), x


@attrs.frozen
class FloatsOnlyPredictor(Flow):
    """Assumes that the numbers of a step are Python floats."""

    def step(self, x, step, model, noise):
        return Flow.step(self, x * math.exp(0 * step.dt), step, model, noise)


@attrs.frozen
class NoisyMeanPredictor(PlainPredictor):
    """Returns the noisy state as its mean."""

    def step(self, x, step, model, noise):
        x, _ = PlainPredictor.step(self, x, step, model, noise)
        return x, x


@attrs.frozen
class OneOptionPredictor(Flow):
    """Right by default, and wrong with one of its options."""

    variants = ({"speed": 2.0},)
    speed: float = param(1.0, "1, or wrong")

    def step(self, x, step, model, noise):
        x, _ = Flow.step(self, x, step, model, noise)
        return (x, x) if self.speed == 1 else (x * (1 + 0.05 * step.dt), x)


@attrs.frozen
class FirstStepPredictor(MultistepPredictor):
    """Accepts one time per row in its first step only."""

    stochastic = False

    def advance(self, x, step, model, noise, past):
        rise = step.next.sigma / step.next.alpha - step.now.sigma / step.now.alpha
        eps = model.noise(x, step.now)
        weight, past = 0.0 * math.exp(step.dt) if past else 0.0, (*past, eps)
        x = (x / step.now.alpha + rise * ((1 + weight) * eps - weight * past[0])) * step.next.alpha
        return x, x, past


@wrong(
    (BoastingPredictor, "converges_in_its_order", "order is 2, but step converges in order 0.99"),
    (BiasedPredictor, "converges_in_its_order", "converges in order"),
    (OneOptionPredictor, "converges_in_its_order", "predictor subject[speed=2.0] under the suite's own sde: order"),
    (UncountedPredictor, "counts_are_stable", "but 12 were counted"),
    (SecretlyStochasticPredictor, "is_as_stochastic_as_it_says", "stochastic is False, but 12 steps draw noise"),
    (NoisyMeanPredictor, "has_a_mean_without_noise", "with the sign of noise drawn after the last evaluation"),
    (StatefulPredictor, "forgets_between_runs", "another result the second time"),
    (InPlacePredictor, "keeps_shape_and_dtype", "changed x in place"),
    (CoupledPredictor, "steps_split_alike", "in batches of 5 differ from the same samples drawn at once by"),
    (FloatsOnlyPredictor, "takes_a_time_per_row", "only one element tensors"),
    (FirstStepPredictor, "takes_a_time_per_row", "only one element tensors"),
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
    """Its noise is too small by a tenth."""

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
    """Returns the noisy state as its mean."""

    size: float = param(0.05, "step size", gt(0))

    def correct(self, x, step, model, noise):
        x, _ = Langevin.correct(self, x, step, model, noise)
        return x, x


@attrs.frozen
class CoupledCorrector(Langevin):
    """Takes its step size from the norms of each sample and of its own noise, which changes the law by 1/D."""

    size: float = param(0.05, "squared signal-to-noise ratio", gt(0))

    def correct(self, x, step, model, noise):
        score, z = model.score(x, step.now), noise()
        size = 2 * self.size * (z.norm(dim=1) / score.norm(dim=1)).square()[:, None]
        mean = x + size * score
        return mean + (2 * size).sqrt() * z, mean


@wrong(
    (CoupledCorrector, "leaves_the_marginal", "the variance changes by"),
    (QuietCorrector, "leaves_the_marginal", "the variance changes by -0.1"),
    (DriftingCorrector, "leaves_the_marginal", "the mean changes by"),
    (WrongShrinkCorrector, "shrinks_its_steps", "falls by 16"),
    (UnshrinkableCorrector, "leaves_the_marginal", "but correct moves x"),
    (NoisyMeanCorrector, "has_a_mean_without_noise", "with the sign of noise drawn after the last evaluation"),
)
def test_wrong_corrector(cls, check, words):
    names_it("correctors", cls, check, words)


def test_right_corrector():
    assert failures("correctors", RightCorrector, level="full") == {}


@attrs.frozen
class CarelessSampler(PlainSampler):
    """Draws from torch's global generator, stops early, and bypasses the counter."""

    def run(self, x, model, noise, observe=None):
        model.evaluate(x, model.sde.level(torch.ones((), dtype=torch.float64)))
        return PlainSampler.run(self, x, model, noise, None) + 0.3 + 1e-3 * torch.randn_like(x)


class Loop(PlainSampler):
    """The suite's own loop with a place for a fault: which noise a part hears, and which step."""

    def run(self, x, model, noise, observe=None):
        sde = model.sde
        from scoresde_core import Schedule

        times = torch.cat([torch.linspace(1, sde.t_min, self.steps, dtype=torch.float64), torch.zeros(1).double()])
        steps, past = Schedule(sde, times).steps, ()
        for k, step in enumerate(steps):
            x, _ = self.corrector.correct(x, self.level(steps, k), model, self.heard(noise, k, "corrector"))
            if k or not self.late:
                x, mean, past = self.predictor.advance(x, step, model, self.heard(noise, k, "predictor"), past)
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
    """Predictor and corrector use the same noise."""

    def heard(self, noise, k, purpose):
        return noise.at(k, "step")


@attrs.frozen
class LateSampler(Loop):
    """Omits the first step of the predictor."""

    late = True


@attrs.frozen
class ForgetfulSampler(PlainSampler):
    """Takes every step of a predictor as if it were the first."""

    def run(self, x, model, noise, observe=None):
        predictor = self.predictor

        class First(Predictor):
            def step(self, x, step, model, noise):
                return predictor.advance(x, step, model, noise, ())[:2]

        return PlainSampler.run(attrs.evolve(self, predictor=First()), x, model, noise, observe)


@attrs.frozen
class WrongLevelSampler(Loop):
    """Corrects at the level where the next step arrives, before it was made."""

    def level(self, steps, k):
        return steps[min(k + 1, len(steps) - 1)]


@attrs.frozen
class ShrinkingSampler(PlainSampler):
    """The variance of its samples is too small by 4 %, without noise."""

    predictor: Predictor = param(attrs.Factory(RightPredictor), "reverse-time step")

    def run(self, x, model, noise, observe=None):
        return 0.5 + (PlainSampler.run(self, x, model, noise, observe) - 0.5) * 0.98


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


@wrong(
    (SharedNoiseSampler, "draws_no_number_twice", "(0, 'step', 0) is drawn more than once"),
    (LateSampler, "steps_meet_the_state", "but the state is at t = 1"),
    (ForgetfulSampler, "passes_on_the_past", "step 1 of a multistep predictor gets no past"),
    (WrongLevelSampler, "steps_meet_the_state", "the corrector gets a step from t ="),
    (ShrinkingSampler, "finds_the_moments", "the variance of samples is 0.2"),
)
def test_wrong_sampler(cls, check, words):
    names_it("samplers", cls, check, words)


def test_right_sampler():
    assert failures("samplers", PlainSampler, level="full") == {}


@attrs.frozen
class ShortGrid(Grid):
    """Omits clean data, and increases."""

    def times(self, sde, steps):
        return torch.linspace(sde.t_min, 1, steps + 1)


def test_wrong_grid():
    found = failures("grids", ShortGrid)
    assert set(found) == {"runs_from_one_to_zero", "decreases", "is_float64_on_the_cpu", "refuses_no_steps"}


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


@wrong(
    (Undecorated, "is_an_attrs_class", "decorate it with @attrs.frozen"),
    (Undecorated, "is_documented", "has no docstring"),
    (Helpless, "is_documented", "speed of Helpless has no help"),
    (OddDefault, "defaults_are_of_their_types", "speed must be int, got 1.5"),
    (Predictor, "loads_as_its_kind", "lacks step"),
)
def test_wrong_component(cls, check, words):
    names_it("predictors", cls, check, words)
