"""Errors against the scatter of repeated draws, and their degrees of freedom, for every registered evaluator."""

from __future__ import annotations

import math

import attrs
import pytest
import torch

from scoresde_core import ExactScore, create, default_registry
from scoresde_core.evaluator import Evaluator, Evidence
from scoresde_core.extractor import Features
from scoresde_plugins.evaluate.measure import mean
from scoresde_plugins.evaluators.inception_score import InceptionScore
from scoresde_plugins.extractors.identity import Identity

EVALUATORS = [entry.row.name for entry in default_registry().entries("evaluators") if entry.owner == "scoresde"]
N = 40


@attrs.frozen
class Answers(Identity):
    """The entries of an event as the logits of a classifier."""

    def load(self, device):
        return lambda x: Features(x.float().flatten(1), x.float().flatten(1))


def evaluator(name: str) -> Evaluator:
    """With features that need no network."""
    if name == "inception_score":
        return InceptionScore(features=Answers())
    return create("evaluators", name, **getattr(default_registry().load("evaluators", name), "example", {}))


# --- Degrees of freedom -------------------------------------------------------------------------------------------

PIECES = {
    "nll_gap": [N],
    "mode_weights": [N],
    "moments": [N],
    "energy_distance": [N],
    "mmd": [N],
    "frechet": [5, 5],
    "kernel": [10],
    "precision_recall": [16, 16],
    "inception_score": [10],
    "log_likelihood": [N],
    "likelihood_bound": [N],
    "gaussian_w2": [math.inf],
}
"""Independent pieces that each error is found from; a closed form has no error."""


@pytest.mark.parametrize("name", EVALUATORS)
def test_an_error_says_how_many_pieces_it_was_found_from(name):
    target = create("targets", "mixture2d" if name == "mode_weights" else "gaussian[shape=[2]]")
    parts = {"sde": create("sdes", "vp"), "model": ExactScore(target), "sampler": create("samplers", "pc[steps=3]")}
    found = evaluator(name).evaluate(Evidence(target.sample(N, seed=1) + 0.2, target=target, **parts))
    if name == "sliced_wasserstein":  # three sources, by Welch and Satterthwaite
        assert [N - 1 <= metric.df <= 2 * (N - 1) + 255 for metric in found] == [True]
        return
    assert [metric.df for metric in found] == [pieces - 1 for pieces in PIECES[name]]
    assert all(metric.floor is None or metric.floor_df == metric.df for metric in found)


def test_means_say_how_many_values_they_have():
    assert mean("loss", torch.arange(7.0)).df == 6
    assert mean("loss", torch.ones(1)).df == 0


# --- Calibration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_errors_of_precision_and_recall_are_the_scatter(shift):
    """The ratio of 40 repetitions is known to 11 %, and the halves give up to a fifth too much in the plane."""
    target, n = create("targets", "gaussian[shape=[2]]"), 200
    metric = create("evaluators", "precision_recall", features="identity")
    runs = [
        metric.evaluate(Evidence(target.sample(n, seed=10_000 + r) + shift, target=target, seed=r)) for r in range(40)
    ]
    for found in zip(*runs, strict=True):
        values, errors = torch.tensor([[m.value, m.stderr] for m in found], dtype=torch.float64).T
        assert 0.75 < float(errors.square().mean().sqrt() / values.std()) < 1.5
