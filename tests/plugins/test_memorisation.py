"""Copies of training events: brute force, planted copies, and both commands."""

import json
import math

import numpy as np
import pytest
import torch
from scoresde_bench.cli import main as bench_main
from scoresde_core import create
from scoresde_plugins.evaluators import memorisation
from scoresde_plugins.evaluators.comparison import Origin
from scoresde_run.commands.shell import main
from scoresde_run.data.evidence import Evidence

LAW = "gaussian[shape=[12]]"


def judged(x, data, seed=0, **more):
    return create("evaluators", "memorisation", data=create("datasets", data), **more).evaluate(Evidence(x, seed=seed))


@pytest.mark.parametrize("counts", [(900, 900), (3000, 1000)])
@pytest.mark.parametrize("planted", [0.0, 0.3, 1.0])
def test_the_share_of_copies_is_found(counts, planted):
    """Whatever the sizes of the splits; of 600 samples ``planted`` are training events with a little noise."""
    data = f"exact[target={LAW},count={counts[0]},test_count={counts[1]}]"
    x, copies = create("targets", LAW).sample(600, seed=77), round(600 * planted)
    x[:copies] = create("datasets", data).load("train")[:copies] + 0.01 * torch.randn(copies, 12)
    memorised, close = judged(x, data)
    assert abs(memorised.value - planted) < 4 * memorised.stderr
    assert memorised.stderr < 0.12
    assert close.value == pytest.approx(planted, abs=0.01)
    if counts[1] < 1200:
        assert memorised.floor is None
    assert (memorised.name, close.name, memorised.better) == ("memorised", "copies", "lower")
    assert memorised.details["training"] == counts[0]


def by_hand(x, train, rest, ratio):
    """Values, errors and degrees of freedom of both metrics, sample by sample."""
    n, chance = len(x), len(train) / (len(train) + len(rest))
    events, gaps = torch.cat([train, rest]), torch.cdist(x, torch.cat([train, rest]))
    nearest, own = gaps.argmin(1).tolist(), gaps[:, : len(train)]
    two = own.sort(1)
    assert len(events) == gaps.shape[1]
    found = []
    for hits, group, scale in (
        ([k < len(train) for k in nearest], nearest, 1 - chance),
        ((two.values[:, 0] < ratio * two.values[:, 1]).tolist(), two.indices[:, 0].tolist(), 1.0),
    ):
        share = sum(hits) / n
        sums = {k: sum(hit - share for hit, of in zip(hits, group, strict=True) if of == k) for k in set(group)}
        error = math.sqrt(sum(v**2 for v in sums.values()) * len(sums) / (len(sums) - 1)) / n
        found.append(((share - (1 - scale)) / scale, error / scale, len(sums) - 1))
    return found


@pytest.mark.parametrize("block", [2048, 7])
def test_it_is_the_count_by_brute_force(block, monkeypatch):
    """Samples that share a nearest event count as one piece; the floor's events are not among the held-out ones."""
    monkeypatch.setattr(memorisation, "_ROWS", block)
    data = "exact[target=gaussian[shape=[2]],count=50,test_count=130]"
    train, test = (create("datasets", data).load(split).double() for split in ("train", "test"))
    x = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = judged(x, data, seed=5, ratio=0.5)
    fresh = Origin(create("datasets", data), "test").reference(40, 5, "cpu").rows(0)
    rest = test[[k for k in range(130) if k not in set(fresh.tolist())]]
    assert [found[0].details[k] for k in ("training", "held_out", "chance")] == [50, 90, pytest.approx(50 / 140)]
    values, floors = (by_hand(points, train, rest, 0.5) for points in (x, test[fresh]))
    for metric, value, floor in zip(found, values, floors, strict=True):
        assert (metric.value, metric.stderr, metric.df) == pytest.approx(value)
        assert (metric.floor, metric.floor_stderr, metric.floor_df) == pytest.approx(floor)


def test_a_share_of_nothing_has_an_error():
    x = torch.randn(50, 12, generator=torch.Generator().manual_seed(1))
    _, close = judged(x, f"exact[target={LAW},count=400,test_count=20]")
    assert (close.value, close.stderr) == (0.0, 1 / 50)


def test_other_shapes_are_refused():
    judge = create("evaluators", "memorisation", data=create("datasets", "exact[target=mixture2d]"))
    assert "has events of shape (2,), the samples (3,)" in judge.skip(Evidence(torch.zeros(4, 3)))
    alone = create("evaluators", "memorisation")
    assert alone.skip(Evidence(torch.zeros(4, 2))) == (
        "Memorisation needs the data set of the model: memorisation[data=mnist[root=data]]"
    )
    alone.prepare()
    with pytest.raises(ValueError, match="take another"):
        judge.evaluate(Evidence(torch.zeros(4, 3)))


@pytest.fixture
def digits(tmp_path):
    """Images of noise in two files."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 60, 8, 8), dtype=np.uint8)
    for name, values in zip(("seen", "unseen"), pixels, strict=True):
        np.save(tmp_path / f"{name}.npy", values)
    return f"array[path={tmp_path}/seen.npy,test={tmp_path}/unseen.npy]"


def test_the_bench_finds_that_the_score_of_a_data_set_copies_it(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--target", f"empirical[dataset={digits}]", "--sde", "vp", "--predictor", "ddim", "--steps", "20"]
    words += ["--samples", "20", "--evaluator", f"memorisation[data={digits}]", "nll_gap", "moments", "--out", "here"]
    assert bench_main(words) == 0
    (row,) = (json.loads(line) for line in (tmp_path / "here" / "results.jsonl").read_text().splitlines())
    assert row["metrics"]["memorised"]["value"] == row["metrics"]["copies"]["value"] == 1
    assert row["metrics"]["memorised"]["floor"] < 0.9
    assert "nll_gap" not in row["metrics"]
    assert row["metrics"]["moments"]["value"] > 0


def test_evaluate_judges_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = "exact[target=gaussian[shape=[1,28,28]],count=30,test_count=40]"
    words = ["evaluate", "mnist_vp", "--samples", "4", "--sampler", "pc[predictor=ddim,steps=2]", "--device", "cpu"]
    assert main([*words, "--evaluator", f"memorisation[data={data}]", "--out", "judged"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "judged" / "results.jsonl").read_text().splitlines()]
    found = {name: metric for row in rows for name, metric in row["metrics"].items()}
    assert found["memorised"]["details"] == {"training": 30, "held_out": 36, "chance": pytest.approx(30 / 66)}
