"""Posteriors: conditions and methods as axes, their observations, their costs, and what is refused before any work."""

import shlex
from pathlib import Path

import pytest
import torch
from runs import rows_in
from scoresde import ConditionedSampler, ExactScore, create, sample
from scoresde_bench.plan.suite import Block, read_block
from scoresde_bench.plan.sweep import Sweep
from scoresde_bench.report.ranking import rank
from scoresde_bench.report.repeat import command
from scoresde_bench.report.result_sets import read_result_sets
from scoresde_core import default_registry

MASK = "linear[operator=mask,noise=0.3]"
SMALL = ["--target", "mixture2d", "--sde", "vp", "--predictor", "dpmpp_2m_sde", "--grid", "logsnr", "--steps", "10"]
FEW = ["--samples", "160", "--observations", "4", "--out", "here"]


def planned(**axes):
    """The cells of one block."""
    numbers = {name: axes.pop(name) for name in ("samples", "observations") if name in axes}
    return Sweep(default_registry(), "cpu").cells([Block({name: tuple(v) for name, v in axes.items()}, **numbers)])


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A small sweep of conditions and methods."""
    from scoresde_bench.cli import main

    folder = tmp_path_factory.mktemp("posterior") / "here"
    swept = ["--condition", "linear[operator=mask,noise=[0.3,1]]", "--method", "exact", "mmps[iterations=[1,2]]",
             "replacement", "repaint[rounds=3]", "dps[scale=0.1]"]  # fmt: skip
    assert main([*SMALL, *swept, *FEW[:-1], str(folder), "--seed", "5"]) == 0
    return rows_in(folder)


def test_both_axes_sweep(rows):
    assert len(rows) == 2 * 6
    assert {row["condition"] for row in rows} == {MASK, "linear[operator=mask,noise=1]"}
    methods = ["exact", "mmps[iterations=1]", "mmps[iterations=2]", "replacement", "repaint[rounds=3]"]
    assert {row["method"] for row in rows} == {*methods, "dps[scale=0.1]"}
    assert {row["observations"] for row in rows} == {4}
    assert len({row["observations_seed"] for row in rows}) == 1


def test_costs_are_counted(rows):
    products = {row["method"]: row["products"] for row in rows}
    evaluations = {row["method"]: row["nfe"] for row in rows}
    assert products == {"exact": 0, "mmps[iterations=1]": 20, "mmps[iterations=2]": 30, "replacement": 0,
                        "repaint[rounds=3]": 0, "dps[scale=0.1]": 10}  # fmt: skip
    assert evaluations.pop("repaint[rounds=3]") == 9 * 3 + 1
    assert set(evaluations.values()) == {10}


def test_a_row_has_the_method_with_all_its_parameters(rows):
    (row,) = (row for row in rows if row["method"] == "mmps[iterations=2]" and row["condition"] == MASK)
    method = row["parameters"]["method"]
    assert (method["class"], method["iterations"]) == ("MMPS", 2)
    assert (method["condition"]["class"], method["condition"]["noise"]) == ("LinearMeasurement", 0.3)
    assert method["condition"]["seed"] == row["observations_seed"]  # of the noise of y


def test_the_metrics_are_those_of_the_posterior(rows):
    for row in rows:
        assert {"mmse_gap", "coverage_90", "rank_variance", "posterior_distance", "residual"} <= set(row["metrics"])
        assert row["metrics"]["mmse_gap"]["df"] == 3
        assert "11 x 11 pixels" in row["metrics_skipped"]["restoration"]
    exact, replaced = (
        next(row for row in rows if row["method"] == name and row["condition"] == MASK)
        for name in ("exact", "replacement")
    )
    assert abs(exact["metrics"]["excess_variance"]["value"]) < 0.2
    assert exact["metrics"]["mmse_gap"]["floor"] == replaced["metrics"]["mmse_gap"]["floor"]  # the same observations


def test_a_cell_is_what_its_method_says(rows):
    """The bench measures the same samples that the library draws."""
    (row,) = (row for row in rows if row["method"] == "dps[scale=0.1]" and row["condition"] == MASK)
    target, seed = create("targets", "mixture2d"), row["observations_seed"]
    events = target.sample(4, seed)
    problem = create("conditions", f"linear[operator=mask,noise=0.3,seed={seed}]")
    known = problem.observe(events.double()).select(torch.arange(4).repeat_interleave(40))
    observed = create("conditions", "dps[scale=0.1]", condition=problem).given(known)
    sampler = create("samplers", "pc[predictor=dpmpp_2m_sde,grid=logsnr,steps=10]")
    x = sample(ExactScore(target, create("sdes", "vp")), ConditionedSampler(sampler, observed), 160, seed=5).x
    parts = x.double().reshape(4, 40, 2)
    off = (parts[:, :, 0] - known.values[::40, :1]) / 0.3
    assert row["metrics"]["residual"]["value"] == pytest.approx(float(off.square().mean()) - 1, rel=1e-4)


def test_rows_are_ranked_within_their_problem(rows):
    ranking = rank(rows)
    assert ranking.targets == [f"mixture2d given linear[operator=mask,noise={noise}]" for noise in ("0.3", "1")]
    assert {len(ranking.measured("mmse_gap", target)) for target in ranking.targets} == {6}


def test_the_command_of_a_cell_gives_its_key(rows):
    from scoresde_bench.cli import _blocks, _parser

    for row in rows[:4]:
        typed = _parser().parse_args(shlex.split(command(row))[1:])
        blocks, _ = _blocks(typed, default_registry())
        assert [cell.key for cell in Sweep(default_registry(), "cpu").cells(blocks)] == [row["cell"]]


def test_another_process_builds_the_same_cell():
    (cell,) = planned(target=["mixture2d"], sde=["vp"], condition=[MASK], method=["tmpd"], steps=["5"],
                      samples=80, observations=4)  # fmt: skip
    again = Sweep(default_registry(), "cpu").cells([read_block(cell.request, "here", [])])
    assert [one.key for one in again] == [cell.key]


def test_seeds_have_other_observations_and_methods_have_the_same():
    cells = planned(target=["mixture2d"], sde=["vp"], condition=[MASK], method=["mmps", "pigdm"], seed=["0", "1"],
                    steps=["5"], samples=80, observations=4)  # fmt: skip
    events = {(cell.seed, cell.names["method"]): cell.problem.observe(cell.source).known.values for cell in cells}
    assert torch.equal(events[0, "mmps"], events[0, "pigdm"])
    assert not torch.isclose(events[0, "mmps"], events[1, "mmps"]).any(0)[0]


def test_a_condition_without_a_method_is_replacement():
    cell, named = (
        planned(target=["mixture2d"], sde=["vp"], condition=[MASK], **more, steps=["5"], samples=80, observations=4)[0]
        for more in ({}, {"method": ["replacement"]})
    )
    assert cell.key == named.key


def test_cells_without_a_condition_keep_their_keys():
    (cell,) = planned(target=["mixture2d"], sde=["vp"], steps=["5"])
    assert "condition" not in cell.names
    assert "condition" not in cell.parameters
    assert "observations" not in cell.request


def test_what_a_method_does_not_serve_is_skipped(bench, tmp_path):
    code, out, _ = bench(*SMALL, "--condition", "linear[operator=mask,noise=[0,0.3]]", "--method", "tmpd", *FEW)
    assert code == 0
    skipped, done = rows_in(tmp_path / "here")
    assert (skipped["status"], done["status"]) == ("skip", "done")
    assert "divides by the noise of y" in skipped["reason"]
    assert skipped["reason"] in out


def test_a_picture_has_the_truth_beside_the_samples(bench, tmp_path):
    from PIL import Image

    arguments = ["--target", "gaussian[shape=[1,8,8]]", "--sde", "vp", "--steps", "3", "--condition", MASK, *FEW]
    assert bench(*arguments)[0] == 0
    (row,) = rows_in(tmp_path / "here")
    with Image.open(tmp_path / "here" / row["picture"]) as image:
        width, height = image.size
    assert width / height == pytest.approx(9 * 8 / (4 * 10 - 2), rel=0.01)  # nine sides, four observations and gaps


REFUSED = [
    (["--method", "mmps"], "--method needs a problem: add a --condition"),
    (["--condition", MASK, "--method", "linear"], "--method linear: it is no method"),
    (["--condition", MASK, "--method", "mmps[condition=inpaint]"], "its problem is that of --condition"),
    (["--condition", MASK, "--method", "mmps[iterations=0]", "pigdm"], "'iterations' must be >= 1"),
    (["--condition", "linear[operator=average[factor=4],noise=0.3]"], "AverageOperator needs events"),
    (["--condition", "linear[operator=mask]", "--method", "tmpd"], "divides by the noise of y"),
    (["--condition", MASK, "--method", "smcdiff"], "particles need a known part without noise"),
    (["--condition", "inpaint[mask=random]", "--method", "exact"], "one mask for all samples"),
    (["--condition", MASK, "--method", "mmps", "--sde", "cld"], "CriticallyDampedSDE has the form blocks"),
    (["--condition", MASK, "--method", "ddnm", "--corrector", "langevin"], "gives correctors no conditional score"),
    (["--condition", MASK, "--observations", "7"], "160 samples cannot be divided among 7 observations"),
    (["--observations", "4"], "--observations has no effect: add a --condition"),
    (["--evaluator", "residual"], "--evaluator residual judges samples given y: add a --condition"),
    (["--condition", MASK, "--evaluator", "nll_gap"], "--evaluator nll_gap judges samples that are not given y"),
    (["--condition", "mmps", "--method", "pigdm"], "condition must know a part of each sample"),
    (["--condition", MASK, "--known", "class=0", "--guidance", "cfg"], "guidance leads away from the posterior"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_a_usage_error_is_one_line_before_any_work(bench, tmp_path, arguments, message):
    swept = [word for word in SMALL if word not in arguments] if "--sde" not in arguments else [*SMALL[:2], *SMALL[4:]]
    observed = [] if "--observations" in arguments else ["--observations", "4"]
    observed = observed if "--condition" in arguments else []
    code, out, err = bench(*swept, "--samples", "160", *observed, "--out", "here", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "here").exists()


def test_a_checkpoint_needs_a_target_to_observe(bench):
    code, _, err = bench("--checkpoint", "mnist_vp", "--condition", "linear", "--steps", "2", "--samples", "16")
    assert code == 2
    assert "--condition draws the events that are observed from a target" in err


def test_lpips_without_its_library_is_refused(bench, monkeypatch):
    from scoresde_plugins.evaluators import restoration

    monkeypatch.setattr(restoration, "find_spec", lambda name: None)
    code, _, err = bench(*SMALL, "--condition", MASK, "--evaluator", "restoration[lpips=true]")
    assert code == 2
    assert "pip install lpips" in err


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def committed():
    """The rows of ``benchmarks/results/posterior``."""
    (run,) = read_result_sets([str(ROOT / "benchmarks" / "results" / "posterior")])
    return run.rows


class TestCommitted:
    """The rows behind docs/posterior.md."""

    def of(self, rows, method, metric):
        return [
            row["metrics"][metric] for row in rows if row["method"] == method and metric in (row.get("metrics") or {})
        ]

    def test_they_are_the_cells_of_the_suite(self, committed):
        cells = Sweep(default_registry(), "cpu").cells(default_registry().create("suites", "posterior").blocks)
        axes = ("target", "checkpoint", "condition", "method")
        assert {tuple(row[axis] for axis in axes) for row in committed} == {
            tuple(cell.names.get(axis) for axis in axes) for cell in cells
        }
        assert len(committed) == len(cells)
        assert all(row["status"] == "done" for row in committed if row["method"] != "tmpd")

    def test_exact_draws_nearly_the_posterior(self, committed):
        for metric in ("mmse_gap", "excess_variance", "coverage_90"):
            found = self.of(committed, "exact", metric)
            assert len(found) > 12
            assert all(abs(one["value"]) < 0.04 + 2 * one["stderr"] for one in found)

    def test_ddnm_and_ddrm_are_too_narrow_under_noise(self, committed):
        noisy = [row for row in committed if "noise" in row["condition"] and row["target"] != "mnist_mfa"]
        for method, most in (("ddnm", -0.35), ("ddrm", -0.1)):
            assert all(one["value"] < most for one in self.of(noisy, method, "coverage_90"))
            assert all(one["value"] < 0 for one in self.of(noisy, method, "residual"))

    def test_the_tables_of_the_page_are_of_these_rows(self, committed):
        """Every line is a method and every column a problem; its first number is the ratio of the variances."""
        text = (ROOT / "docs" / "posterior.md").read_text(encoding="utf-8")
        found = {row["method"]: row["metrics"]["excess_variance"] for row in committed
                 if row["condition"] == "linear[operator=mask,noise=0.3]"}  # fmt: skip
        (table,) = (block for block in text.split("\n\n") if block.startswith("| | plane, 0.1"))
        lines = {line.split(" | ")[0].strip("| "): line.split(" | ")[2].strip("*") for line in table.splitlines()[3:]}
        assert lines.keys() >= found.keys()
        for method, metric in found.items():
            assert lines[method].startswith(f"{1 + metric['value']:.2f} ± {metric['stderr']:.2f}")
