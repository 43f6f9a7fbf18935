"""The suite ``order``: its committed rows have the declared orders, are reproduced today, and are quoted correctly."""

import math
from pathlib import Path

import pytest
from runs import rows_in
from scoresde_bench.plan.sweep import Sweep
from scoresde_bench.report.lines import Layout
from scoresde_bench.report.plot import convergences, power
from scoresde_bench.report.ranking import metric_value, rank
from scoresde_bench.report.result_sets import merge, read_result_sets
from scoresde_core import create, default_registry

ROOT = Path(__file__).parents[2]
SDES = ("ve[sigma_min=0.0001]", "vp[t_min=1e-06]", "subvp[t_min=0.0001]")
PREDICTORS = (
    *("euler_maruyama", "reverse_diffusion", "probability_flow", "ddim", "dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde"),
    *("unipc", "deis", "ipndm", "dpm_solver_2", "heun"),
)
BETTER = {("euler_maruyama", SDES[0]): 2.0, ("deis", SDES[0]): 3.5}
"""Samplers whose leading error vanishes on this target."""


@pytest.fixture(scope="module")
def rows():
    (run,) = read_result_sets([str(ROOT / "benchmarks" / "results" / "order")])
    return run.rows


def errors(rows, predictor, sde):
    chosen = [row for row in rows if (row["predictor"], row["sde"]) == (predictor, sde)]
    return [(row["steps"], metric_value(row, "gaussian_w2")) for row in chosen]


def test_the_rows_are_the_cells_of_the_suite(rows):
    suite = default_registry().create("suites", "order")
    cells = Sweep(default_registry(), "cpu").cells(suite.blocks)
    axes = ("target", "sde", "sampler", "predictor", "corrector", "grid")
    assert {(*(row[axis] for axis in axes), row["steps"]) for row in rows} == {
        (*(cell.names[axis] for axis in axes), cell.steps) for cell in cells
    }
    assert {row["predictor"] for row in rows} == set(PREDICTORS)
    assert all(row["status"] == "done" and row["metrics"]["gaussian_w2"]["stderr"] == 0 for row in rows)
    assert all((ROOT / "benchmarks" / "results" / "order" / row["picture"]).is_file() for row in rows)


@pytest.mark.parametrize("sde", SDES)
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_errors_fall_in_the_declared_order(rows, predictor, sde):
    found = power(errors(rows, predictor, sde))
    assert found is not None
    expected = BETTER.get((predictor, sde), create("predictors", predictor).order)
    # UniPC's errors cancel in the middle, and at its end it is as good as double precision lets t_min be.
    assert found[0] == pytest.approx(expected, abs=0.7 if predictor == "unipc" else 0.25)


def test_the_page_shows_every_order():
    ranking = rank(merge(read_result_sets([str(ROOT / "benchmarks" / "results" / "order")])))
    found = convergences(ranking, Layout(ranking))
    assert [len(one.slopes) for one in found] == [len(PREDICTORS)] * len(SDES)


def test_today_gives_the_committed_numbers(rows, bench, tmp_path):
    """Up to rounding: different last digits move an error of 1e-7 by less than 1e-12."""
    chosen = ("--sde", "vp[t_min=1e-6]", "--predictor", "unipc", "heun", "reverse_diffusion", "--steps", "16,64")
    assert bench("--suite", "order", *chosen, "--out", "here")[0] == 0
    known = {(row["predictor"], row["steps"], row["sde"]): row["metrics"]["gaussian_w2"]["value"] for row in rows}
    again = rows_in(tmp_path / "here")
    assert len(again) == 6
    for row in again:
        value = known[row["predictor"], row["steps"], row["sde"]]
        assert row["metrics"]["gaussian_w2"]["value"] == pytest.approx(value, rel=1e-6, abs=1e-12)


def test_the_table_of_the_page_on_samplers_is_of_these_rows(rows):
    text = (ROOT / "docs" / "samplers.md").read_text(encoding="utf-8")
    table = text.split("| predictor | order | p, VE |")[1].split("\n\n")[0].splitlines()[2:]
    assert [line.split("`")[1] for line in table] == list(PREDICTORS)
    for line in table:
        predictor = line.split("`")[1]
        order, *numbers = [float(text) for text in line.split("|")[2:-1]]
        assert order == create("predictors", predictor).order
        for sde, exponent, last in zip(SDES, numbers[:3], numbers[3:], strict=True):
            found = errors(rows, predictor, sde)
            fit = power(found)
            assert fit is not None
            assert exponent == pytest.approx(fit[0], abs=0.0051)
            assert math.isclose(last, max(found)[1].value, rel_tol=0.05)
