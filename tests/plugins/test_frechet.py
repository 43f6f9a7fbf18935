"""Frechet distances: closed forms, other implementations on the same features, moments in parts, extrapolation."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from scoresde_core.errors import FileError
from scoresde_core.registry import create
from scoresde_plugins.evaluators.frechet import Centre, FrechetDistance, extrapolate
from scoresde_plugins.evaluators.moments import gaussian_w2
from scoresde_plugins.evaluators.statistics_file import FeatureMoments, merged, read, write
from scoresde_plugins.extractors.identity import Identity
from scoresde_plugins.extractors.networks import MNISTClassifier
from scoresde_plugins.targets.gaussian import GaussianTarget
from scoresde_run.data.evidence import Evidence
from scoresde_run.machine.processes import Processes


def frechet_distance(first: FeatureMoments, second: FeatureMoments) -> float:
    return Centre(second).distance(first)


def features(n: int, dim: int, seed: int, scale: float = 1.0) -> Tensor:
    """Correlated, not centred, not negative, as features are."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99)) / math.sqrt(dim)
    return (scale * torch.randn(n, dim, generator=generator) @ mixing).relu() + 0.1


def known(mean: Tensor, covariance: Tensor) -> FeatureMoments:
    return FeatureMoments(None, mean.double(), covariance.double())


# --- The distance -------------------------------------------------------------------------------------------------


def test_gaussians_of_commuting_covariances() -> None:
    a, b = torch.tensor([4.0, 1.0, 0.25]), torch.tensor([1.0, 9.0, 0.0])
    basis = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    mean = torch.tensor([1.0, -2.0, 2.0])
    found = frechet_distance(known(mean, (basis * b) @ basis.T), known(torch.zeros(3), (basis * a) @ basis.T))
    assert found == pytest.approx(9 + (2 - 1) ** 2 + (1 - 3) ** 2 + 0.5**2, rel=1e-7)


@pytest.mark.parametrize("n", [500, 20], ids=["full_rank", "singular"])
def test_it_is_the_squared_distance_of_gaussian_w2(n: int) -> None:
    x, y = (FeatureMoments.of(features(n, 40, seed, scale)) for seed, scale in ((1, 1.0), (2, 1.4)))
    expected = gaussian_w2(x.mean, x.covariance, y.mean, y.covariance) ** 2
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-6)


def test_torch_fidelity_agrees() -> None:
    metric_fid = pytest.importorskip("torch_fidelity.metric_fid")
    x, y = features(900, 64, 1), features(700, 64, 2, 1.3)
    theirs = [metric_fid.fid_features_to_statistics(z.double()) for z in (x, y)]
    expected = metric_fid.fid_statistics_to_metric(*theirs, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(FeatureMoments.of(x), FeatureMoments.of(y)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_pytorch_fid_agrees() -> None:
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    x, y = features(900, 64, 1).double(), features(700, 64, 2, 1.3).double()
    theirs = [part for z in (x, y) for part in (z.mean(0).numpy(), np.cov(z.numpy(), rowvar=False))]
    expected = fid_score.calculate_frechet_distance(*theirs)
    assert frechet_distance(FeatureMoments.of(x), FeatureMoments.of(y)) == pytest.approx(expected, rel=1e-9)


def test_the_formula_with_scipys_root_agrees() -> None:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2) with the root of the product itself."""
    linalg = pytest.importorskip("scipy.linalg")
    x, y = features(900, 64, 1).double().numpy(), features(700, 64, 2, 1.3).double().numpy()
    s1, s2, off = np.cov(x, rowvar=False), np.cov(y, rowvar=False), x.mean(0) - y.mean(0)
    expected = off @ off + np.trace(s1 + s2 - 2 * linalg.sqrtm(s1 @ s2).real)
    found = frechet_distance(FeatureMoments.of(torch.from_numpy(x)), FeatureMoments.of(torch.from_numpy(y)))
    assert found == pytest.approx(float(expected), rel=1e-9)


# --- Moments ------------------------------------------------------------------------------------------------------


def test_parts_are_the_whole() -> None:
    """Even where the mean is a million times the spread, and parts are empty or single."""
    x = features(1000, 12, 3).double() + 1e6
    parts = [FeatureMoments.of(part) for part in x.split([0, 1, 37, 500, 462])]
    found = merged([FeatureMoments.none(12), *parts, FeatureMoments.none(12)])
    assert found.count == 1000
    torch.testing.assert_close(found.mean, x.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(found.covariance, x.T.cov(), rtol=1e-9, atol=1e-9)


def test_unknown_counts_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="unknown number"):
        known(torch.zeros(2), torch.eye(2)).merge(FeatureMoments.of(torch.zeros(3, 2)))


# --- Extrapolation ------------------------------------------------------------------------------------------------

DIM = 20


def distance_to(target: GaussianTarget, n: int, seed: int, scale: float = 1.0) -> list[float]:
    """Value and extrapolation of n draws of a scaled target, with their errors and the bias."""
    x = scale * target.sample(n, seed=seed)
    centre = Centre(known(*target.moments()))
    found = extrapolate([FeatureMoments.of(part) for part in x.tensor_split(5)], centre)
    return [found.finite.value, found.finite.stderr, found.infinity.value, found.infinity.stderr]


@pytest.fixture(scope="module")
def scaled() -> Tensor:
    """120 runs with 400 samples that are 1.3 times too wide: d^2 = 0.3^2 tr S at infinity."""
    target = GaussianTarget(shape=(DIM,))
    return torch.tensor([distance_to(target, 400, seed, 1.3) for seed in range(120)], dtype=torch.float64)


def test_the_extrapolation_removes_most_of_the_bias(scaled: Tensor) -> None:
    """The smallest size here has 4 samples a feature, where the bias has a part in 1 / n^2 as well."""
    truth, runs = 0.3**2 * DIM, math.sqrt(len(scaled))
    finite, infinity = scaled[:, 0], scaled[:, 2]
    assert finite.mean() - truth > 20 * finite.std() / runs
    assert abs(infinity.mean() - truth) < 0.2 * (finite.mean() - truth)


def test_the_errors_are_the_scatter_of_repeated_draws(scaled: Tensor) -> None:
    for value, error in ((0, 1), (2, 3)):
        assert float(scaled[:, error].square().mean().sqrt() / scaled[:, value].std()) == pytest.approx(1, abs=0.35)


def test_sizes_and_values_of_the_curve() -> None:
    x = features(100, 3, 1)
    parts, centre = [FeatureMoments.of(part) for part in x.split(20)], Centre(FeatureMoments.of(features(300, 3, 2)))
    found = extrapolate(parts, centre)
    assert found.sizes == (20, 40, 60, 80, 100)
    pairs = [centre.distance(FeatureMoments.of(x[start : start + 40])) for start in (0, 40)]
    assert found.values[1] == pytest.approx(sum(pairs) / 2, rel=1e-12)
    assert found.finite.value == pytest.approx(centre.distance(FeatureMoments.of(x)), rel=1e-12)
    # The line through the five points, by its normal equations.
    inverse = np.polyfit([1 / n for n in found.sizes], found.values, 1)
    assert found.infinity.value == pytest.approx(inverse[1], rel=1e-9)


# --- The evaluator ------------------------------------------------------------------------------------------------


def test_against_an_exact_target() -> None:
    """W2^2 of N(0, I) and N(0, 1.5^2 I) is D / 4; the floor is that of exact draws."""
    target = GaussianTarget(shape=(4,))
    evidence = Evidence(1.5 * target.sample(4000, seed=7), target=target)
    value, infinity = FrechetDistance(features=Identity()).evaluate(evidence)
    assert (value.name, infinity.name) == ("frechet_identity", "frechet_identity_infinity")
    assert abs(infinity.value - 1) < 4 * math.hypot(infinity.stderr, 0.01)
    assert value.floor is not None
    assert 0 < value.floor < 0.02
    assert value.details["samples"] == 4000
    assert value.details["features"] == {"extractor": "identity"}
    assert [n for n, _ in value.details["curve"]] == [800, 1600, 2400, 3200, 4000]


def test_too_few_samples_are_warned_about_with_the_size_of_the_bias() -> None:
    target = GaussianTarget(shape=(30,))
    metric = FrechetDistance(features=Identity())
    few = metric.evaluate(Evidence(target.sample(300, seed=7), target=target))
    bias = few[0].value - few[1].value
    assert f"300 samples of 30 features frechet_identity is about {bias:.3g} too high" in few[0].details["warning"]
    fewer = metric.evaluate(Evidence(target.sample(299, seed=7), target=target))
    assert fewer[1].details["warning"].startswith("59 samples per range are too few for 30 features: frechet_identity_")
    many = metric.evaluate(Evidence(3 * target.sample(300, seed=7), target=target))
    assert "warning" not in many[0].details
    assert "warning" not in few[1].details


def test_features_that_are_not_kept_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    target = GaussianTarget(shape=(4,))
    values = []
    for limit in (2**30, 1000):
        monkeypatch.setattr("scoresde_plugins.evaluators.feature_metric.HELD_BYTES", limit)
        evidence = Evidence(1.5 * target.sample(600, seed=7), target=target)
        metric = FrechetDistance(features=Identity(), batch_size=100)
        values.append([metric.evaluate(evidence)[0].value for _ in range(2)])
    assert len({value for pair in values for value in pair}) == 1


def test_batches_of_any_size_give_the_same() -> None:
    target = GaussianTarget(shape=(4,))
    evidence = Evidence(1.5 * target.sample(601, seed=7), target=target)
    found = [FrechetDistance(features=Identity(), batch_size=size).evaluate(evidence)[0] for size in (7, 601)]
    assert found[0].value == pytest.approx(found[1].value, rel=1e-9)
    assert found[0].stderr == pytest.approx(found[1].stderr, rel=1e-9)


# --- Processes ----------------------------------------------------------------------------------------------------

SHARE = """
import json, sys, torch
from scoresde_run.data.evidence import Evidence
from scoresde_run.machine.processes import joined
from scoresde_core.registry import create

with joined("cpu") as processes:
    torch.set_num_threads(1)
    target = create("targets", "gaussian[shape=[1,6,6],std=0.4,decay=1]")
    samples = (1.3 * target.sample(310, seed=5)).clamp(-1, 1)
    own = samples[:190] if processes.first else samples[190:]
    evidence = Evidence(own if processes.count > 1 else samples, target=target, processes=processes)
    found = {}
    for text in sys.argv[1:]:
        for metric in create("evaluators", text).evaluate(evidence):
            found[metric.name] = [metric.value, metric.stderr, metric.floor]
    if processes.first:
        print(json.dumps(found))
"""


def test_two_processes_are_one(tmp_path: Path) -> None:
    (tmp_path / "share.py").write_text(SHARE)
    texts = ["frechet[features=identity]", "kernel[features=identity]", "precision_recall[features=identity]"]
    texts += ["sliced_wasserstein[projections=16]", "mmd", "moments", "frechet[features=identity,reference=exact["
              "target=gaussian[shape=[1,6,6],std=0.4],count=600,test_count=400]]"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    start = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    found = []
    for options in ([], start):
        command = [sys.executable, *options, "share.py", *texts]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.strip().splitlines()[-1]))
    assert set(found[0]) == set(found[1])
    for name, values in found[0].items():
        assert found[1][name] == pytest.approx(values, rel=1e-7, abs=1e-9), name


def test_one_process_reduces_nothing() -> None:
    moments = FeatureMoments.of(features(10, 3, 1))
    assert moments.over(Processes(torch.device("cpu"))) is moments
    assert moments.over(None) is moments


# --- Files --------------------------------------------------------------------------------------------------------


def test_a_file_holds_what_was_written(tmp_path: Path) -> None:
    x = features(50, 5, 1)
    report = {"dataset": "those", "protocol": {"extractor": "identity"}}
    write(tmp_path / "s.safetensors", FeatureMoments.of(x), x, report)
    found = read(tmp_path / "s.safetensors")
    assert found.moments.count == 50
    torch.testing.assert_close(found.moments.covariance, x.double().T.cov(), rtol=1e-12, atol=0)
    assert found.features is not None
    assert torch.equal(found.features, x)
    assert dict(found.report) == report
    found.check(Identity().protocol())
    with pytest.raises(FileError, match=r"was made by identity, and these features are mnist_classifier \(sha256"):
        found.check(MNISTClassifier().protocol())


def test_both_published_formats_are_read(tmp_path: Path) -> None:
    x = features(300, 4, 1).double()
    np.savez(tmp_path / "fid.npz", mu=x.mean(0).numpy(), sigma=x.T.cov().numpy())
    np.savez(tmp_path / "stats.npz", pool_3=x.float().numpy())
    target = GaussianTarget(shape=(4,))
    evidence = Evidence(target.sample(200, seed=1), seed=3)
    values = []
    for name in ("fid.npz", "stats.npz"):
        metric = FrechetDistance(features=Identity(), statistics=str(tmp_path / name))
        value, _ = metric.evaluate(evidence)
        assert value.floor is None
        assert value.details["reference"]["format"] in ("mu, sigma", "pool_3")
        assert len(value.details["reference"]["sha256"]) == 64
        values.append(value.value)
    for kind in ("frechet", "kernel", "precision_recall"):
        metric = create("evaluators", f"{kind}[features=identity,statistics={tmp_path / 'stats.npz'}]")
        with pytest.raises(FileError, match=r"stats\.npz has 4 features per event, identity gives 3"):
            metric.evaluate(Evidence(torch.zeros(20, 3)))
    expected = frechet_distance(FeatureMoments.of(evidence.samples), FeatureMoments.of(x))
    assert values == pytest.approx([expected] * 2, rel=1e-6)
    with pytest.raises(FileError, match=r"has moments only.*scoresde stats DATASET --raw"):
        read(tmp_path / "fid.npz").rows(2, 0)
    with pytest.raises(FileError, match="300 features, fewer than 301 samples"):
        read(tmp_path / "stats.npz").rows(301, 0)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.safetensors", None, "does not exist.*scoresde stats DATASET"),
        ("broken.safetensors", b"nothing", "damaged, or not a file of statistics"),
        ("broken.npz", b"nothing", "damaged, or not a file of statistics"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FileError, match=words):
        FrechetDistance(features=Identity(), statistics=str(tmp_path / name)).prepare()


def test_a_newer_or_foreign_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for name, metadata in (("new", {"format": "scoresde.statistics", "version": "9"}), ("odd", {"format": "x"})):
        save_file({"mean": torch.zeros(2)}, tmp_path / f"{name}.safetensors", metadata)
    with pytest.raises(FileError, match="format version 9, this release reads up to 1: update scoresde"):
        read(tmp_path / "new.safetensors")
    with pytest.raises(FileError, match="its format is 'x'"):
        read(tmp_path / "odd.safetensors")
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    with pytest.raises(FileError, match="it has images, but neither mu and sigma nor feats or pool_3"):
        read(tmp_path / "other.npz")


def eigen(*values: float) -> np.ndarray:
    """A symmetric matrix with these eigenvalues and no zeros."""
    basis = np.linalg.qr(np.random.default_rng(3).normal(size=(len(values),) * 2))[0]
    return (basis * np.array(values)) @ basis.T


def skewed() -> np.ndarray:
    matrix = eigen(1, 2, 3)
    matrix[0, 1] += 0.1
    return matrix


ZERO, NAN = np.zeros(3), float("nan")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"mu": np.array([0, NAN, NAN]), "sigma": eigen(1, 2, 3)}, "2 of the 3 numbers of mu are not finite"),
        ({"mu": ZERO, "sigma": np.full((3, 3), np.inf)}, "9 of the 9 numbers of sigma are not finite"),
        ({"mu": ZERO, "sigma": skewed()}, "sigma is not symmetric: entries differ by 0.1, the largest is"),
        (
            {"mu": ZERO, "sigma": eigen(-0.01, 2, 3)},
            "sigma has the negative eigenvalue -0.01, so it is not",
        ),
        ({"mu": ZERO, "sigma": -eigen(1, 2, 3)}, "sigma has the negative eigenvalue -3,"),
        ({"mu": ZERO, "sigma": eigen(1, 2)}, r"mu has shape \(3,\), sigma \(2, 2\), not \(D,\) and \(D, D\)"),
        ({"mu": np.zeros((3, 1)), "sigma": eigen(1, 2, 3)}, r"mu has shape \(3, 1\)"),
        ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, r"mu has shape \(0,\)"),
        ({"mu": ZERO, "sigma": eigen(1, 2, 3).astype(complex)}, "ValueError: sigma has dtype complex128"),
        ({"mu": ZERO.astype(int), "sigma": eigen(1, 2, 3)}, "mu has dtype int64"),
        ({"mu": np.array([None] * 3), "sigma": eigen(1, 2, 3)}, "ValueError: mu has dtype object, not numbers"),
        ({"mu": ZERO}, "it has mu, but neither mu and sigma nor feats"),
        ({"feats": np.full((20, 3), NAN)}, "60 of the 60 numbers of feats are not finite"),
        ({"feats": np.zeros(3)}, r"feats has shape \(3,\), not \(N, D\)"),
        ({"feats": np.zeros((1, 3))}, r"feats has shape \(1, 3\)"),
        ({"feats": np.zeros((9, 3), int)}, "feats has dtype int64"),
        ({"pool_3": np.full((20, 3), 1e300)}, "60 of the 60 numbers of pool_3 are not finite"),
        ({"mu": ZERO, "sigma": eigen(1, 2, 3), "feats": np.ones((9, 2))}, "feats has 2 features per event, mu 3"),
    ],
)
def test_numbers_that_are_no_statistics_are_one_line(tmp_path: Path, arrays, words: str) -> None:
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(FileError, match=rf"s\.npz is damaged, or not a file of statistics \({words}") as caught:
        FrechetDistance(features=Identity(), statistics=str(tmp_path / "s.npz")).prepare()
    assert "\n" not in str(caught.value)


def test_rounding_of_a_singular_covariance_is_no_fault(tmp_path: Path) -> None:
    for number, sigma in enumerate((eigen(0, 2, 3), eigen(-1e-7, 2, 3), np.zeros((3, 3)), eigen(1, 2, 3))):
        for dtype in (np.float32, np.float64):
            path = tmp_path / f"{number}_{dtype.__name__}.npz"
            np.savez(path, mu=ZERO.astype(dtype), sigma=sigma.astype(dtype))
            torch.testing.assert_close(read(path).moments.covariance, torch.from_numpy(sigma), rtol=0, atol=1e-6)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_flipped_byte_is_harmless_or_one_line(tmp_path: Path, save) -> None:
    path, sigma = tmp_path / "s.npz", eigen(1, 2, 3)
    save(path, mu=ZERO + 1, sigma=sigma)
    content = path.read_bytes()
    refused = []
    for place in range(0, len(content), 2):
        damaged = bytearray(content)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        os.utime(path, ns=(place, place))
        try:
            found = read(path).moments
        except FileError as error:
            refused.append(str(error))
        else:
            assert torch.equal(found.mean, torch.ones(3).double())
            assert torch.equal(found.m2, torch.from_numpy(sigma))
    assert len(refused) > len(content) / 4
    assert all(str(path) in line and "\n" not in line for line in refused)


@pytest.mark.parametrize("size", [0, 100, 500])
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_file_that_was_cut_is_one_line(tmp_path: Path, suffix: str, size: int) -> None:
    path, x = tmp_path / f"s.{suffix}", features(50, 5, 1)
    if suffix == "npz":
        np.savez(path, mu=x.mean(0).numpy(), sigma=x.T.cov().numpy())
    else:
        write(path, FeatureMoments.of(x), x, {})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(FileError, match=rf"s\.{suffix} is damaged" + (r".*\(it is empty\)" if size == 0 else "")):
        read(path)


def test_a_flipped_bit_of_our_own_file_is_noticed(tmp_path: Path) -> None:
    path, x = tmp_path / "s.safetensors", features(50, 5, 1)
    write(path, FeatureMoments.of(x), x, {"dataset": "those"})
    content = path.read_bytes()
    for place in (-1, -500, content.index(b"those")):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        os.utime(path, ns=(abs(place), 1))
        with pytest.raises(FileError, match="its digest does not match its content"):
            read(path)
    path.write_bytes(content)
    assert read(path).report == {"dataset": "those"}


def test_features_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    x = features(50, 5, 1)
    x[3] = NAN
    with pytest.raises(FileError, match=r"cannot write .*: 5 of the 5 numbers of mean are not finite"):
        write(tmp_path / "s.safetensors", FeatureMoments.of(x), x, {})
    assert not list(tmp_path.iterdir())


def test_feats_of_clean_fid_are_features(tmp_path: Path) -> None:
    x = features(300, 4, 1)
    np.savez_compressed(tmp_path / "those_kid.npz", feats=x.numpy())
    np.savez(tmp_path / "stats.npz", pool_3=x.numpy())
    evidence = Evidence(features(200, 4, 2), seed=3)
    for kind in ("frechet", "kernel", "precision_recall"):
        published, ours = (
            create("evaluators", f"{kind}[features=identity,statistics={tmp_path / name}]").evaluate(evidence)
            for name in ("stats.npz", "those_kid.npz")
        )
        assert [metric.value for metric in ours] == [metric.value for metric in published]
        assert ours[0].details["reference"]["format"] == "feats"
    torch.testing.assert_close(read(tmp_path / "those_kid.npz").moments.covariance, x.double().T.cov())
    np.savez(tmp_path / "both.npz", mu=ZERO, sigma=eigen(1, 2, 3), feats=np.ones((9, 3), np.float32))
    both = read(tmp_path / "both.npz")
    assert both.rows(9, 0).shape == (9, 3)
    torch.testing.assert_close(both.moments.covariance, torch.from_numpy(eigen(1, 2, 3)))


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path, evidence = tmp_path / "s.npz", Evidence(features(50, 3, 2), seed=3)
    values, hashes = set(), set()
    for number in (1.0, 2.0):
        np.savez(path, mu=ZERO + number, sigma=eigen(1, 2, 3))
        os.utime(path, (number, number))
        metric = FrechetDistance(features=Identity(), statistics=str(path)).evaluate(evidence)[0]
        values.add(metric.value)
        hashes.add(metric.details["reference"]["sha256"])
    assert len(values) == len(hashes) == 2
