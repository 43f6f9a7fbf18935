"""Errors against the scatter of repeated draws, and their degrees of freedom, for every registered evaluator."""

from __future__ import annotations

import math
import runpy
from functools import cache
from pathlib import Path

import pytest
import torch
from scoresde_core import ExactScore, create, default_registry
from scoresde_core.evaluator import Metric
from scoresde_plugins.evaluate.measure import mean
from scoresde_run.data.evidence import Evidence

EVALUATORS = [entry.row.name for entry in default_registry().entries("evaluators") if entry.owner == "scoresde"]
STUDY = runpy.run_path(str(Path(__file__).parents[2] / "tests/long/calibration.py"))
N = 40


# --- Degrees of freedom -------------------------------------------------------------------------------------------

PIECES = {
    "nll_gap": [N],
    "mode_weights": [32],
    "moments": [N],
    "energy_distance": [N],
    "tilted_distance": [N],
    "mmd": [N],
    "frechet": [5, 5],
    "kernel": [10],
    "precision_recall": [16, 16],
    "inception_score": [10],
    "log_likelihood": [N],
    "likelihood_bound": [N],
    "gaussian_w2": [math.inf],
    "posterior_moments": [2, 2, 2],
    "posterior_coverage": [2, 2, 2],
    "posterior_distance": [2, 2],
    "residual": [2],
    "restoration": [2, 2, 2],
}
"""Independent pieces that each error is found from; a closed form has no error."""


COMPONENTS = ("mode_weights", "tilted_distance", "posterior_distance")
"""Evaluators that need a target with components."""


def law_for(name: str) -> str:
    if name == "restoration":
        return "gaussian[shape=[1,11,11],decay=2]"
    return "mixture2d" if name in COMPONENTS else "gaussian[shape=[2]]"


@pytest.mark.parametrize("name", EVALUATORS)
def test_an_error_says_how_many_pieces_it_was_found_from(name):
    target = create("targets", law_for(name))
    parts = {"model": ExactScore(target, create("sdes", "vp")), "sampler": create("samplers", "pc[steps=3]")}
    judge = create("evaluators", name, **STUDY["example"](name))
    samples, more = STUDY["given"](judge, target, target, N, 1)
    found = judge.evaluate(Evidence(samples + 0.2, target=target, **parts, **more))
    if name == "sliced_wasserstein":  # with the directions, by Welch and Satterthwaite
        assert [31 <= metric.df <= 31 + 255 for metric in found] == [True]
        return
    if name == "memorisation":  # by nearest events, which test_memorisation.py counts
        assert [1 <= metric.df < N for metric in found] == [True, True]
        return
    assert [metric.df for metric in found] == [pieces - 1 for pieces in PIECES[name]]
    assert all(metric.floor is None or metric.floor_df == metric.df for metric in found)


def test_means_say_how_many_values_they_have():
    assert mean("loss", torch.arange(7.0)).df == 6
    assert mean("loss", torch.ones(1)).df == 0


# --- Calibration --------------------------------------------------------------------------------------------------


REPETITIONS, SAMPLES = 120, 100
"""The scatter of 120 values is known to 6.5 %."""
FEWER = {"log_likelihood": 60, "likelihood_bound": 40, "gaussian_w2": 3}
"""Repetitions of what takes long, and of what has no noise."""
SILENT = [("gaussian_w2", kind) for kind in ("exact", "shifted")] + [("log_likelihood", "exact")]
"""Without noise: a closed form, and a solver that is exact where the score is linear and right."""


@cache
def repeated(name: str, kind: str) -> list[list[Metric]]:
    found: list[list[Metric]] = STUDY["repeat"](name, law_for(name), kind, FEWER.get(name, REPETITIONS), SAMPLES)
    return found


@pytest.mark.parametrize("kind", ["exact", "shifted"])
@pytest.mark.parametrize("name", EVALUATORS)
def test_errors_are_the_scatter_of_repeated_draws(name: str, kind: str) -> None:
    """Of samples, reference and model noise together; ``tests/long/calibration.py`` shows more laws."""
    ratios = STUDY["ratios"](repeated(name, kind))
    assert ratios
    for ratio in ratios.values():
        assert ratio is None if (name, kind) in SILENT else 0.8 < ratio < 1.25


def test_chance_alone_is_no_finding() -> None:
    """Two runs of equal cells, 60 times: at most 5 % findings, and at most 5 % of single values below p = 0.05."""
    names = [name for name in EVALUATORS if name not in FEWER]
    rows = {
        ("law", kind): [
            [metric for metrics in row for metric in metrics]
            for row in zip(*(repeated(name, kind) for name in names), strict=True)
        ]
        for kind in ("exact", "shifted")
    }
    alarms, pairs, low, values = STUDY["false_alarms"](rows)
    assert (pairs, values > 1000) == (60, True)
    assert alarms <= 0.1  # twice the level is two standard errors of 60 pairs
    assert 0.02 < low < 0.06
