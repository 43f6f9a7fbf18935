"""Metrics on features and on sets: brute force, toy sets with known answers, data sets and files as the reference."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from scoresde_bench.cli import main as bench_main
from scoresde_core.errors import FileError, UsageError
from scoresde_core.evaluator import Metric
from scoresde_core.registry import create
from scoresde_plugins.evaluators.distances import MMD, EnergyDistance, SlicedWasserstein
from scoresde_plugins.evaluators.frechet import Centre
from scoresde_plugins.evaluators.sample_quality import (
    by_subsets,
    classifier_score,
    downward_bias,
    polynomial_mmd,
    radii,
    shares,
)
from scoresde_plugins.evaluators.statistics_file import FeatureMoments
from scoresde_plugins.extractors.identity import Identity
from scoresde_plugins.targets.gaussian import GaussianTarget
from scoresde_run.commands.shell import main
from scoresde_run.data.evidence import Evidence
from scoresde_run.data.units import Units
from scoresde_run.features import extraction


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one(metrics: list[Metric], name: str) -> Metric:
    (found,) = (metric for metric in metrics if metric.name == name)
    return found


# --- Kernel distances ---------------------------------------------------------------------------------------------


def unbiased_mmd(x: Tensor, y: Tensor, kernel) -> float:
    """MMD^2 from its definition, pair by pair."""
    n = len(x)
    within = [kernel(a[i], a[j]) for a in (x, y) for i, j in itertools.permutations(range(n), 2)]
    across = [kernel(p, q) for p in x for q in y]
    return float(sum(within) / (n * (n - 1)) - 2 * sum(across) / n**2)


def test_polynomial_mmd_against_its_definition() -> None:
    x, y = normal(9, 5, seed=1), 1.5 * normal(9, 5, seed=2)
    expected = unbiased_mmd(x, y, lambda a, b: (a @ b / 5 + 1) ** 3)
    assert float(polynomial_mmd(x, y)) == pytest.approx(expected, rel=1e-10)


def test_torch_fidelity_has_the_same_kernel_distance() -> None:
    metric_kid = pytest.importorskip("torch_fidelity.metric_kid")
    x, y = normal(200, 16, seed=1), 1.2 * normal(200, 16, seed=2)
    theirs = metric_kid.kid_features_to_metric(
        x, y, kid_subsets=1, kid_subset_size=200, kid_kernel="poly", kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1, rng_seed=0, verbose=False,
    )  # fmt: skip
    assert float(polynomial_mmd(x, y)) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


def test_subsets_are_disjoint_and_their_error_is_the_scatter() -> None:
    x, y = normal(124, 4, seed=1), normal(124, 4, seed=2)
    found = by_subsets(x, y, 11)
    values = torch.stack([polynomial_mmd(x[i : i + 11], y[i : i + 11]) for i in range(0, 121, 11)])
    assert found.value == pytest.approx(float(values.mean()), rel=1e-12)
    assert found.stderr == pytest.approx(float(values.std()) / math.sqrt(11), rel=1e-12)
    # Ten subsets are what an error takes: asked for larger ones, they are made smaller.
    assert by_subsets(x, y, 1000) == by_subsets(x, y, 12)


def test_kernel_distance_is_unbiased() -> None:
    metric, target = create("evaluators", "kernel[features=identity]"), GaussianTarget(shape=(3,))
    values = torch.tensor(
        [metric.evaluate(Evidence(target.sample(30, 500 + r), target=target, seed=r))[0].value for r in range(100)]
    )
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(100)


def test_mmd_against_its_definition() -> None:
    target = GaussianTarget(shape=(2, 2))
    evidence = Evidence(1.5 * target.sample(12, seed=4), target=target)
    found = MMD(bandwidths=(0.5, 2.0)).evaluate(evidence)[0]
    x, y = evidence.samples.double().flatten(1), evidence.exact(0).double().flatten(1)
    median = sorted(float((a - b).norm()) for a, b in itertools.combinations(y, 2))[(66 - 1) // 2]

    def kernel(a: Tensor, b: Tensor) -> float:
        squared = float((a - b).square().sum())
        return sum(math.exp(-squared / (2 * (width * median) ** 2)) for width in (0.5, 2.0)) / 2

    assert found.value == pytest.approx(unbiased_mmd(x, y, kernel), rel=1e-9)


def test_the_error_of_mmd_is_the_scatter_of_repeated_draws() -> None:
    target = GaussianTarget(shape=(3,))
    runs = [MMD().evaluate(Evidence(1.5 * target.sample(60, 900 + r), target=target, seed=r))[0] for r in range(120)]
    scatter = torch.tensor([run.value for run in runs]).std()
    assert math.sqrt(sum(run.stderr**2 for run in runs) / 120) == pytest.approx(float(scatter), rel=0.25)


# --- Precision and recall -----------------------------------------------------------------------------------------


def test_radii_and_coverage_on_a_line() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0]], dtype=torch.float64)
    everywhere = torch.ones(4, dtype=torch.bool)
    assert radii(points, 1, [torch.arange(4)])[0].tolist() == [1, 1, 2, 4]
    assert radii(points, 2, [torch.arange(4)])[0].tolist() == [3, 2, 3, 6]
    for asked, precision in (([-1.5, -1.0, 5.5, 11.0], 0.75), ([-1.5, -1.0, 11.0, 11.1], 0.5)):
        samples = torch.tensor(asked, dtype=torch.float64).unsqueeze(1)
        assert shares(samples, points, 1, [everywhere])[0][0] == precision


def points(tmp_path: Path, name: str, events: Tensor) -> str:
    np.savez(tmp_path / name, images=events.float().numpy())
    return f"npz[path={tmp_path / name},test_share=0.5]"


def test_precision_and_recall_of_a_collapsed_and_of_a_wild_sampler(tmp_path: Path) -> None:
    """Two clusters far apart: one of them alone is precise and covers half, a third one nearby is half precise."""
    left, right, nowhere = normal(200, 2, seed=1), normal(200, 2, seed=2) + 100, normal(200, 2, seed=3) - 100
    truth = torch.stack([left, right], 1).reshape(-1, 2)  # alternating
    # Every second event is held out for the test: pairs, so that both clusters are in both splits.
    truth = truth.reshape(-1, 2, 2).repeat_interleave(2, 1)[:, [0, 1, 2, 3]].reshape(-1, 2)
    metric = create("evaluators", f"precision_recall[features=identity,reference={points(tmp_path, 'p.npz', truth)}]")
    fresh = normal(400, 2, seed=4)
    collapsed = metric.evaluate(Evidence(fresh[:200]))
    assert one(collapsed, "precision_identity").value > 0.9
    assert one(collapsed, "recall_identity").value == pytest.approx(0.5, abs=0.08)
    wild = metric.evaluate(Evidence(torch.cat([fresh[:50], fresh[50:100] + 100, nowhere[:100]])))
    assert one(wild, "precision_identity").value == pytest.approx(0.5, abs=0.08)
    assert one(wild, "recall_identity").value > 0.8
    assert one(wild, "recall_identity").better == "higher"


def test_torch_fidelity_has_the_same_precision_and_recall() -> None:
    metric_prc = pytest.importorskip("torch_fidelity.metric_prc")
    x, y = normal(150, 3, seed=1), 0.7 * normal(150, 3, seed=2) + 0.3
    precision, recall = metric_prc.calculate_precision_recall_full(x, y, 3)
    everything = torch.ones(150, dtype=torch.bool)
    assert shares(x, y, 3, [everything])[0] == pytest.approx((precision, recall))


# --- Inception score ----------------------------------------------------------------------------------------------


def test_score_of_certain_and_even_answers_is_the_number_of_classes() -> None:
    logits = 1000 * torch.eye(5).repeat(40, 1)
    found = classifier_score(logits, splits=4)
    assert (found.value, found.stderr) == (pytest.approx(5, rel=1e-9), pytest.approx(0, abs=1e-9))
    assert classifier_score(torch.zeros(40, 5), 4).value == pytest.approx(1, rel=1e-12)


def test_torch_fidelity_has_the_same_inception_score() -> None:
    metric_isc = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 3 * normal(200, 7, seed=3)
    theirs = metric_isc.isc_features_to_metric(logits, splits=10, shuffle=False)
    assert classifier_score(logits, 10).value == pytest.approx(theirs["inception_score_mean"], rel=1e-9)


def test_the_bias_of_the_score_is_what_is_said() -> None:
    """Against a set so large that its own bias is a thousandth."""
    many = 2 * normal(200_000, 6, seed=1)
    truth = classifier_score(many, 1 + 1).value
    small = many[:40_000].reshape(-1, 40, 6)
    found = sum(classifier_score(part, 2).value for part in small) / len(small)
    said = sum(downward_bias(part, 2) for part in small) / len(small)
    assert truth - found == pytest.approx(said * truth, rel=0.15)


def test_features_without_classes_have_no_score() -> None:
    with pytest.raises(UsageError, match="identity has no class probabilities: choose features of a classifier"):
        create("evaluators", "inception_score[features=identity]").evaluate(Evidence(normal(40, 2)))


def test_score_of_a_data_set_is_the_floor(shared: Path) -> None:
    """Real digits have nearly ten classes; noise has few."""
    text = f"inception_score[features=mnist_classifier,reference=mnist[root={shared / 'data'}]]"
    (found,) = create("evaluators", text).evaluate(Evidence(normal(300, 1, 28, 28).clamp(-1, 1).float()))
    assert found.floor is not None
    assert found.floor > 8
    assert found.value < 3
    assert found.details["bias"] < 0


# --- Rounding -----------------------------------------------------------------------------------------------------


def test_rounding_to_grey_levels() -> None:
    levels = torch.arange(256).reshape(1, 1, 16, 16)
    x, quantised = levels / 127.5 - 1, Units().images
    assert torch.equal(quantised(x + 0.4 / 127.5, "nearest"), levels.byte())
    assert torch.equal(quantised(x - 0.4 / 127.5, "nearest"), levels.byte())
    assert torch.equal(quantised(x - 0.4 / 127.5, "floor"), (levels - 1).clamp_min(0).byte())
    assert quantised(torch.tensor([-3.0, 3.0]), "nearest").tolist() == [0, 255]


# --- A data set as the reference ----------------------------------------------------------------------------------

IMAGES = 40


@pytest.fixture
def data(tmp_path: Path) -> str:
    images = np.random.default_rng(0).integers(0, 256, (2 * IMAGES, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "tiny.npz", images=images)
    return f"npz[path={tmp_path / 'tiny.npz'},test_share=0.5]"


@pytest.mark.parametrize("name", ["sliced_wasserstein", "energy_distance", "mmd"])
def test_sets_of_a_data_set_take_the_place_of_exact_draws(data: str, name: str) -> None:
    metric, stored = create("evaluators", f"{name}[reference={data}]"), create("datasets", data).load()
    samples = 2 * torch.rand(15, 1, 8, 8, generator=torch.Generator().manual_seed(1)) - 1
    (found,) = metric.evaluate(Evidence(samples, seed=3))
    reference = metric.truth(Evidence(samples, seed=3))
    sets = [reference.exact(which) for which in range(2)]
    as_seen = stored.float() / 127.5 - 1
    rows = [[int((as_seen - event).abs().flatten(1).sum(1).argmin()) for event in events] for events in sets]
    assert all(torch.allclose(as_seen[row], event) for row, event in zip(rows[0], sets[0], strict=True))
    assert len({*rows[0], *rows[1]}) == 30
    # The same metric against these events, wherever they come from.
    assert found.value == pytest.approx(metric.measure(samples.double(), reference).value)
    assert found.floor == pytest.approx(metric.measure(sets[1].double(), reference).value)


def test_a_data_set_that_is_too_small_for_a_floor_has_none(data: str) -> None:
    samples = torch.zeros(25, 1, 8, 8)
    (found,) = EnergyDistance(reference=create("datasets", data)).evaluate(Evidence(samples))
    assert found.floor is None


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (torch.zeros(41, 1, 8, 8), "the train split of the reference has 40 events, fewer than 41 samples: draw fewer"),
        (torch.zeros(5, 1, 9, 9), r"events of shape \(1, 8, 8\), the samples \(1, 9, 9\): choose another data set"),
        (torch.zeros(2, 1, 8, 8), "needs 4 samples or more, got 2"),
    ],
    ids=["few_events", "shape", "few_samples"],
)
def test_a_data_set_that_does_not_fit(data: str, samples: Tensor, words: str) -> None:
    metric = SlicedWasserstein(reference=create("datasets", data))
    with pytest.raises(ValueError, match=words):
        metric.evaluate(Evidence(samples))


def test_without_a_truth_the_reason_says_what_to_give() -> None:
    evidence = Evidence(torch.zeros(20, 1, 8, 8))
    assert "sliced_wasserstein[reference=mnist" in str(SlicedWasserstein().skip(evidence))
    assert "reference=mnist[root=data], or statistics=FILE" in str(
        create("evaluators", "frechet[features=identity]").skip(evidence)
    )


def test_a_missing_data_set_is_named_before_any_work() -> None:
    for name in ("sliced_wasserstein", "frechet"):
        features = "" if name == "sliced_wasserstein" else "features=identity,"
        with pytest.raises(FileError, match=r"MNIST is not in 'nowhere'.*mnist\[root=\.\.\.\]"):
            create("evaluators", f"{name}[{features}reference=mnist[root=nowhere]]").prepare()


def test_a_reference_is_given_once(data: str) -> None:
    with pytest.raises(UsageError, match="reference and statistics are both given"):
        create("evaluators", f"frechet[features=identity,reference={data},statistics=x]")


def test_the_moments_of_a_data_set_are_those_of_all_its_events(data: str) -> None:
    """And the floor is the other split."""
    dataset = create("datasets", data)
    metric = create("evaluators", f"frechet[features=identity,reference={data}]")
    samples = dataset.load("test").float()[:20] / 127.5 - 1
    found, _ = metric.evaluate(Evidence(samples))
    truth = FeatureMoments.of((dataset.load().float() / 127.5 - 1).flatten(1))
    assert found.value == pytest.approx(Centre(truth).distance(FeatureMoments.of(samples.flatten(1))), rel=1e-9)
    assert found.floor is not None
    assert found.floor == pytest.approx(found.value, rel=0.3)
    assert found.details["reference"]["events"] == IMAGES
    assert found.details["rounding"] is None


def test_the_networks_features_are_computed_once_for_all_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    load = Identity.load

    def counting(self, device):
        extract = load(self, device)
        return lambda x: (seen.append(len(x)), extract(x))[1]

    monkeypatch.setattr(Identity, "load", counting)
    extraction._loaded.cache_clear()
    target = GaussianTarget(shape=(3,))
    evidence = Evidence(target.sample(111, seed=1), target=target)
    for text in ("frechet[features=identity]", "kernel[features=identity]", "precision_recall[features=identity]"):
        create("evaluators", text).evaluate(evidence)
    extraction._loaded.cache_clear()
    assert seen.count(111) == 3  # samples, the reference's set and the floor's set


# --- The command and the bench ------------------------------------------------------------------------------------


def test_stats_writes_moments_and_features(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "s.safetensors"
    words = ["stats", data, "--features", "identity", "--raw", "--out", str(out), "--device", "cpu"]
    assert main(words) == 0
    assert f"frechet[features=identity,statistics={out}]" in capsys.readouterr().out
    assert main(["stats", "--show", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "moments of 40 events, 64 features" in shown
    assert "raw features: 40" in shown
    samples = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for name in ("frechet", "kernel", "precision_recall"):
        by_file = create("evaluators", f"{name}[features=identity,statistics={out}]")
        by_data = create("evaluators", f"{name}[features=identity,reference={data}]")
        found, expected = (metric.evaluate(Evidence(samples, seed=2))[0] for metric in (by_file, by_data))
        assert found.value == pytest.approx(expected.value, rel=1e-6)
    stamp = out.stat().st_mtime_ns
    assert main(words) == 0  # the same again is done already, anything else is not
    assert (f"{out} is the result of this command already" in capsys.readouterr().out, out.stat().st_mtime_ns) == (
        True,
        stamp,
    )
    assert main([*words, "--images", "30"]) == 3
    assert f"{out} exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["stats"], 2, "give either a data set or --show FILE"),
        (["stats", "mnist"], 2, "--out FILE is missing"),
        (["stats", "mnist", "--out", "x.npz"], 2, "--out x.npz must end in .safetensors"),
        (["stats", "mnist", "--out", "no/x.safetensors"], 3, "no to hold x.safetensors: make it first"),
        (["stats", "mnist", "--out", "x.safetensors", "--images", "1"], 2, "--images must be at least 2, got 1"),
        (["stats", "mnist", "--out", "x.safetensors", "--features", "inceptoin"], 2, "Did you mean 'inception'?"),
        (["stats", "cifar10", "--out", "x.safetensors", "--features", "mnist_classifier"], 2, "reads images of shape"),
        (
            ["stats", "--show", "x.safetensors"],
            3,
            "x.safetensors does not exist: make reference statistics with 'scoresde stats",
        ),
    ],
)
def test_stats_refuses(words, code, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == code
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_the_bench_writes_the_protocol_and_the_warning(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--target", "mnist_mfa", "--sde", "vp", "--predictor", "ddim", "--steps", "4", "--samples", "40"]
    words += ["--evaluator", "frechet[features=mnist_classifier,draws=200]", "moments", "--out", "here"]
    assert bench_main(words) == 0
    out = capsys.readouterr().out
    (row,) = (json.loads(line) for line in (tmp_path / "here" / "results.jsonl").read_text().splitlines())
    found = row["metrics"]["frechet_mnist_classifier"]
    assert found["details"]["features"]["sha256"]
    assert found["details"]["rounding"] == "nearest"
    assert found["details"]["samples"] == 40
    assert len(found["details"]["curve"]) == 5
    assert "details" not in row["metrics"]["moments"]
    assert ("warning: with 40 samples of 96 features" in out) == ("warning" in found["details"])


def test_the_bench_refuses_before_any_work(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert bench_main(["--target", "mnist_mfa", "--evaluator", "fid"]) == 3
    err = capsys.readouterr().err
    assert "the weights of InceptionV3 are not in" in err
    assert "inception[download=true]" in err
    assert not list(tmp_path.glob("scoresde-runs/*"))
