"""Samplers: correct samples, the same for the same seed and for any split into batches."""

import math
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import attrs
import torch
from torch import Tensor
from scoresde_core import SDE, Draw, Noise, Sampler, Scalar, ScoreModel, Spec, Step, UsageError, parameters, sample
from scoresde_core.steps import Corrector, MultistepPredictor, Past, Predictor
from .candidate import Candidate, Skip
from .counterparts import FEW, samples_of, served, splits_alike
from .exact import ConstantRateSDE, Mixture, PlainCorrector, PlainPredictor, Watched, gaussian
from .expect import is_like, near, some

KINDS_OF_EVENTS = (((2,), torch.float32), ((1, 4, 4), torch.float64), ((3, 4, 6), torch.float32))
MANY = 400  # steps after which moments are right within the error of 2000 events of two dimensions
BIAS = 0.01  # allowed bias of samples without a statistical error, in standard deviations, or relative to the variance


def short(candidate: Candidate, **parts: Any) -> Sampler:
    """Return the sampler with few steps, or with its class's ``coarse`` parameters, unless the caller gave them."""
    names = {p.name for p in parameters(candidate.cls)}
    coarse = {"steps": FEW} if "steps" in names else getattr(candidate.cls, "coarse", {})
    given = {name: value for name, value in coarse.items() if name not in candidate.params}
    return candidate.build(**given, **parts)  # type: ignore[no-any-return]


def _served(candidate: Candidate) -> Iterator[SDE]:
    reason = candidate.component.skip(ConstantRateSDE()) or "it serves no process of the suite"
    return some(islice(served(candidate), None if candidate.full else 1), reason)


def is_split_invariant(candidate: Candidate) -> None:
    """Seeded samples do not depend on the split into batches."""
    for sde in _served(candidate):
        splits_alike(short(candidate), sde)


def follows_the_seed(candidate: Candidate) -> None:
    """The same seed gives the same samples, another seed others."""
    for sde in _served(candidate):
        sampler = short(candidate)
        first, again, other = (samples_of(sampler, sde, (3,), 8, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(first, again), "two runs with seed 1 differ"
        assert not torch.allclose(first, other), "seeds 1 and 2 give the same samples"


def keeps_shape_and_dtype(candidate: Candidate) -> None:
    """It returns n finite samples of the event's shape, in the requested dtype."""
    for sde in _served(candidate):
        for shape, dtype in KINDS_OF_EVENTS:
            x = samples_of(short(candidate), sde, shape, 3, dtype=dtype)
            is_like("the tensor of samples", x, (3, *shape), dtype)


def starts_from_the_latent(candidate: Candidate) -> None:
    """It starts at the given latent, which determines the samples and is not modified."""
    for sde in _served(candidate):
        latent = sde.prior.from_noise(torch.randn(4, 3))
        kept = latent.clone()
        first, second = (samples_of(short(candidate), sde, (3,), 4, latent=z) for z in (latent, latent + sde.prior.std))
        assert torch.equal(latent, kept), "the latent was changed in place"
        assert not torch.allclose(first, second), "two latents give the same samples"


def counts_evaluations(candidate: Candidate) -> None:
    """The reported NFE is the average number of evaluations per sample: all go through the model's counter."""
    for sde in _served(candidate):
        model = Watched(Mixture(event=(3,)), sde)
        found, expected = sample(model, short(candidate), 4).nfe, model.evaluated / 4
        assert found == expected > 0, f"the NFE is {found}, but the model was run {expected:g} times on a sample"


def tells_of_its_steps(candidate: Candidate) -> None:
    """An observer is called at least once, and the step count does not decrease."""
    model, heard = Watched(gaussian(event=(3,)), next(_served(candidate))), list[int]()
    sample(model, short(candidate), 4, observe=lambda done, total, x: heard.append(done))
    assert heard, "observe was never called"
    assert heard == sorted(heard), f"observe was called for steps {heard}, expected numbers that do not decrease"


class _Recorded(Noise):
    keys: list[tuple[int | str, str, int]]

    def draw(self, step: int | str, purpose: str, draw: int = 0) -> Tensor:
        self.keys.append((step, purpose, draw))
        return super().draw(step, purpose, draw)


def draws_no_number_twice(candidate: Candidate) -> None:
    """No key of the noise is drawn twice in a run with a stochastic predictor and corrector."""
    for sampler, sde, _ in _with_steps(candidate):
        noise = _Recorded(0, (3,), 4)
        noise.keys = []
        sampler.run(sde.prior.from_noise(torch.randn(4, 3)), Watched(gaussian(event=(3,)), sde), noise)
        again = [key for key, times in Counter(noise.keys).items() if times > 1]
        assert not again, f"the noise (step, purpose, draw) = {again[0]} is drawn more than once"


def steps_meet_the_state(candidate: Candidate) -> None:
    """Its predictor goes from t = 1 to 0 without a gap; its corrector acts at the level of the state."""
    if "predictor" not in _places(candidate):
        raise Skip("it has no place for a predictor")
    for sampler, sde, heard in _with_steps(candidate):
        sample(Watched(gaussian(event=(3,)), sde), sampler, 4)
        level: Scalar = 1.0
        for part, step in heard:
            now = step.now.t
            meets = bool(torch.as_tensor(now == level).all())
            assert meets, f"the {part} gets a step from t = {now}, but the state is at t = {level}"
            level = step.next.t if part == "predictor" else level
        assert level == 0, f"the last step of the predictor leads to t = {level:.4g}, expected 0"


def passes_on_the_past(candidate: Candidate) -> None:
    """A multistep predictor gets at each step the past that it returned at the step before."""
    if "predictor" not in _places(candidate):
        raise Skip("it has no place for a predictor")
    for sde in _served(candidate):
        sampler = short(candidate, predictor=_Remembering())
        if reason := sampler.skip(sde):
            raise Skip(reason)
        sample(Watched(gaussian(event=(3,)), sde), sampler, 4)


def _places(candidate: Candidate) -> set[str]:
    """Return which of predictor and corrector are parameters that the caller did not give."""
    names = {p.name for p in parameters(candidate.cls)} - set(candidate.params)
    return names & {"predictor", "corrector"}


def _with_steps(candidate: Candidate) -> Iterator[tuple[Sampler, SDE, list[tuple[str, Step]]]]:
    """Yield it and its variants with the suite's predictor and corrector as parts, and the steps that these receive."""
    places = _places(candidate)
    for change in ({}, *(candidate.changes() if places else ())):
        heard: list[tuple[str, Step]] = []
        parts: dict[str, Any] = {"predictor": _RecordedPredictor(heard), "corrector": _RecordedCorrector(heard)}
        try:
            sampler = short(candidate, **{name: parts[name] for name in places}, **change)
        except UsageError:  # the other parameters exclude this value
            continue
        sde = next(_served(candidate))
        candidate.trying = str(Spec(candidate.name, dict(change)))
        yield sampler, sde, heard
    candidate.trying = ""


@attrs.frozen(eq=False)
class _RecordedPredictor(Predictor):
    heard: list[tuple[str, Step]]

    def step(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        self.heard.append(("predictor", step))
        return PlainPredictor().step(x, step, model, noise)


@attrs.frozen(eq=False)
class _Remembering(MultistepPredictor):
    """The suite's own predictor, whose past is the time that each row of the state has reached."""

    def advance(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw, past: Past) -> tuple[Tensor, Tensor, Past]:
        starts = step.index == (step.sde.t_signal < step.sde.t_max)  # the step from noise alone is not a predictor's
        assert past or starts, f"step {step.index} of a multistep predictor gets no past"
        reached = past[0].tolist() if past else [step.now.t] * len(x)
        assert reached == [step.now.t] * len(x), f"at t = {step.now.t:.4g} the past is that of t = {reached}"
        state, mean = PlainPredictor().step(x, step, model, noise)
        return state, mean, (torch.full((len(x),), float(step.next.t), dtype=torch.float64),)


@attrs.frozen(eq=False)
class _RecordedCorrector(Corrector):
    heard: list[tuple[str, Step]]

    def correct(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        self.heard.append(("corrector", step))
        return PlainCorrector().correct(x, step, model, noise)


def finds_the_moments(candidate: Candidate) -> None:
    """From the exact marginal at t = 1, samples of a Gaussian have its mean and variance, within 4 standard errors.

    The latents are a rank-one lattice of quantiles of the marginal: without noise a sampler may be off by 1 %, and by
    sigma at t_min.
    """
    mean, std, n = 0.5, 0.5, 2000 if candidate.full else 500
    data, k = gaussian(mean, std, (2,)), torch.arange(n, dtype=torch.float64)
    even = torch.special.ndtri(torch.stack([(k + 0.5) / n, ((k * (math.sqrt(5) - 1) / 2) % 1 + 0.5 / n) % 1], 1))
    for sde in _served(candidate):
        takes_steps = "steps" in {p.name for p in parameters(candidate.cls)} - set(candidate.params)
        sampler: Sampler = candidate.build(**({"steps": MANY} if takes_steps else {}))
        centre, variance = data.coordinate(sde.float_level(sde.t_max))
        latent = centre + math.sqrt(variance) * even
        x = sample(Watched(data, sde), sampler, n, seed=5, latent=latent).x.double()
        first, second = (samples_of(short(candidate), sde, (2,), 4, seed=seed, latent=latent[:4]) for seed in (1, 2))
        noisy = not torch.equal(first, second)
        left = float(sde.sigma(torch.tensor(sde.t_min, dtype=torch.float64))) ** 2
        for name, found, expected, spread in (
            ("mean", x.mean(), mean, std),
            ("variance", (x - mean).square().mean(), std**2, std**2 * math.sqrt(2)),
        ):
            allowed = left + (4 * spread / math.sqrt(x.numel()) if noisy else BIAS * spread)
            near(f"the {name} of samples", found, expected, allowed)
