"""Tuned grids: the search against brute force and finite differences, files, the command, published lists."""

import itertools
import json
import math

import attrs
import numpy as np
import pytest
import torch
from scoresde_core import SDE, ExactScore, GaussianPrior, create, default_registry, sample, skip
from scoresde_core.errors import FileError
from scoresde_plugins.few_steps import grid_file, grid_search, tuned
from scoresde_run import Fingerprint
from scoresde_run.commands.shell import main

TARGET = "gaussian[shape=[2],mean=[0.5,-1.0],std=[0.2,1.5]]"
DOUBLE = torch.zeros(0, dtype=torch.float64)
FIXED = ("uniform", "quadratic", "logsnr", "karras", "ays[model=sd15]", "ays[model=sdxl]", "ays[model=svd]")


WRONG = [{"times": [1.0, 0.5, 0.0], "levels": [0.0], "weights": [[1.0]]}]  # one row for two steps
EMPTY = [{"times": [1.0, 0.5, 0.0], "levels": [0.0], "weights": [[1.0], []]}]


class Bisected(SDE):
    """A variance-exploding path whose times are found by bisection."""

    t_min = 1e-3

    def alpha(self, t):
        return torch.ones_like(t)

    def sigma(self, t):
        return 3 * t.square() + 0.01 * t

    @property
    def prior(self):
        return GaussianPrior(std=3.01)


def exact(sde="vp", target=TARGET):
    sde = create("sdes", sde) if isinstance(sde, str) else sde
    return ExactScore(create("targets", target).to("cpu", torch.float64), sde)


def problem(predictor, sde="vp", n=16, first=0):
    return grid_search.Problem.draw(exact(sde), create("predictors", predictor), n, 0, first, DOUBLE)


def end_of_flow(x, sde, mean, std):
    """Where the flow of a Gaussian from ``x`` at t_max is at t_min, denoised: an affine map, written by hand."""
    first, last = (sde.float_level(t) for t in (sde.t_max, sde.t_min))
    spread = [math.sqrt(level.alpha**2 * std**2 + level.sigma**2) for level in (first, last)]
    at = last.alpha * mean + spread[1] / spread[0] * (x - first.alpha * mean)
    return mean + last.alpha * std**2 / spread[1] ** 2 * (at - last.alpha * mean)


@pytest.mark.parametrize("sde", ["vp", "ve", "cosine"])
def test_a_problem_ends_where_the_exact_flow_does(sde):
    found = problem("ddim", sde)
    for k, (mean, std) in enumerate(((0.5, 0.2), (-1.0, 1.5))):
        if sde == "cosine":  # no signal at the start: E[x_0 | x] is the mean
            continue
        expected = end_of_flow(found.x[:, k], found.model.sde, mean, std)
        torch.testing.assert_close(found.ends[:, k], expected, atol=2e-3, rtol=0)
    assert bool(found.ends.isfinite().all())


@pytest.mark.parametrize("sde", ["vp", "ve", "subvp", "cosine", pytest.param(Bisected(), id="bisected")])
@pytest.mark.parametrize(
    "predictor", ["ddim", "dpmpp_2m", "dpmpp_3m", "unipc", "deis", "ipndm", "heun", "dpm_solver_2"]
)
def test_the_gradient_is_that_of_finite_differences(predictor, sde):
    found = problem(predictor, sde, n=4)
    logits = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64, requires_grad=True)
    loss = found.loss(logits)
    (gradient,) = torch.autograd.grad(loss, logits)
    plain = found.error(grid_search.times_of(logits.detach(), found.model.sde)).value
    assert float(loss.detach()) == pytest.approx(plain, rel=1e-9)
    for k in range(4):
        moved = [logits.detach() + h * torch.eye(4, dtype=torch.float64)[k] for h in (1e-5, -1e-5)]
        up, down = (found.error(grid_search.times_of(each, found.model.sde)).value for each in moved)
        assert float(gradient[k]) == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("sde", ["vp", "ve", "cosine"])
def test_shares_and_times_are_inverse_to_each_other(sde):
    sde = create("sdes", sde)
    times = create("grids", "quadratic").times(sde, 7)[[0, 1, 2, 3, 4, 5, 7]]
    again = grid_search.times_of(grid_search.logits_of(times, sde), sde)
    torch.testing.assert_close(again, times, atol=1e-9, rtol=1e-9)
    assert [float(again[k]) for k in (0, -1)] == [sde.t_max, 0]


def test_a_share_of_nearly_nothing_becomes_one_that_can_grow():
    sde = create("sdes", "ve")
    first, last = sde.log_noise_ratio(torch.tensor([1.0, sde.t_min], dtype=torch.float64))
    near = sde.time_at(first + (last - first) * torch.tensor([0.3, 0.3 + 1e-9, 0.6], dtype=torch.float64))
    times = torch.cat([torch.ones(1), near, torch.zeros(1)]).double()
    shares = grid_search.logits_of(times, sde).softmax(0)
    assert shares.tolist() == pytest.approx([0.3 / 1.01, 0.01 / 1.01, 0.3 / 1.01, 0.4 / 1.01], rel=1e-6)


@pytest.mark.parametrize(("predictor", "share"), [("ddim", 1.0), ("dpmpp_2m", 0.9), ("ipndm", 0.9)])
def test_a_tuned_grid_is_better_on_other_noises_than_every_fixed_one(predictor, share):
    """Of a Gaussian, whose flow is known: the ends are compared with the closed form."""
    own, other = problem(predictor), problem(predictor, n=64, first=16)
    sde = other.model.sde
    ends = [end_of_flow(other.x[:, k], sde, *law) for k, law in enumerate(((0.5, 0.2), (-1.0, 1.5)))]

    def error(times):
        steps = grid_search.Schedule(sde, times, other.x).steps
        end = grid_search.walk(other.predictor, other.model, steps, other.x)[-1]
        return float((end - torch.stack(ends, 1)).square().mean(1).sqrt().mean())

    fixed = [create("grids", name).times(sde, 5) for name in FIXED]
    start = min(fixed, key=lambda times: own.error(times).value)
    tuned = grid_search.gradient(own, [start], lambda _: None)[0]
    assert error(tuned) < share * min(map(error, fixed))
    assert own.error(tuned).value < own.error(start).value


@pytest.mark.parametrize("sde", ["vp", "subvp", "cosine"])
@pytest.mark.parametrize("predictor", ["ipndm", "deis[variant=rhoab,max_order=4]"])
def test_the_weights_of_a_predictor_make_its_steps(predictor, sde):
    found = problem(predictor, sde, n=4)
    times = create("grids", "logsnr").times(found.model.sde, 7)
    rows = tuned.rows_of(found.predictor, grid_search.Schedule(found.model.sde, times).steps)
    same = attrs.evolve(found, predictor=tuned.Weighted(rows))
    assert same.measured(times) == pytest.approx(found.measured(times), rel=1e-9)


def test_tuned_weights_are_better_on_other_noises_than_tuned_times_alone(monkeypatch):
    """Under VE and of a mixture, whose flow is not linear."""
    monkeypatch.setattr(grid_search, "MORE", 40)
    sde, law = "ve", "mixture2d"
    score = exact(sde, law)
    own, other = (
        grid_search.Problem.draw(score, create("predictors", "ipndm"), 32, 0, k, DOUBLE, "law") for k in (0, 32)
    )
    start = create("grids", "karras").times(own.model.sde, 5)
    times, _ = grid_search.gradient(own, [start], lambda _: None)
    both, weighted = grid_search.weights(own, [start], lambda _: None)
    assert attrs.evolve(other, predictor=weighted).error(both).value < 0.7 * other.error(times).value
    assert [len(row) for row in weighted.rows] == [1, 2, 3, 4, 5]


def test_the_error_of_the_law_is_an_energy_distance_with_the_error_of_a_jackknife():
    found = grid_search.Problem.draw(exact(), create("predictors", "ddim"), 24, 0, 0, DOUBLE, "law")
    steps = grid_search.Schedule(found.model.sde, create("grids", "logsnr").times(found.model.sde, 3), found.x).steps
    x, y = grid_search.walk(found.predictor, found.model, steps, found.x)[-1].numpy(), found.ends.numpy()

    def law(kept):
        pairs = list(itertools.permutations(kept, 2))
        energy = sum(2 * math.dist(x[i], y[j]) - math.dist(x[i], x[j]) - math.dist(y[i], y[j]) for i, j in pairs)
        return energy / len(pairs) + ((x[kept] - y[kept]) ** 2).mean()

    every = list(range(24))
    left = [law([k for k in every if k != i]) for i in every]
    stated = found.error(create("grids", "logsnr").times(found.model.sde, 3))
    assert stated.value == pytest.approx(law(every), rel=1e-9)
    assert stated.stderr == pytest.approx(math.sqrt(23) * np.std(left), rel=0.1)


def test_the_error_of_the_density_adds_the_squared_gap_of_the_mean_log_density():
    """With the density and entropy of the Gaussian written out, for ends of few steps, and a jackknife."""
    given, times = (exact(), create("predictors", "ddim"), 200, 0, 0, DOUBLE), torch.tensor([1.0, 0.3, 0.1, 0.0])
    law, density = (grid_search.Problem.draw(*given, match) for match in ("law", "density"))
    steps = grid_search.Schedule(law.model.sde, times, law.x).steps
    x = grid_search.walk(law.predictor, law.model, steps, law.x)[-1].numpy()
    std = np.array([0.2, 1.5])
    surprise, fine = (
        (((ends - [0.5, -1.0]) / std) ** 2).sum(1) / 2 + np.log(2 * math.pi * std.prod())
        for ends in (x, law.ends.numpy())
    )
    entropy = 1 + np.log(2 * math.pi * std.prod())
    gap = surprise - entropy - (law.x.numpy() ** 2).sum(1) / 2 + 1  # the prior of vp is N(0, 1)
    parts = np.array(density.measured(times)) - law.measured(times)
    assert parts.mean() == pytest.approx(gap.mean() ** 2, rel=1e-6)
    left = [np.delete(gap, k).mean() ** 2 for k in range(200)]
    assert parts.std(ddof=1) / math.sqrt(200) == pytest.approx(math.sqrt(199) * np.std(left), rel=0.02)
    assert (fine - density.typical.numpy()).std() < 0.1 * fine.std()  # the noise tells most of the spread


def test_weights_that_match_the_density_have_typical_samples(monkeypatch):
    """Those that match the law alone leave samples too narrow, or too wide, along the narrow axis."""
    monkeypatch.setattr(grid_search, "MORE", 40)
    given = (
        exact("vp", "gaussian[shape=[8],std=[0.01,0.01,0.01,0.01,0.01,0.01,0.01,1.0]]"),
        create("predictors", "ipndm"),
    )
    start, gaps = create("grids", "karras").times(given[0].sde, 4), {}
    other = grid_search.Problem.draw(*given, 500, 0, 500, DOUBLE, "density")
    times = weighted = None
    for match in ("law", "density"):
        own = grid_search.Problem.draw(*given, 64, 0, 0, DOUBLE, match)
        rows = (
            weighted.rows
            if weighted
            else tuned.rows_of(own.predictor, grid_search.Schedule(own.model.sde, start).steps)
        )
        _, times, weighted = grid_search.weighted(own, (start if times is None else times, rows), lambda _: None)
        end = grid_search.walk(weighted, other.model, grid_search.Schedule(own.model.sde, times).steps, other.x)[-1]
        gaps[match] = float((-other.model.target.log_prob(end) - other.typical).mean())
    assert abs(gaps["law"]) > 0.3
    assert abs(gaps["density"]) < 0.05


@pytest.mark.parametrize(
    ("there", "here"), [("vp", "edm"), ("ve[sigma_max=200]", "subvp"), ("cosine", "rectified_flow")]
)
def test_times_and_weights_go_over_to_another_process(there, here):
    """From the same state in sigma / alpha they end alike: the flow of an exact score is one in other scales."""
    ends = []
    for name in (there, here):
        score = exact(name).framed()
        if name == there:
            times = create("grids", "karras").times(score.sde, 6)
            levels = score.sde.log_noise_ratio(times[1:-1])
            rows = tuned.rows_of(create("predictors", "ipndm"), grid_search.Schedule(score.sde, times).steps)
        times = grid_search.times_at(levels, score.sde)
        torch.testing.assert_close(score.sde.log_noise_ratio(times[1:-1]), levels, atol=1e-9, rtol=0)
        assert [float(times[k]) for k in (0, -1)] == [score.sde.t_max, 0]
        steps = grid_search.Schedule(score.sde, times).steps
        x = torch.tensor([[0.3, -0.4], [1.0, 2.0]]).double() * steps[1].now.sigma + steps[1].now.alpha
        ends.append(
            grid_search.walk(
                tuned.Weighted([[], *(row[: k + 1] for k, row in enumerate(rows[1:]))]), score, steps[1:], x
            )[-1]
        )
    torch.testing.assert_close(*ends, atol=1e-9, rtol=0)


@pytest.mark.parametrize("sde", ["vp", "ve"])
def test_levels_beyond_the_ends_of_a_process_are_at_its_ends(sde):
    sde = create("sdes", sde)
    times = grid_search.times_at(torch.tensor([9.0, 1.0, -99.0], dtype=torch.float64), sde)
    assert times[[1, 3]].tolist() == pytest.approx([sde.t_max, sde.t_min], rel=1e-6)


def test_a_search_that_stops_begins_anew_while_that_gains(monkeypatch):
    """The optimiser gives up after one step of descent, which gains 36 % and, at the end, nothing."""

    class OneStep:
        def __init__(self, values, max_eval, **_):
            self.values = values

        def step(self, closure):
            closure()
            for each in self.values:
                each.data -= 0.1 * each.grad
            closure()

    def loss(v):
        return v.square().sum().clamp_min(0.125)

    monkeypatch.setattr(torch.optim, "LBFGS", OneStep)
    one, told = torch.ones(1, dtype=torch.float64), []
    error, (found,) = grid_search.descend(loss, [one], 20, told.append)
    assert told == pytest.approx(
        [1, 0.64, 0.64, 0.64**2, 0.64**2, 0.64**3, 0.64**3, 0.64**4, 0.64**4, 0.125, 0.125, 0.125]
    )
    assert error == 0.125
    assert float(found) == pytest.approx(0.8**5)
    told.clear()
    assert grid_search.descend(loss, [one], 4, told.append)[0] == pytest.approx(0.64**2)
    assert len(told) == 4


def test_the_start_is_kept_where_no_times_are_better(monkeypatch):
    found = problem("dpmpp_2m")
    start = create("grids", "karras").times(found.model.sde, 5)
    monkeypatch.setattr(grid_search.Problem, "loss", lambda self, logits: (logits * 0).sum() + 99.0)
    told = []
    assert grid_search.gradient(found, [start], told.append)[0] is start
    assert set(told) == {99.0}


def test_the_shortest_path_is_that_of_all_subsets():
    generator = torch.Generator().manual_seed(3)
    for hops in range(1, 7):
        cost = torch.rand(8, 8, generator=generator, dtype=torch.float64).triu(1)
        cost[cost == 0] = math.inf
        paths = [(0, *inner, 7) for inner in itertools.combinations(range(1, 7), hops - 1)]
        best = min(paths, key=lambda path: sum(float(cost[i, j]) for i, j in itertools.pairwise(path)))
        assert grid_search.shortest(cost, hops) == [*best]


def test_a_cost_is_the_error_of_one_step_from_the_flow():
    found = problem("ddim")
    sde = found.model.sde
    times = create("grids", "logsnr").times(sde, 6)[:-1]
    states = grid_search.solved(found.model, times, found.x)
    cost = grid_search.costs(found.model, times, states)
    i, j = 2, 4
    now, ahead = (sde.float_level(float(times[k])) for k in (i, j))
    noise = found.model.noise(states[i], now)
    end = states[i] / now.alpha + (ahead.sigma / ahead.alpha - now.sigma / now.alpha) * noise
    assert float(cost[i, j]) == pytest.approx(float((end - states[j] / ahead.alpha).square().mean()), rel=1e-6)
    assert bool(cost.tril().isinf().diagonal().all())


@pytest.mark.parametrize("sde", ["vp", "ve", "cosine"])
def test_times_by_dynamic_programming_are_a_grid(sde):
    found = problem("ddim", sde)
    sde = found.model.sde
    start = create("grids", "logsnr").times(sde, 6)
    times = grid_search.dp(found, [start], lambda _: None)[0]
    assert [float(times[k]) for k in (0, -1)] == [sde.t_max, 0]
    assert len(times) == 7
    assert times[-2] >= sde.t_min
    assert bool((times.diff() < 0).all())
    assert found.error(times).value < found.error(create("grids", "karras").times(sde, 6)).value


@pytest.mark.parametrize(
    ("sde", "predictor", "method", "words"),
    [
        ("vp", "dpmpp_2m_sde", "dp", "noise would hide"),
        ("vp", "none", "dp", "no ends"),
        ("cld", "dpmpp_2m", "gradient", " is blocks"),
        ("blurring", "dpmpp_2m", "gradient", " is diagonal: take another --method"),
        ("blurring", "dpmpp_2m", "dp", None),
        ("vp", "probability_flow", "gradient", "let no gradient pass"),
        ("cld", "dpmpp_2m", "dp", "of each entry"),
        ("vp", "pndm", "gradient", None),
    ],
)
def test_what_cannot_be_tuned_is_refused(sde, predictor, method, words):
    reason = grid_search.refusal(create("sdes", sde), create("predictors", predictor), method)
    assert (reason is None) if words is None else (words in reason)


def stored(folder, sde="vp", steps=(3, 5), name="grid.json"):
    process = create("sdes", sde)
    grids = [(create("grids", "logsnr").times(process, n), {"start": "logsnr"}) for n in steps]
    grid_file.write(folder / name, process, grids, predictor="ddim")
    return folder / name


def test_a_file_gives_its_times_back_and_nothing_else(tmp_path):
    path, vp = stored(tmp_path), create("sdes", "vp")
    grid = create("grids", f"file[path={path}]")
    assert torch.equal(grid.times(vp, 5), create("grids", "logsnr").times(vp, 5))
    assert grid.counts == (3, 5)
    with pytest.raises(ValueError, match="times for 3 or 5 steps, not for 4"):
        grid.times(vp, 4)
    for other in ("ve", "subvp", "vp[t_min=1e-4]", "vp[beta_max=20.001]", "double_well"):
        assert "another process" in grid.skip(create("sdes", other))
    assert grid.skip(create("sdes", "vp[chain=exact]")) is None
    reasons = [
        skip(create("samplers", text), vp, (2,))
        for text in (f"pc[steps=4,grid=file[path={path}]]", f"ode[method=rk4,steps=5,grid=file[path={path}]]")
    ]
    assert all("take one of these" in reason for reason in reasons)
    found = sample(exact(), create("samplers", f"pc[predictor=ddim,steps=5,grid=file[path={path}]]"), 4, seed=3)
    same = sample(exact(), create("samplers", "pc[predictor=ddim,steps=5,grid=logsnr]"), 4, seed=3)
    assert torch.equal(found.x, same.x)


def test_a_file_of_version_1_has_the_ends_of_its_process_at_its_first_and_last_noise(tmp_path):
    path, vp = stored(tmp_path), create("sdes", "vp")
    record = json.loads(path.read_text())
    grids = [{key: value for key, value in one.items() if key != "ends"} for one in record["grids"]]
    old = {**{k: v for k, v in record.items() if k != "digest"}, "version": 1, "grids": grids}
    path.write_text(json.dumps({**old, "digest": grid_file.digest_of(old)}))
    grid = create("grids", f"file[path={path}]")
    assert grid.skip(vp) is None
    assert "another process" in grid.skip(create("sdes", "vp[t_min=1e-4]"))


def test_the_content_of_a_file_counts_for_a_result(tmp_path):
    stored(tmp_path)
    registry = default_registry()
    depends = [Fingerprint(registry).depends(create("grids", f"file[path={tmp_path / 'grid.json'}]"))]
    stored(tmp_path, steps=(3, 6))
    depends.append(Fingerprint(registry).depends(create("grids", f"file[path={tmp_path / 'grid.json'}]")))
    assert [*depends[0]["files"]] == [*depends[1]["files"]] == [str(tmp_path / "grid.json")]
    assert depends[0]["files"] != depends[1]["files"]


def test_a_checkpoint_carries_a_grid(tmp_path):
    from scoresde_run.models import checkpoint

    shipped = checkpoint.find("mnist_vp", default_registry()).folder
    (tmp_path / "mine").mkdir()
    for file in shipped.iterdir():
        (tmp_path / "mine" / file.name).write_bytes(file.read_bytes())
    stored(tmp_path / "mine", name="few.json")
    grid = create("grids", f"file[path=few.json,checkpoint={tmp_path / 'mine'}]")
    assert grid.counts == (3, 5)
    assert grid.files() == [tmp_path / "mine" / "few.json"]
    with pytest.raises(FileError, match=r"few\.json"):
        create("grids", "file[path=few.json,checkpoint=mnist_vp]")


def test_the_shipped_checkpoint_carries_five_steps_of_its_own():
    """Their error on noises that they were not tuned on is below that on the own grid of `ipndm`."""
    from scoresde_run.models import checkpoint

    score = checkpoint.find("mnist_vp", default_registry()).load(default_registry()).score()
    score.network.requires_grad_(False)
    found = grid_search.Problem.draw(score, create("predictors", "ipndm"), 4, 7, 0, torch.zeros(0), "law")
    stored = create("grids", "file[path=tuned.json,checkpoint=mnist_vp]").stored[5]
    own = attrs.evolve(found, predictor=tuned.Weighted(stored.weights)).error(stored.times).value
    assert own < 0.3 * found.error(create("grids", "karras").times(score.sde, 5)).value


def test_a_damaged_file_is_refused(tmp_path):
    path = stored(tmp_path)
    whole = path.read_text()
    record = json.loads(whole)
    cases = [
        whole[:100],
        "",
        "[]",
        "{}",
        "[" * 5000,
        whole.replace("0.001", "0.002"),
        whole.replace("logsnr", "karras"),
    ]
    cases += [json.dumps({k: v for k, v in record.items() if k != "digest"}), json.dumps({**record, "version": 3})]
    for grids in (
        [{"times": [1, 0]}],
        [{"times": [1.0, 0.5, 0.0], "levels": []}],
        WRONG,
        EMPTY,
        3,
        [{"times": "x", "levels": [1]}],
    ):
        changed = {**{k: v for k, v in record.items() if k != "digest"}, "grids": grids}
        cases.append(json.dumps({**changed, "digest": grid_file.digest_of(changed)}))
    for text in cases:
        path.write_text(text)
        with pytest.raises(FileError, match=r"grid\.json"):
            create("grids", f"file[path={path}]")
    path.unlink()
    with pytest.raises(FileError, match=r"grid\.json"):
        create("grids", f"file[path={path}]")


def tune(*arguments):
    return main(["tune-grid", *map(str, arguments)])


def test_the_command_makes_a_file_that_samples(tmp_path, capsys):
    out = tmp_path / "grid.json"
    asked = ("--target", TARGET, "--predictor", "ipndm", "--steps", 4, 6, "--starts", 16)
    assert tune(*asked, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "4 steps: error on other noises from" in printed
    assert f"--grid 'file[path={out}]'" in printed
    record = json.loads(out.read_text())
    assert (record["process"], record["predictor"], record["method"], record["seed"]) == ("vp", "ipndm", "gradient", 0)
    assert record["model"]["target"] == TARGET
    score = ExactScore(create("targets", TARGET), create("sdes", "vp"))
    other = grid_search.Problem.draw(score, create("predictors", "ipndm"), 16, 0, 16, torch.zeros(0))
    for one in record["grids"]:
        assert one["after"][0] < one["before"][0]
        assert one["after"][0] == pytest.approx(other.error(torch.tensor(one["times"])).value, rel=1e-4, abs=1e-6)
    assert create("grids", f"file[path={out}]").counts == (4, 6)
    assert tune(*asked, "--out", tmp_path / "again.json") == 0
    assert json.loads((tmp_path / "again.json").read_text()) == record
    assert tune(*asked, "--method", "dp", "--out", tmp_path / "dp.json") == 0
    assert json.loads((tmp_path / "dp.json").read_text())["grids"] != record["grids"]


def test_fixed_times_stay_where_no_others_are_shown_to_be_better(tmp_path, capsys, monkeypatch):
    """The grid ``uniform`` in place of times that were searched, which is worse than the best fixed one."""
    worse = create("grids", "uniform").times(create("sdes", "vp"), 5)
    monkeypatch.setattr(grid_search, "gradient", lambda own, *_: (worse, own.predictor))
    out = tmp_path / "grid.json"
    asked = ("--target", TARGET, "--predictor", "dpmpp_2m", "--steps", 5, "--match", "law")
    assert tune(*asked, "--out", out) == 0
    error = capsys.readouterr().err
    record = json.loads(out.read_text())
    (one,) = record["grids"]
    assert record["starts"] == 128
    assert "not shown to be better" in error
    assert f"the file has those of {one['start']}" in error
    assert error.count("\n") == 1
    assert one["kept"]
    assert one["times"] == create("grids", one["start"]).times(create("sdes", "vp"), 5).tolist()


def test_times_may_end_above_t_min(tmp_path):
    """Runge-Kutta steps then end there as well: D is that of a Gaussian at the last level."""
    process, last = create("sdes", "vp"), 0.1
    inner = create("grids", "logsnr").times(process.until(1.0), 41)[:-1]
    times = torch.cat([inner[inner > last], inner.new_tensor([last, 0.0])])
    grid_file.write(tmp_path / "grid.json", process, [(times, {})])
    steps = len(times) - 2
    sampler = create("samplers", f"ode[method=rk4,steps={steps},grid=file[path={tmp_path / 'grid.json'}]]")
    found = sample(exact(), sampler, 8, seed=1, dtype=torch.float64).x
    level, start = process.float_level(last), problem("ddim", n=8).model.sde
    noise = grid_search.Noise(1, (2,), 8, dtype=torch.float64)
    x, first = start.prior.from_noise(noise.draw("prior", "prior")), process.float_level(1.0)
    for k, (mean, std) in enumerate(((0.5, 0.2), (-1.0, 1.5))):
        spread = [math.sqrt(one.alpha**2 * std**2 + one.sigma**2) for one in (first, level)]
        at = spread[1] / spread[0] * (x[:, k] - first.alpha * mean)
        torch.testing.assert_close(found[:, k], mean + level.alpha * std**2 / spread[1] ** 2 * at, atol=1e-3, rtol=0)


def test_tuned_weights_sample(tmp_path, capsys):
    out, vp = tmp_path / "grid.json", create("sdes", "vp")
    asked = ("--target", TARGET, "--predictor", "ipndm", "--steps", 4, "--starts", 16, "--method", "weights")
    assert tune(*asked, "--out", out) == 0
    assert f"--sampler 'tuned[path={out},steps=4]'" in capsys.readouterr().out
    (one,) = json.loads(out.read_text())["grids"]
    sampler = create("samplers", f"tuned[path={out},steps=4]")
    found = sample(exact(), sampler, 16, dtype=torch.float64)
    assert found.nfe == 4
    same = attrs.evolve(problem("ipndm"), predictor=tuned.Weighted(one["weights"]))
    end = grid_search.walk(
        same.predictor, same.model, grid_search.Schedule(vp, torch.tensor(one["times"])).steps, same.x
    )
    torch.testing.assert_close(found.x, end[-1])
    for steps, process, words in ((5, vp, "not for 5"), (4, create("sdes", "ve"), "another process")):
        assert words in skip(create("samplers", f"tuned[path={out},steps={steps}]"), process, (2,))
    grid_file.write(out, vp, [(create("grids", "logsnr").times(vp, 4), {})])
    assert "times alone" in skip(create("samplers", f"tuned[path={out},steps=4]"), vp, (2,))


def test_a_search_goes_on_from_a_file_of_another_process(tmp_path, monkeypatch):
    """Three trials from there reach what three from fixed grids do not."""
    asked = ("--target", TARGET, "--predictor", "ipndm", "--steps", 4, "--starts", 16, "--method", "weights")
    assert tune(*asked, "--out", tmp_path / "vp.json") == 0
    monkeypatch.setattr(grid_search, "MOST", 3)
    monkeypatch.setattr(grid_search, "MORE", 3)
    for name, more in {"far": (), "near": ("--from", tmp_path / "vp.json")}.items():
        assert tune(*asked, "--sde", "subvp", *more, "--out", tmp_path / f"{name}.json") == 0
    vp, far, near = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("vp", "far", "near"))
    assert [each["from"] for each in (vp, far, near)] == [None, None, "vp.json"]
    after = [each["grids"][0]["after"][0] for each in (vp, far, near)]
    assert after[2] < 0.01 * after[1]
    assert (
        skip(create("samplers", f"tuned[path={tmp_path / 'near.json'},steps=4]"), create("sdes", "subvp"), (2,)) is None
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "gradient"], "take --method weights"),
        (["--method", "weights", "--steps", "5"], "no weights of 5 steps"),
        (["--method", "weights", "--steps", "6"], "no weights of 6 steps"),
        (["--method", "weights", "--sde", "cosine"], "with another start"),
    ],
)
def test_a_file_that_cannot_be_gone_on_from_is_refused(tmp_path, capsys, monkeypatch, arguments, words):
    vp = create("sdes", "vp")
    times = create("grids", "logsnr").times(vp, 4)
    rows = tuned.rows_of(create("predictors", "ipndm"), grid_search.Schedule(vp, times).steps)
    alone = create("grids", "logsnr").times(vp, 6)
    grid_file.write(tmp_path / "vp.json", vp, [(times, {"weights": rows}), (alone, {})])
    monkeypatch.setattr(grid_search.Problem, "draw", lambda *_: pytest.fail("it began to work"))
    given = ("--target", TARGET, "--predictor", "ipndm", "--steps", "4", "--from", tmp_path / "vp.json")
    assert tune(*given, *arguments, "--out", tmp_path / "x.json") == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("match", "n"), [("ends", 32), ("law", 128), ("density", 1024)])
def test_each_error_has_its_number_of_noises(tmp_path, monkeypatch, match, n):
    class Drawn(BaseException):
        """In place of any work."""

    def draw(score, predictor, count, *_):
        raise Drawn(count)

    monkeypatch.setattr(grid_search.Problem, "draw", draw)
    with pytest.raises(Drawn, match=f"^{n}$"):
        tune("--target", TARGET, "--predictor", "ipndm", "--match", match, "--out", tmp_path / "x.json")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (("--checkpoint", "mnist_vp"), "density of a --target"),
        (("--target", f"observed[of={TARGET}]", "--sde", "ouve"), "not given y"),
        (("--target", "empirical[dataset={images}]"), "without a density"),
    ],
)
def test_a_density_that_nobody_knows_cannot_be_matched(tmp_path, capsys, model, words):
    np.save(tmp_path / "images.npy", np.zeros((8, 4, 4), dtype=np.uint8))
    model = [part.replace("{images}", f"array[path={tmp_path / 'images.npy'}]") for part in model]
    assert tune(*model, "--predictor", "ipndm", "--match", "density", "--out", tmp_path / "x.json") == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--predictor", "dpmpp_2m", "--method", "weights"], 2, "take ipndm or deis"),
        (["--predictor", "ddim", "--steps", "2"], 2, "from 3"),
        (["--predictor", "ddim", "--steps", "5", "--starts", "1"], 2, "--starts"),
        (["--predictor", "ddim", "--steps", "5", "--starts", "0", "--match", "law"], 2, "--starts"),
        (["--predictor", "dpmpp_2m_sde", "--steps", "5"], 2, "noise would hide"),
        (["--predictor", "dddim", "--steps", "5"], 2, "Did you mean"),
        (["--predictor", "dpmpp_2m", "--steps", "5", "--sde", "cld"], 2, "another --method"),
        (["--predictor", "ddim", "--steps", "5", "--out", "{taken}"], 3, "exists"),
        (["--predictor", "ddim", "--steps", "5", "--out", "nowhere/x.json"], 3, "nowhere"),
    ],
)
def test_the_command_refuses_before_any_work(tmp_path, capsys, monkeypatch, arguments, code, words):
    monkeypatch.setattr(grid_search.Problem, "draw", lambda *_: pytest.fail("it began to work"))
    (tmp_path / "taken").touch()
    given = [part.format(taken=tmp_path / "taken") for part in arguments]
    assert tune("--target", TARGET, "--out", tmp_path / "x.json", *given) == code
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_the_published_levels_are_met():
    """The list for Stable Diffusion 1.5 is one of timesteps, of a schedule that is evenly spaced in sqrt(beta)."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal = np.cumprod(1 - betas)
    steps = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0]
    lists = {
        "sd15": ((1 - signal) / signal)[steps] ** 0.5,
        "sdxl": np.array([14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029]),
    }
    ve = create("sdes", "ve[sigma_min=0.029,sigma_max=14.615]")
    for model, levels in lists.items():
        times = create("grids", f"ays[model={model}]").times(ve, 11)
        found = ve.log_noise_ratio(times[1:-2]).exp().numpy()
        np.testing.assert_allclose(found, levels[1:-1], atol=6e-4)
        twice = ve.log_noise_ratio(create("grids", f"ays[model={model}]").times(ve, 21)[1:-2]).exp().numpy()
        np.testing.assert_allclose(twice[::2], np.sqrt(levels[:-1] * levels[1:]), rtol=4e-3)


def test_published_levels_beyond_the_process_are_left_out():
    ve = create("sdes", "ve")  # from 50 to 0.01
    levels = ve.log_noise_ratio(create("grids", "ays[model=svd]").times(ve, 10)[:-1]).exp()
    expected = [50.0, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034]
    between = ve.log_noise_ratio(create("grids", "ays[model=svd]").times(ve, 10)[1:9]).exp()
    inner = ve.log_noise_ratio(
        create("grids", "ays[model=sd15]").times(ve, 11)[1:10]
    ).exp()  # 14.615 is an end, not met
    np.testing.assert_allclose(
        inner.numpy(), [6.475, 3.864, 2.695, 1.884, 1.394, 0.964, 0.652, 0.398, 0.152], rtol=1e-6
    )
    assert float(levels[0]) == pytest.approx(50)
    np.testing.assert_allclose(between.numpy(), expected[1:], rtol=1e-6)
    assert float(levels[-1]) == pytest.approx(float(ve.sigma(torch.tensor(1e-5, dtype=torch.float64))), rel=1e-9)
