"""Every bundled component passes the suite that third parties run; how the suite selects, reports and counts."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest
import torch
from registries import failures, registry_of
from scoresde_conformance import counterparts
from scoresde_conformance.candidate import SUITES
from scoresde_conformance.exact import ConstantRateSDE, Mixture, PlainPredictor, times_between
from scoresde_conformance.suite import candidates, cases, checks, run
from scoresde_core import SDE, Grid, Level, Predictor, param
from scoresde_core.kinds import KINDS
from scoresde_core.manifest import Row
from scoresde_core.plugins import Status
from scoresde_core.registry import Registry, load_registry
from scoresde_run.commands.shell import main

BUNDLED = load_registry(disabled=())
CASES = cases(candidates(BUNDLED, dist="scoresde"))
"""At the full level: every shipped SDE with every predictor, corrector, sampler and loss."""


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_bundled_component(case):
    result = case.run()
    if result.state in ("skipped", "exempt"):
        pytest.skip(result.reason)
    assert (result.state, result.reason) == ("passed", "")


class TestLevels:
    """``quick`` and ``full``."""

    def test_quick_is_quick(self):
        """The slowest of the bundled components needs far less than 15 s."""
        started = time.process_time()
        assert all(result.state != "failed" for result in run(BUNDLED, "samplers", "adaptive_sde", "quick"))
        assert time.process_time() - started < 15

    def test_quick_leaves_the_shipped_sdes_to_full(self):
        def tried(level):
            candidate = candidates(BUNDLED, "predictors", "euler_maruyama", level=level)[0]
            return {candidate.trying.partition(" under ")[2] for _ in counterparts.pairs(candidate)}

        own = {"the suite's own sde", "the suite's own growing sde", "the suite's own straight sde"}
        assert tried("quick") == own
        plain = [entry.row.name for entry in BUNDLED.entries("sdes")]
        plain = [name for name in plain if not (sde := BUNDLED.create("sdes", name)).needs and sde.form == "scalar"]
        assert len(plain) >= 9
        assert tried("full") == own | {f"sde {name}" for name in plain}

    def test_quick_finds_an_sde_for_those_that_refuse_the_suites_own(self):
        """``ddpm`` needs noise at t = 0 in a chain that preserves the variance."""
        results = {result.check: result.state for result in run(BUNDLED, "losses", "ddpm", "quick")}
        assert results["the_truth_is_the_minimiser"] == "passed"


FAULTY = """
import attrs
import torch
from scoresde_core import SDE, Predictor, param
from scoresde_conformance.exact import ConstantRateSDE

@attrs.frozen
class Loud(ConstantRateSDE):
    "Its diffusion is too large."
    def diffusion(self, t):
        return 1.1 * SDE.diffusion(self, t)

@attrs.frozen
class Late(ConstantRateSDE):
    "Its times are late."
    def time_at(self, log_noise_ratio, t_min=None):
        return (1.1 * ConstantRateSDE.time_at(self, log_noise_ratio)).clamp_max(1.0)

@attrs.frozen
class Broken(ConstantRateSDE):
    "It raises."
    def alpha(self, t):
        raise RuntimeError("out of order")

@attrs.frozen
class Step(Predictor):
    "Right, and tried with the SDEs of its own distribution."
    stochastic = False
    def step(self, x, step, model, noise):
        rise = step.next.sigma / step.next.alpha - step.now.sigma / step.now.alpha
        x = (x / step.now.alpha + rise * model.noise(x, step.now)) * step.next.alpha
        return x, x
"""
ROWS = """
api: 1
sdes:
  loud: {target: 'faulty_sdes:Loud', summary: too much noise}
  late: {target: 'faulty_sdes:Late', summary: late}
  broken: {target: 'faulty_sdes:Broken', summary: raises}
predictors:
  step: {target: 'faulty_sdes:Step', summary: right}
"""


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """A local registry file with three faulty SDEs and a right predictor."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faulty_sdes", raising=False)
    (tmp_path / "faulty_sdes.py").write_text(FAULTY)
    (tmp_path / "faulty.yaml").write_text(ROWS)
    return tmp_path / "faulty.yaml"


class TestCounterparts:
    """Components are combined with bundled ones and those of their own distribution, which a failure names."""

    def test_the_faults_of_a_third_party_are_not_those_of_a_bundled_component(self, faulty):
        registry = load_registry(local=[faulty])
        assert {entry.row.name for entry in registry.entries("sdes")} >= {"loud", "late", "broken", "vp"}
        for kind, name in (("losses", "dsm"), ("grids", "logsnr"), ("correctors", "ald"), ("conditions", "inpaint")):
            assert not [result.reason for result in run(registry, kind, name) if result.state == "failed"]

    def test_a_faulty_sde_is_named_with_its_method(self, faulty):
        registry = load_registry(local=[faulty])

        def found(name):
            results = run(registry, "sdes", name, "quick")
            return {result.check: result.reason for result in results if result.state == "failed"}

        assert found("loud")["sigma_fits_the_diffusion"].startswith("sde loud: diffusion disagrees with sigma")
        assert found("late")["time_at_inverts_the_noise"].startswith("sde late: time_at disagrees with alpha and sigma")
        assert found("broken")["alpha_fits_the_drift"] == "sde broken: RuntimeError: out of order"

    def test_a_failure_names_its_counterpart(self, faulty):
        """Also where the counterpart raises; the third party's own SDEs are counterparts of its predictor."""
        registry = load_registry(local=[faulty])
        results = {result.check: result.reason for result in run(registry, "predictors", "step", "quick")}
        assert results["converges_in_its_order"] == "predictor step under sde broken: RuntimeError: out of order"

    def test_two_plugins_with_one_name(self):
        """Each is called by its owner's name, as a counterpart too."""
        other = Status("other", "1.0", "ok", rows=[Row("sdes", "subject", ConstantRateSDE, "another")])
        registry = registry_of(("sdes", "subject", ConstantRateSDE), ("predictors", "p", PlainPredictor), more=[other])
        [candidate] = candidates(registry, "predictors", "p")
        assert [name for name, _ in candidate.partners("sdes")] == ["wrong:subject"]


@attrs.frozen
class KeepingSDE(ConstantRateSDE):
    """At t = 1 half of the signal is left, by design."""

    rate: float = param(1.4, "b")
    exempt = {"forgets_the_data": "an editing method", "prior_is_the_marginal": "it starts from an image"}  # noqa: RUF012


@attrs.frozen
class DimmedSDE(ConstantRateSDE):
    """A schedule whose signal starts a little below 1, as published."""

    exempt = {"starts_at_the_data": "the published table starts at 0.98"}  # noqa: RUF012

    def alpha(self, t):
        return 0.98 * ConstantRateSDE.alpha(self, t)

    def sigma(self, t):
        return torch.sqrt(1 - self.alpha(t).double() ** 2).to(t)

    def time_at(self, log_noise_ratio, t_min=None):
        return SDE.time_at(self, log_noise_ratio, t_min)


class TestExemptions:
    """``exempt`` on a class."""

    @staticmethod
    def results(cls, **options):
        registry = registry_of(("sdes", "subject", cls), **options)
        return {result.check: result for result in run(registry, "sdes", "subject", "quick")}

    @pytest.mark.parametrize("cls", [KeepingSDE, DimmedSDE])
    def test_a_declared_exemption_is_no_failure(self, cls):
        found = self.results(cls)
        exempt = {name: result.reason for name, result in found.items() if result.state == "exempt"}
        assert exempt == cls.exempt
        assert {result.state for result in found.values()} <= {"passed", "exempt", "skipped"}

    @pytest.mark.parametrize(
        ("kind", "name", "check"),
        [
            ("predictors", "euler_maruyama", "converges_in_its_order"),
            ("samplers", "pc", "finds_the_moments"),
            ("losses", "dsm", "the_truth_is_the_minimiser"),
        ],
    )
    def test_the_exempt_is_a_counterpart_all_the_same(self, kind, name, check):
        """Nothing else fails because an SDE keeps some of the data."""
        keeping = Row("sdes", "keeping", KeepingSDE, "under test")
        status = Status("wrong", "1.0", "ok", rows=[Row(kind, "subject", BUNDLED.load(kind, name), ""), keeping])
        [candidate] = candidates(Registry([status], None), kind, "subject")
        assert [name for name, _ in candidate.partners("sdes")] == ["keeping"]
        [result] = [case.run() for case in cases([candidate]) if case.name == check]
        assert result.state == "passed", result.reason

    def test_an_unknown_check_lists_near_misses(self):
        cls = attrs.frozen(type("Slip", (ConstantRateSDE,), {"exempt": {"forget_the_data": "?"}, "__doc__": "A slip."}))
        reason = self.results(cls)["names_its_exemptions"].reason
        assert "exempt names 'forget_the_data', not a check of sdes. Did you mean" in reason
        assert "'forgets_the_data'" in reason

    def test_a_reason_is_required(self):
        cls = attrs.frozen(type("Mute", (ConstantRateSDE,), {"exempt": {"noise_grows": ""}, "__doc__": "Mute."}))
        assert "exempt gives no reason for noise_grows" in self.results(cls)["names_its_exemptions"].reason

    def test_an_exemption_that_is_not_needed_is_told(self):
        cls = attrs.frozen(type("Shy", (ConstantRateSDE,), {"exempt": {"noise_grows": "shy"}, "__doc__": "Shy."}))
        result = self.results(cls)["noise_grows"]
        assert (result.state, result.reason) == ("passed", "the check passes, so this exemption is not needed: shy")

    def test_it_excuses_no_error(self):
        """A check that breaks off has found something else than what the exemption is for."""
        body = {"exempt": {"noise_grows": "by design"}, "sigma": lambda self, t: 1 / 0, "__doc__": "Breaks."}
        cls = attrs.frozen(type("Breaking", (ConstantRateSDE,), body))
        assert self.results(cls)["noise_grows"].reason == "sde subject: ZeroDivisionError: division by zero"


class Flow(Predictor):
    stochastic = False

    def step(self, x, step, model, noise):
        rise = step.next.sigma / step.next.alpha - step.now.sigma / step.now.alpha
        x = (x / step.now.alpha + rise * model.noise(x, step.now)) * step.next.alpha
        return x, x


@attrs.frozen
class NeedyPredictor(Flow):
    """Cannot be built by name alone."""

    table: str = param(help="path of a table")


def test_required_parameters_come_from_the_name_or_an_example(tmp_path):
    registry = registry_of(("predictors", "subject", NeedyPredictor))
    states = {result.state for result in run(registry, "predictors", "subject[table=a.txt]", "quick")}
    assert states <= {"passed", "skipped"}
    written = staticmethod(lambda folder: {"table": str(folder / "a.txt")} if folder.is_dir() else {})
    for example in ({"table": "a.txt"}, written):
        with_example = type("WithExample", (NeedyPredictor,), {"example": example, "__doc__": "Has one."})
        assert not failures("predictors", attrs.frozen(with_example), only="builds")


@attrs.frozen
class Fitted(Flow):
    """Takes a table, or a file and the name of its content."""

    table: str | None = param(None, "a table")
    file: str | None = param(None, "a file")
    example = {"table": "a.txt"}  # noqa: RUF012

    def __attrs_post_init__(self):
        if self.table and self.file:
            raise ValueError("give a table or a file, not both")


@attrs.frozen
class Labelled(NeedyPredictor):
    """Its example names labels, which another table need not have."""

    labels: str | None = param(None, "labels in the table")
    example = staticmethod(lambda folder: {"table": str(folder / "a.txt"), "labels": "classes"})


@pytest.mark.parametrize(
    ("cls", "name", "given"),
    [
        (Fitted, "subject", {"table": "a.txt"}),
        (Fitted, "subject[file=b.txt]", {"file": "b.txt"}),
        (Labelled, "subject[table=b.txt]", {"table": "b.txt"}),
    ],
)
def test_an_example_does_not_mix_with_what_the_caller_gives(cls, name, given):
    [candidate] = candidates(registry_of(("predictors", "subject", cls)), "predictors", name)
    assert candidate.given == given


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
    assert kind in SUITES or kind in {"commands", "presets", "executors", "suites"}


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_check_is_in_the_docs_in_its_own_words(kind):
    docs = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()
    for check in checks(kind):
        assert f"| `{check.__name__}` | {check.__doc__.strip().splitlines()[0]} |" in docs


@attrs.frozen
class ShortGrid(Grid):
    """Forgets clean data, and goes backwards."""

    def times(self, sde, steps):
        return torch.linspace(sde.t_min, 1, steps + 1)


def test_a_check_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    failures("grids", ShortGrid)
    failures("sdes", ConstantRateSDE)
    assert torch.equal(torch.rand(2), expected)


class TestExact:
    """The suite's ground truth, against torch.distributions."""

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
        assert out[0] == "grids karras[rho=5]"
        assert any(line.startswith("  ok   ") and line.endswith(" ms  decreases") for line in out)
        assert out[-1].startswith("1 component, 11 checks at level quick: 11 passed in ")

    def test_a_terminal_is_shown_a_line_a_component_and_what_is_running(self, capsys, monkeypatch):
        for stream in (sys.stdout, sys.stderr):
            monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
        assert main(["check", "grids", "--level", "full"]) == 0
        out, err = capsys.readouterr()
        assert out.splitlines()[0].startswith("passed   grids uniform: 11 passed in ")
        assert out.splitlines()[-1].startswith("6 components, 66 checks at level full: 66 passed in ")
        assert "[18/66] grids quadratic: runs_from_one_to_zero" in err
        assert err.endswith("\r\x1b[K")
        main(["check", "grids", "-v"])
        assert "  decreases\n" in capsys.readouterr().out

    def test_json(self, capsys):
        assert main(["check", "grid", "uniform", "--json"]) == 0
        records = json.loads(capsys.readouterr().out)
        assert records["level"] == "quick"
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
        rows.write_text(
            "api: 1\ngrids:\n  broken: {target: 'local_broken_grid:Broken', summary: never ends}\n"
            "  other: {target: 'local_broken_grid:Broken', summary: never ends}\n"
        )
        assert main(["check", "--dist", "mine", "--registry", str(rows)]) == 1
        out = capsys.readouterr().out
        reason = "grid broken of 1 steps under the suite's own sde: the first and the last of times are [1.0, 0.5]"
        assert f"  runs_from_one_to_zero: {reason}, expected [1, 0]" in out
        assert f"\nfailed   grids broken runs_from_one_to_zero: {reason}" in out

    def test_an_exemption_is_shown_with_its_reason(self, tmp_path, capsys, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "local_keeping_sde.py").write_text(
            "import attrs\n"
            "from scoresde_core import param\n"
            "from scoresde_conformance.exact import ConstantRateSDE\n\n"
            "@attrs.frozen\nclass Keeping(ConstantRateSDE):\n"
            "    'Keeps half.'\n"
            "    exempt = {'forgets_the_data': 'for editing', 'prior_is_the_marginal': 'for editing'}\n"
            "    rate: float = param(1.4, 'b')\n"
        )
        rows = tmp_path / "keeping.yaml"
        rows.write_text("api: 1\nsdes:\n  keeping: {target: 'local_keeping_sde:Keeping', summary: keeps half}\n")
        assert main(["check", "sdes", "keeping", "--registry", str(rows)]) == 0
        out = capsys.readouterr().out
        assert "  forgets_the_data: for editing\n" in out
        assert "25 checks at level quick: 2 exempt, 20 passed, 3 skipped in " in out

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["sdes", "vq"], "no sde is called 'vq'. Did you mean"),
            (["sdess"], "no kind of component is called 'sdess'"),
            (["--dist", "scoresd"], "no plugin is called 'scoresd'. Did you mean 'scoresde'?"),
            (["sdes", "vp", "--dist", "scoresde"], "NAME and --dist are both given"),
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
    options = ("--scoresde-kind", "grids", "--scoresde-name", "karras", "--scoresde-level", "quick")
    done = under_pytest(tmp_path, "--pyargs", "scoresde_conformance", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_component[grids:karras:decreases] PASSED" in done.stdout
    assert "11 passed" in done.stdout


def test_in_a_test_file_of_a_third_party(tmp_path):
    """The line of docs/conformance.md; a failure shows the sentence, a wrong option ends in one line."""
    (tmp_path / "test_mine.py").write_text("from scoresde_conformance.test_components import test_component\n")
    (tmp_path / "mine.py").write_text(
        "import attrs, torch\nfrom scoresde_core import Grid\n\n@attrs.frozen\nclass Mine(Grid):\n    'Wrong.'\n"
        "    def times(self, sde, steps):\n        return torch.linspace(0, 1, steps + 1, dtype=torch.float64)\n"
    )
    (tmp_path / "rows.yaml").write_text("api: 1\ngrids: {mine: {target: 'mine:Mine', summary: wrong}}\n")
    done = under_pytest(tmp_path, "test_mine.py", "--scoresde-registry", "rows.yaml", "--scoresde-dist", "rows")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "test_component[grids:mine:is_float64_on_the_cpu] PASSED" in done.stdout
    told = "grid mine of 1 steps under the suite's own sde: the first and the last of times are [0.0, 1.0], expected"
    assert told in done.stdout
    unknown = under_pytest(tmp_path, "test_mine.py", "--scoresde-dist", "nope")
    assert unknown.returncode == pytest.ExitCode.INTERRUPTED
    assert "\nno plugin is called 'nope'" in unknown.stdout
    assert "Traceback" not in unknown.stdout


def test_nothing_heavy_is_imported_when_pytest_starts(tmp_path):
    code = "import sys, scoresde_conformance.pytest_plugin; print('torch' in sys.modules, 'attrs' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.split()[0] == "False"


def test_the_kit_imports_no_plugin(tmp_path):
    code = (
        "import sys; from scoresde_conformance import suite; [suite.checks(k) for k in suite.KINDS];"
        "print([m for m in sys.modules if m.startswith(('scoresde_plugins', 'scoresde_bench'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == "[]"
