"""Every bundled component passes the kit that third parties run; and the kit tells wrong components from right ones."""

import json
import math
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch
from attrs.validators import gt

from scoresde_core import (
    DATA,
    SDE,
    Corrector,
    Evaluator,
    Grid,
    Level,
    Metric,
    Predictor,
    Sampler,
    ScoreModel,
    param,
)
from scoresde_core.cli import main
from scoresde_core.conformance.exact import ConstantRateSDE, Mixture, Watched, times_between
from scoresde_core.conformance.suite import SUITES, cases, checks, run, subjects
from scoresde_core.evaluator import Evidence
from scoresde_core.kinds import KINDS
from scoresde_core.manifest import Row
from scoresde_core.plugins import Status
from scoresde_core.registry import Registry, load_registry

BUNDLED = load_registry(disabled=())
CASES = cases(subjects(BUNDLED, dist="scoresde"))


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_bundled_component(case):
    result = case.run()
    if result.state == "skipped":
        pytest.skip(result.reason)
    if result.error is not None:
        raise result.error


def registry_of(*rows):
    """A registry of one plugin called ``wrong`` with rows (kind, name, class)."""
    staged = [Row(kind, name, cls, "under test") for kind, name, cls in rows]
    return Registry([Status("wrong", "1.0", "ok", rows=staged)], hook=None)


def failures(kind, cls, *more):
    """What the kit finds wrong with a class: check -> reason."""
    results = run(registry_of((kind, "subject", cls), *more), kind, "subject")
    return {result.check: result.reason for result in results if result.state == "failed"}


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


@pytest.mark.parametrize(
    ("cls", "check", "words"),
    [
        (HalfDiffusionSDE, "sigma_fits_the_diffusion", "but diffusion integrates to"),
        (RememberingSDE, "forgets_the_data", "expected at most 0.005"),
        (LossySDE, "is_accurate_in_float32", "in float32"),
        (OtherPriorSDE, "prior_is_the_marginal", "the prior's std is 1.1"),
        (OtherDriftSDE, "alpha_fits_the_drift", "but drift_rate integrates to"),
        (OffTimeSDE, "time_at_inverts_the_noise", "time_at is"),
        (OffRatioSDE, "time_at_inverts_the_noise", "is off log(sigma / alpha) by"),
        (OffTableSDE, "chain_tends_to_the_sde", "backward_std of transition is off by"),
        (LossyTransitionSDE, "transition_composes", "of the transition is"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_wrong_sde(cls, check, words):
    assert words in failures("sdes", cls)[check]


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
    assert failures("sdes", ConstantRateSDE) == {}


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
class PlainSampler(Sampler):
    """A loop with a place for a predictor and a corrector."""

    predictor: Predictor = param(attrs.Factory(RightPredictor), "reverse-time step")
    corrector: Corrector | None = param(None, "MCMC at each level")
    steps: int = param(100, "number of steps")

    def run(self, x, model, sde, noise, observe=None):
        from scoresde_core import Schedule

        times = torch.cat([torch.linspace(1, sde.t_min, self.steps, dtype=torch.float64), torch.zeros(1).double()])
        for k, step in enumerate(Schedule(sde, times).steps):
            if self.corrector is not None:
                x, _ = self.corrector.correct(x, step, model, noise.at(k, "corrector"))
            x, _ = self.predictor.step(x, step, model, noise.at(k, "predictor"))
            if observe is not None:
                observe(k + 1, self.steps, x)
        return x


@pytest.mark.parametrize(
    ("cls", "check", "words"),
    [
        (BoastingPredictor, "converges_in_its_order", "declared 2"),
        (BiasedPredictor, "converges_in_its_order", "converges in order"),
        (UncountedPredictor, "counts_are_stable", "but 12 were counted"),
        (SecretlyStochasticPredictor, "is_as_stochastic_as_it_says", "declares stochastic = False"),
        (StatefulPredictor, "forgets_between_runs", "another result the second time"),
        (InPlacePredictor, "keeps_shape_and_dtype", "changed x in place"),
        (CoupledPredictor, "steps_split_alike", "in batches of 5 differ by"),
        (FloatsOnlyPredictor, "takes_a_time_per_row", "only one element tensors"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_wrong_predictor(cls, check, words):
    found = failures("predictors", cls, ("samplers", "plain", PlainSampler))
    assert words.lower() in found[check].lower()


def test_right_predictor():
    assert failures("predictors", RightPredictor, ("samplers", "plain", PlainSampler)) == {}


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


@pytest.mark.parametrize(
    ("cls", "check", "words"),
    [
        (QuietCorrector, "leaves_the_marginal", "the variance changes by -0.1"),
        (DriftingCorrector, "leaves_the_marginal", "the mean changes by"),
        (WrongShrinkCorrector, "shrinks_its_steps", "falls by 16"),
        (UnshrinkableCorrector, "leaves_the_marginal", "but it moves the state"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_wrong_corrector(cls, check, words):
    assert words in failures("correctors", cls, ("samplers", "plain", PlainSampler))[check]


def test_right_corrector():
    assert failures("correctors", RightCorrector, ("samplers", "plain", PlainSampler)) == {}


@attrs.frozen
class CarelessSampler(PlainSampler):
    """Draws from torch's global generator, stops early, and asks the model behind the counter's back."""

    def run(self, x, model, sde, noise, observe=None):
        model.evaluate(x, sde.level(torch.ones((), dtype=torch.float64)))
        return PlainSampler.run(self, x, model, sde, noise, None) + 0.3 + 1e-3 * torch.randn_like(x)


def test_wrong_sampler():
    found = failures("samplers", CarelessSampler)
    assert {
        "is_split_invariant",
        "follows_the_seed",
        "counts_evaluations",
        "tells_of_its_steps",
        "finds_the_moments",
    } <= set(found)
    assert "standard errors away" in found["finds_the_moments"]


def test_right_sampler():
    assert failures("samplers", PlainSampler) == {}


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


def test_target_with_wrong_samples():
    found = failures("targets", LyingTarget)
    assert {"score_fits_the_samples", "moments_are_those_of_samples", "density_is_normalised"} <= set(found)
    assert "score_is_the_gradient" not in found


def test_target_with_a_wrong_score():
    assert "is off the gradient of log_prob by 0.001" in failures("targets", SteepTarget)["score_is_the_gradient"]


@attrs.frozen
class GuessingTarget(RightTarget):
    """Classifies clean points only."""

    def log_responsibilities(self, x, level=DATA):
        clean = self.responsibilities(x).log()
        return clean if level.sigma == 0 else torch.full_like(clean, math.log(0.5))


def test_target_with_wrong_noisy_responsibilities():
    assert "of the samples with noise, weight" in failures("targets", GuessingTarget)["components_share_the_samples"]


@pytest.mark.parametrize("shape", ["[2]", "[2,3,3]"])
def test_right_target(shape):
    results = run(registry_of(("targets", "subject", RightTarget)), "targets", f"subject[event={shape}]")
    assert [result.reason for result in results if result.state == "failed"] == []


@attrs.frozen
class FlatEvaluator(Evaluator):
    """Measures nothing, with a new value every time."""

    def evaluate(self, evidence: Evidence) -> list[Metric]:
        return [Metric("flat", float(torch.rand(())), 0.1)]


def test_wrong_evaluator():
    found = failures("evaluators", FlatEvaluator)
    assert {"a_shift_makes_it_worse", "repeats_with_the_seed", "survives_nan"} <= set(found)


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


def test_required_parameters_come_from_the_name_or_an_example():
    registry = registry_of(("predictors", "subject", NeedyPredictor), ("samplers", "plain", PlainSampler))
    assert {result.state for result in run(registry, "predictors", "subject[table=a.txt]")} == {"passed"}
    with_example = type("WithExample", (NeedyPredictor,), {"example": {"table": "a.txt"}, "__doc__": "Has one."})
    assert not set(failures("predictors", attrs.frozen(with_example))) - {"is_an_attrs_class"}


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
    assert words in failures("predictors", cls)[check]


def test_a_missing_requirement_is_a_skip_of_the_whole_component():
    row = Row("predictors", "subject", "no_such_module:Thing", "under test", requires=("no-such-distribution",))
    results = run(Registry([Status("wrong", "1.0", "ok", rows=[row])], None), "predictors", "subject")
    assert {result.state for result in results} == {"skipped"}
    assert {result.reason for result in results} == {"needs no-such-distribution, which is not installed"}


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_check_says_what_it_checks(kind):
    found = checks(kind)
    assert len({check.__name__ for check in found}) == len(found)
    assert all((check.__doc__ or "").strip().endswith(".") for check in found)
    assert kind in SUITES or kind in {
        "networks",
        "losses",
        "datasets",
        "conditions",
        "dequantizers",
        "commands",
        "presets",
        "executors",
        "suites",
    }


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_check_is_in_the_docs_in_its_own_words(kind):
    docs = (Path(__file__).parents[1] / "docs" / "conformance.md").read_text()
    for check in checks(kind):
        assert f"| `{check.__name__}` | {check.__doc__.strip().splitlines()[0]} |" in docs


def test_a_check_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run(registry_of(("grids", "subject", ShortGrid)), "grids", "subject")
    run(registry_of(("sdes", "subject", ConstantRateSDE)), "sdes", "subject")
    assert torch.equal(torch.rand(2), expected)


class TestExact:
    """The kit's own truth, against torch.distributions."""

    LEVEL = Level(0.4, 0.8, 0.6)

    @pytest.fixture
    def data(self):
        return Mixture(event=(3,))

    def test_density(self, data):
        x = torch.randn(5, 3, dtype=torch.float64)
        width = math.sqrt(0.8**2 * 0.3**2 + 0.6**2)
        parts = torch.distributions.Independent(
            torch.distributions.Normal(0.8 * torch.tensor([[-1.0] * 3, [1.0] * 3], dtype=torch.float64), width), 1
        )
        weights = torch.distributions.Categorical(torch.tensor([0.3, 0.7], dtype=torch.float64))
        exact = torch.distributions.MixtureSameFamily(weights, parts)
        assert torch.allclose(data.log_prob(x, self.LEVEL), exact.log_prob(x), rtol=1e-6)

    @pytest.mark.parametrize("rate", [8.0, 12.0])
    def test_times_are_even_in_the_logarithm_of_the_ratio(self, rate):
        sde = ConstantRateSDE(rate)
        times = times_between(sde, 10)
        ratios = (sde.sigma(times) / sde.alpha(times)).log()
        assert times[0] == 1
        assert torch.allclose(ratios.diff(), ratios.diff().mean().expand(10))
        assert math.isclose(ratios[-1].exp(), 0.5, rel_tol=1e-9)


class TestCommand:
    """``scoresde check``."""

    def test_one_component(self, capsys):
        assert main(["check", "grids", "karras[rho=5]"]) == 0
        out = capsys.readouterr().out.splitlines()
        assert out[0].startswith("passed   grids karras[rho=5]: 10 passed in ")
        assert out[1] == "1 component, 10 checks: 10 passed"

    def test_verbose_has_a_line_a_check(self, capsys):
        assert main(["check", "grids", "uniform", "-v"]) == 0
        assert "grids uniform decreases" in capsys.readouterr().out

    def test_json(self, capsys):
        assert main(["check", "grid", "uniform", "--json"]) == 0
        records = json.loads(capsys.readouterr().out)
        assert {record["state"] for record in records["checks"]} == {"passed"}
        assert {"kind", "name", "plugin", "check", "state", "reason", "seconds"} == set(records["checks"][0])

    def test_a_failure_is_exit_code_1_with_its_reason(self, tmp_path, capsys, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "local_broken_grid.py").write_text(
            "import attrs, torch\n"
            "from scoresde_core import Grid\n\n"
            "@attrs.frozen\nclass Broken(Grid):\n"
            "    'Never ends.'\n"
            "    def times(self, sde, steps):\n"
            "        return torch.linspace(1, 0.5, steps + 1, dtype=torch.float64)\n"
        )
        rows = tmp_path / "mine.yaml"
        rows.write_text("api: 1\ngrids:\n  broken: {target: 'local_broken_grid:Broken', summary: never ends}\n")
        assert main(["check", "grids", "broken", "--registry", str(rows)]) == 1
        out = capsys.readouterr().out
        assert "failed   grids broken" in out
        assert "runs_from_one_to_zero: the kit's own SDE, 1 steps: the ends are [1.0, 0.5], expected [1, 0]" in out

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["sdes", "vq"], "no sde is called 'vq'. Did you mean"),
            (["sdess"], "no kind of component is called 'sdess'"),
            (["--dist", "scoresd"], "no plugin is called 'scoresd'. Did you mean 'scoresde'?"),
            (["sdes", "vp", "--dist", "scoresde"], "give KIND NAME or --dist, not both"),
            (["sdes", "vp[beta_mx=3]"], "has no parameter 'beta_mx'"),
        ],
        ids=["name", "kind", "distribution", "both", "parameter"],
    )
    def test_usage_errors(self, words, message, capsys):
        code = main(["check", *words])
        printed = capsys.readouterr()
        assert message in printed.err
        assert (code, printed.out) == (2, "")


def under_pytest(folder, *words):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def test_under_pytest(tmp_path):
    """What a third party types: one item a component and check, chosen by options."""
    options = ("--scoresde-kind", "grids", "--scoresde-name", "karras")
    done = under_pytest(tmp_path, "--pyargs", "scoresde_core.conformance", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_component[grids:karras:decreases] PASSED" in done.stdout
    assert "10 passed" in done.stdout


def test_in_a_test_file_of_a_third_party(tmp_path):
    """The line of docs/conformance.md; a failure shows the sentence, a wrong option ends in one line."""
    (tmp_path / "test_mine.py").write_text("from scoresde_core.conformance.test_components import test_component\n")
    (tmp_path / "mine.py").write_text(
        "import attrs, torch\nfrom scoresde_core import Grid\n\n@attrs.frozen\nclass Mine(Grid):\n    'Wrong.'\n"
        "    def times(self, sde, steps):\n        return torch.linspace(0, 1, steps + 1, dtype=torch.float64)\n"
    )
    (tmp_path / "rows.yaml").write_text("api: 1\ngrids: {mine: {target: 'mine:Mine', summary: wrong}}\n")
    done = under_pytest(tmp_path, "test_mine.py", "--scoresde-registry", "rows.yaml", "--scoresde-dist", "rows")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "test_component[grids:mine:is_float64_on_the_cpu] PASSED" in done.stdout
    assert "the kit's own SDE, 1 steps: the ends are [0.0, 1.0], expected [1, 0]" in done.stdout
    unknown = under_pytest(tmp_path, "test_mine.py", "--scoresde-dist", "nope")
    assert unknown.returncode == pytest.ExitCode.INTERRUPTED
    assert "\nno plugin is called 'nope'" in unknown.stdout
    assert "Traceback" not in unknown.stdout


def test_nothing_heavy_is_imported_when_pytest_starts(tmp_path):
    code = "import sys, scoresde_core.conformance.pytest_plugin; print('torch' in sys.modules, 'attrs' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.split()[0] == "False"


def test_the_kit_imports_no_plugin(tmp_path):
    code = (
        "import sys; from scoresde_core.conformance import suite; [suite.checks(k) for k in suite.KINDS];"
        "print([m for m in sys.modules if m.startswith(('scoresde_plugins', 'scoresde_bench'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == "[]"
