"""The conformance suite finds wrong targets, evaluators, networks and data: a check names the fault."""

import math

import attrs
import pytest
import torch
from registries import failures, names_it, wrong
from torch import nn
from scoresde import DATA, Dequantizer, Evaluator, Extraction, Features, Metric, param
from scoresde_conformance.exact import Mixture
from scoresde_core.estimate import Estimate
from scoresde_core.noise import key
from scoresde_core.score import WrappedScore
from scoresde_plugins.evaluators import draws, features, pooled, samples
from scoresde_plugins.evaluators.comparison import Comparison
from scoresde_plugins.extractors.identity import Identity
from scoresde_run.data.dataset import Dataset
from scoresde_run.data.evidence import Evidence
from scoresde_run.models.network import Network
from scoresde_run.sampling.condition import Condition, Observation


@attrs.frozen
class RightTarget(Mixture):
    """The suite's own mixture, with help."""

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
    """The variance that it reports is off by a percent, which 2000 samples do not show."""

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


@wrong(
    (SteepTarget, "score_is_the_gradient", "is off the gradient of log_prob by 0.001"),
    (
        OffCovarianceTarget,
        "moments_are_those_of_the_score",
        "the covariance of moments is off that of score under much noise by 0.0",
    ),
    (GuessingTarget, "components_are_told_from_noisy_events", "log_responsibilities of component 0 at sigma ="),
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


@attrs.frozen
class RightScaled(Identity):
    """Features times a number, which its protocol includes."""

    scale: float = param(2.0, "factor")
    shifted: bool = param(False, "add 1")
    copies: int = param(1, "changes nothing")

    def load(self, device):
        return lambda x: Features(self.scale * x.float().flatten(1) + self.shifted)

    def protocol(self):
        return {**super().protocol(), "scale": self.scale, "shifted": self.shifted}


@attrs.frozen
class SilentScaled(RightScaled):
    """Its protocol omits the number."""

    def protocol(self):
        return {**Identity().protocol(), "shifted": self.shifted}


@attrs.frozen
class SilentSwitch(RightScaled):
    """Its protocol omits the switch."""

    def protocol(self):
        return {**Identity().protocol(), "scale": self.scale}


@wrong(
    (SilentScaled, "protocol_tells_parameters", "subject[scale=5.0] gives other features than subject"),
    (SilentSwitch, "protocol_tells_parameters", "subject[shifted=true] gives other features than subject"),
)
def test_wrong_extractor(cls, check, words):
    names_it("extractors", cls, check, words)


def test_right_extractor():
    assert failures("extractors", RightScaled) == {}


class OffGap(Comparison):
    """The mean of -log p minus the entropy, in nats: the base of wrong ones."""

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


class Shift(Evaluator):
    """The mean feature minus that of the truth: the base of wrong ones."""

    better = "zero"

    def reads(self, evidence):
        return [(Extraction(Identity()), events) for events in (samples(evidence), draws(evidence.reference, 0))]

    def evaluate(self, evidence):
        x, y = (pooled(features(*pair, evidence)).mean(1) for pair in self.reads(evidence))
        return [self.metric("shift", Estimate(float(x.mean() - y.mean()), float((x.var() + y.var()) / len(x)) ** 0.5))]


@attrs.frozen
class RightShift(Shift):
    """As it should be."""


@attrs.frozen
class LookingShift(Shift):
    """Its ``reads`` depends on blank samples."""

    def reads(self, evidence):
        return super().reads(evidence) if float(evidence.samples.std()) else []


@attrs.frozen
class SampleShift(Shift):
    """Its ``depends_on`` depends on blank samples."""

    def depends_on(self, evidence):
        return {"first": float(evidence.samples.flatten()[0])}


@attrs.frozen
class BatchShift(Shift):
    """It uses the first batch only."""

    def evaluate(self, evidence):
        x, y = (next(iter(features(*pair, evidence))).pooled.mean(1) for pair in self.reads(evidence))
        return [self.metric("shift", Estimate(float(x.mean() - y.mean()), float((x.var() + y.var()) / len(x)) ** 0.5))]


@attrs.frozen
class IdleShift(Shift):
    """It reads less than it declares."""

    def reads(self, evidence):
        return [*super().reads(evidence), (Extraction(Identity()), draws(evidence.reference, 1))]

    def evaluate(self, evidence):
        return RightShift().evaluate(evidence)


@wrong(
    (LookingShift, "tells_what_it_reads", "reads depends on the samples"),
    (SampleShift, "tells_what_it_reads", "depends_on depends on the samples"),
    (BatchShift, "tells_what_it_reads", "with its features in three batches"),
    (IdleShift, "tells_what_it_reads", "evaluate does not read the features of ('draws'"),
    (SureGap, "errors_are_the_scatter", "16 values of gap scatter by"),
    (UnsureGap, "errors_are_the_scatter", "16 values of gap scatter by"),
    (OffsetGap, "zero_is_the_truth", "gap of the truth is 1"),
    (SquaredDistance, "values_have_their_unit", "with target and samples scaled by 3, expected"),
)
def test_wrong_evaluator(cls, check, words):
    names_it("evaluators", cls, check, words)


def test_careless_evaluator():
    found = failures("evaluators", FlatEvaluator)
    assert {"worse_evidence_scores_worse", "repeats_with_the_seed", "survives_nan"} <= set(found)


@pytest.mark.parametrize("cls", [RightGap, RightShift])
def test_right_evaluator(cls):
    assert failures("evaluators", cls, level="full", only=None if cls is RightGap else "tells_what_it_reads") == {}


class Guided(WrappedScore):
    """A score plus ``scale`` times the gradient of the log responsibility of ``labels``."""

    def __init__(self, model, target, labels, scale):
        super().__init__(model)
        self.target, self.labels, self.scale = target, labels, scale

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
    """A layer that receives the label: the base of wrong ones."""

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
        ("couples", "treats_every_row_by_itself", "alone and in a batch differs"),
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

    @property
    def levels(self):
        return 256 if self.fault == "levels" else None

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
        ("dtype", "has_events_of_its_shape", "events are torch.float64, expected uint8, int32 or float32"),
        ("levels", "tells_its_levels", "levels is 256, but events of train are torch.float32"),
        ("order", "opens_what_it_loads", "event 0 of train differs between open and load"),
        ("chance", "repeats_itself", "load gives other events of train the second time"),
        ("splits", "keeps_its_splits_apart", "8 of the first 8 events of test are also in train"),
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
        ("couples", "treats_every_row_by_itself", "alone and in a batch differs"),
    ],
)
def test_wrong_dequantizer(fault, check, words):
    assert words in failures("dequantizers", Squared, only=check, name=f"subject[fault={fault}]")[check]


def test_right_dequantizer():
    assert failures("dequantizers", Squared) == {}
