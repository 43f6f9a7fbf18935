"""Sweeps: suites as data, the syntax of axes, costs and budgets, seeds, limits; usage errors in one line."""

import itertools
import json
import math
import os
import re
import shlex
import statistics
import types
from pathlib import Path

import pytest
import torch
from runs import rows_in, save_models

from scoresde_bench.plan.suite import Block, Suite
from scoresde_bench.plan.sweep import Sweep, sweep
from scoresde_bench.report.seeds import pool
from scoresde_bench.run.costs import in_words
from scoresde_core.registry import default_registry
from scoresde_core.shell import main

SMALL = ["--target", "mixture2d", "--samples", "64", "--evaluator", "nll_gap"]
ONE = [*SMALL, "--sde", "vp", "--steps", "5"]
SUITES = [entry.row.name for entry in default_registry().entries("suites")]


@pytest.fixture
def parts(tmp_path):
    """A local registry file with predictors that fail in various ways."""
    (tmp_path / "failing_parts.py").write_text(
        "import time, attrs, torch\n"
        "from scoresde_core import Predictor\n"
        "@attrs.frozen\n"
        "class Greedy(Predictor):\n"
        "    most: int = 16\n"
        "    def step(self, x, step, model, noise):\n"
        "        if len(x) > self.most:\n"
        "            raise torch.OutOfMemoryError('out of memory: tried to allocate 3 TiB')\n"
        "        return x * 0.5, x * 0.5\n"
        "@attrs.frozen\n"
        "class Slow(Predictor):\n"
        "    def step(self, x, step, model, noise):\n"
        "        time.sleep(30)\n"
        "        return x, x\n"
    )
    path = tmp_path / "odd.yaml"
    path.write_text(
        "api: 1\npredictors:\n  greedy: {target: 'failing_parts:Greedy'}\n  slow: {target: 'failing_parts:Slow'}\n"
    )
    return str(path)


def cells_of(*arguments, bench):
    """(key, title) of every cell that a command would run."""
    code, out, err = bench(*arguments, "--dry-run")
    assert code == 0, err
    return [tuple(line.split("  ")[:2]) for line in out.splitlines()[:-1]]


class TestGrammar:
    @pytest.fixture
    def registry(self):
        return default_registry()

    @pytest.mark.parametrize(
        ("kind", "text", "expected"),
        [
            ("correctors", "langevin[snr=[0.1,0.2],n_steps=[1,2]]", 4),
            ("predictors", "ddim[eta=[0,1]],heun", 3),
            ("samplers", "pc[predictor=ddim[eta=[0,1]],steps=[10,20]]", 4),
            ("samplers", "pc[predictor=[ddim,heun],corrector=langevin[snr=[0.1,0.2,0.3]]]", 6),
            ("sdes", "ve[prior_mean=[0.1,0.2]]", 1),
            ("sdes", "ve[prior_mean=[[0.1],[0.2]]]", 2),
            ("targets", "gaussian[shape=[[2],[3]],std=[0.5,1.0]]", 2),
            ("targets", "mfa[file=['a,b[1].safetensors','true']],gaussian", 3),
            ("evaluators", "frechet[features=classifier[file=\"it's, [1]\"],statistics='a,b[1].npz']", 1),
            ("predictors", "heun[s_churn=[0,40],s_max=inf]", 2),
        ],
    )
    def test_a_list_is_several_components_wherever_none_is_taken(self, registry, kind, text, expected):
        found = sweep(registry, kind, [text])
        assert len({str(spec) for spec in found}) == len(found) == expected
        for spec in found:  # each is what it says, typed again
            assert sweep(registry, kind, [str(spec)]) == [spec]

    def test_the_request_of_a_cell_is_that_cell(self, registry):
        maker = Sweep(registry, "cpu")
        axes = {
            "target": ("mixture2d", "gaussian[shape=[2],std=[0.2,1.0]]"),
            "sampler": ("pc", "ode", "pc[predictor=ddim[eta=[0,1]]]", "adaptive_sde[rel_tol=[0.01,0.1]]"),
            "corrector": ("none", "langevin[snr=[1e-3,0.16]]"),
            "dtype": ("float32", "float64"),
            "evaluator": ("nll_gap",),
        }
        cells = maker.cells([Block(axes, samples=100, batch_size=7, timing=True)])
        assert len(cells) == len({cell.key for cell in cells})
        other = Sweep(registry, "cpu")
        for cell in cells:
            problems: list[str] = []
            from scoresde_bench.plan.suite import read_block

            block = read_block(json.loads(json.dumps(cell.request)), "here", problems)
            assert problems == []
            assert [twin.key for twin in other.cells([block])] == [cell.key]

    def test_a_cell_keeps_its_key_and_its_noise_among_any_others(self, registry):
        """Keys and seeds do not depend on the other cells of a run."""
        maker = Sweep(registry, "cpu")
        (alone,) = maker.cells([Block({"target": ("mixture2d",), "sde": ("vp",), "steps": ("5",)})])
        many = {"target": ("gaussian", "mixture2d"), "sde": ("ve", "vp"), "steps": ("4", "5"), "seed": ("1", "0")}
        twin = next(cell for cell in maker.cells([Block(many)]) if cell.key == alone.key)
        assert (twin.title, twin.seed) == (alone.title, alone.seed)

    def test_samplers_share_their_random_numbers(self, registry):
        """With one seed two samplers have the same latents: two good solvers of the flow end at the same points."""
        from scoresde_core import ExactScore, create
        from scoresde_core.sampler import sample

        target, sde = create("targets", "mixture2d"), create("sdes", "vp")
        ends = {
            (name, seed): sample(ExactScore(target, sde), create("samplers", text), 200, seed=seed).x
            for name, text in (("ddim", "pc[predictor=ddim,steps=400,grid=logsnr]"), ("ode", "ode"))
            for seed in (0, 1)
        }
        same = (ends["ddim", 0] - ends["ode", 0]).norm(dim=1).median()
        other = (ends["ddim", 0] - ends["ode", 1]).norm(dim=1).median()
        assert same < 0.02 < 0.5 < other


class TestGrids:
    """By default every predictor has its own grid, recorded in names, titles, keys and parameters of the cell."""

    @pytest.fixture
    def cells(self):
        maker = Sweep(default_registry(), "cpu")
        few = {"target": ("mixture2d",), "sde": ("vp",), "steps": ("5",)}
        return lambda **axes: maker.cells([Block({**few, **axes})])

    def test_a_cell_names_what_its_predictor_took(self, cells):
        found = cells(predictor=("reverse_diffusion", "dpmpp_2m", "heun"))
        assert [cell.names["grid"] for cell in found] == ["uniform", "logsnr", "karras"]
        assert [cell.request["grid"] for cell in found] == [["uniform"], ["logsnr"], ["karras"]]
        assert " · logsnr · " in found[1].title
        assert found[2].parameters["sampler"]["grid"]["type"] == "grid scoresde:karras"

    def test_named_or_not_it_is_the_same_cell(self, cells):
        for predictor, grid in (("reverse_diffusion", "uniform"), ("dpmpp_2m", "logsnr"), ("ipndm", "karras")):
            (own,), (named,) = cells(predictor=(predictor,)), cells(predictor=(predictor,), grid=(grid,))
            assert own.key == named.key
            (other,) = cells(predictor=(predictor,), grid=("quadratic",))
            assert other.key != own.key
            assert other.names["grid"] == "quadratic"

    def test_a_predictor_within_the_sampler(self, cells):
        (cell,) = cells(sampler=("pc[predictor=dpmpp_2m]",))
        assert (cell.names["predictor"], cell.names["grid"]) == (None, "logsnr")
        (cell,) = cells(sampler=("pc[predictor=dpmpp_2m,grid=karras]",))
        assert cell.names["grid"] is None  # the sampler says it
        assert cell.sampler.grid == default_registry().create("grids", "karras")

    def test_a_grid_that_nobody_registers_cannot_be_repeated(self, bench, tmp_path):
        (tmp_path / "own.py").write_text(
            "from scoresde_plugins.grids import LogSNRGrid\n"
            "from scoresde_plugins.ddpm.predictors import DDIMPredictor\n"
            "class Own(LogSNRGrid):\n    pass\n"
            "class Mine(DDIMPredictor):\n    grid = Own()\n"
        )
        (tmp_path / "own.yaml").write_text(
            'api: 1\npredictors:\n  mine: {target: "own:Mine", summary: ddim on a grid of its own}\n'
        )
        axes = ("--target", "mixture2d", "--sde", "vp", "--predictor", "mine", "--registry", "own.yaml")
        code, _, err = bench(*axes, "--dry-run")
        assert code == 2
        assert "is not registered: register it, or choose another with --grid" in err
        assert bench(*axes, "--grid", "logsnr", "--dry-run")[0] == 0


class TestSuites:
    @pytest.mark.parametrize("name", SUITES)
    def test_a_bundled_suite_reads_back_and_builds_its_cells(self, name):
        suite = default_registry().create("suites", name)
        assert suite.about
        assert Suite.from_plain(suite.plain(), name) == suite
        if name != "speed":  # whose networks take their time to plan
            cells = Sweep(default_registry(), "cpu").cells(suite.blocks)
            assert not any(cell.skip for cell in cells)

    def test_quick_is_the_main_job(self, bench):
        main_job = cells_of("--predictor", "reverse_diffusion", "--corrector", "langevin", bench=bench)
        assert cells_of("--suite", "quick", bench=bench) == main_job

    def test_table_1_holds_every_published_number(self):
        """Twenty cells of the paper's table, each with its value: 18 of predictors, and the corrector alone twice."""
        suite = default_registry().create("suites", "table1")
        cells = Sweep(default_registry(), "cpu").cells(suite.blocks)
        rows = [{**cell.names, "steps": cell.steps} for cell in cells]
        assert len(rows) == len(suite.published) == 20
        assert all(sum(figure.fits(row) for figure in suite.published) == 1 for row in rows)
        p1000 = {
            (r["sde"], r["predictor"]): f.value
            for r in rows
            for f in suite.published
            if f.fits(r) and r["corrector"] == "none" and r["steps"] == 1000
        }
        assert p1000["ve", "probability_flow"] == 15.41
        assert p1000["vp", "ancestral_sampling"] == 3.24

    def test_few_step_gives_everyone_as_many_evaluations(self):
        from scoresde_bench.run.costs import _trial

        cells = Sweep(default_registry(), "cpu").cells(default_registry().create("suites", "few_step").blocks)
        budgets = {round(_trial(cell.sampler, cell.source.sde, (2,))) for cell in cells if cell.names["sde"] == "vp"}
        assert budgets == {5, 9, 10, 19, 20, 49, 50}

    def test_hyphens_are_underscores(self, bench):
        assert cells_of("--suite", "grid-x-solver", "--sde", "vp", "--steps", "2", bench=bench)

    def test_blocks_axes_options_and_overrides(self, bench, tmp_path):
        (tmp_path / "mine.yaml").write_text(
            "format: 1\nabout: two blocks\nblocks:\n"
            "  - {target: mixture2d, sde: [vp, ve], steps: 5, samples: 32, evaluator: nll_gap}\n"
            "  - target: mixture2d\n    sde: vp\n    steps: [5, 6]\n    samples: 32\n    evaluator: [nll_gap]\n"
            "    corrector: {name: langevin, snr: [0.1, 0.2]}\n"
        )
        assert len(cells_of("--suite", "mine.yaml", bench=bench)) == 2 + 4
        assert len(cells_of("--suite", "mine.yaml", "--steps", "7", bench=bench)) == 2 + 2
        assert (
            len(cells_of("--suite", "mine.yaml", "--corrector", "none", "--sde", "vp", bench=bench)) == 2
        )  # once each
        code, _, _ = bench("--suite", "mine.yaml", "--sde", "vp", "--samples", "16", "--out", "here")
        assert code == 0
        assert {row["samples"] for row in rows_in(tmp_path / "here")} == {16}
        typed = [*ONE, "--samples", "32", "--corrector", "langevin[snr=0.1]"]
        assert cells_of(*typed, bench=bench)[0] in cells_of("--suite", "mine.yaml", bench=bench)

    def test_a_checkpoint_takes_the_blocks_meant_for_its_sde(self, bench, tmp_path):
        save_models(tmp_path, "model")
        titles = [title for _, title in cells_of("--suite", "table1", "--checkpoint", "model", bench=bench)]
        assert len(titles) == 10
        assert all(title.startswith("model · mlp · vp · ") for title in titles)
        code, _, err = bench("--suite", "table1", "--checkpoint", "model", "--sde", "vp")
        assert (code, "--sde has no effect" in err) == (2, True)

    def test_published_figures_stand_beside_what_was_measured(self, bench, tmp_path):
        (tmp_path / "mine.yaml").write_text(
            "format: 1\nblocks:\n  - {target: mixture2d, sde: vp, steps: [4, 5], samples: 64, evaluator: nll_gap}\n"
            "published:\n  - {metric: fid, value: 3.24, stderr: 0.02, where: {sde: vp, steps: 5}}\n"
        )
        code, out, _ = bench("--suite", "mine.yaml", "--out", "here")
        assert code == 0
        table = out[out.index("published, beside") :]
        assert re.search(r"vp 5 steps\s+3\.240 ± 0\.020", table)
        assert "vp 4 steps  " not in table.split("nll_gap: best")[0]

    def test_a_third_party_ships_a_suite(self, bench, tmp_path, monkeypatch):
        (tmp_path / "my_suites").mkdir()
        (tmp_path / "my_suites" / "__init__.py").write_text("")
        (tmp_path / "my_suites" / "one.yaml").write_text(
            "format: 1\nblocks: [{target: mixture2d, sde: vp, steps: 3}]\n"
        )
        (tmp_path / "mine.yaml").write_text("api: 1\nsuites:\n  one: {target: 'my_suites:one.yaml'}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        assert len(cells_of("--suite", "one", "--registry", "mine.yaml", bench=bench)) == 1


FAULTS = {
    "no yaml": ("blocks: [", "is not valid YAML"),
    "a list": ("- vp\n", "'format: 1' at the top"),
    "no format": ("blocks: [{}]\n", "'format: 1' at the top"),
    "newer": ("format: 9\nblocks: [{}]\n", "has format 9, this version reads 1: upgrade scoresde"),
    "unknown key": ("format: 1\nblock: [{}]\n", "unknown key 'block'. Did you mean 'blocks'?"),
    "unknown axis": (
        "format: 1\nblocks: [{predictr: ddim}]\n",
        "block 1: unknown key 'predictr'. Did you mean 'predictor'",
    ),
    "nothing": ("format: 1\nblocks: []\n", "'blocks' must be a list of at least one mapping"),
    "a word": ("format: 1\nblocks: [vp]\n", "block 1 must be a mapping"),
    "samples": ("format: 1\nblocks: [{samples: 0}]\n", "samples must be an integer of at least 1, got 0"),
    "timing": ("format: 1\nblocks: [{timing: 1}]\n", "timing must be true or false, got 1"),
    "a number for a component": ("format: 1\nblocks: [{sde: 2.5}]\n", "cannot read sde 2.5"),
    "twice": ("format: 1\nformat: 1\nblocks: [{}]\n", "format given twice"),
    "steps": ("format: 1\nblocks: [{steps: many}]\n", "--steps must be integers of at least 1, got 'many'"),
    "no value": ("format: 1\nblocks: [{predictor: []}]\n", "block 1: predictor has no value: give one or more"),
    "published": ("format: 1\nblocks: [{}]\npublished: [{value: 3}]\n", "published 1 must have metric"),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS)
def test_a_bad_suite_is_one_line_before_any_work(bench, tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    code, out, err = bench("--suite", "mine.yaml")
    assert (code, out, err.count("\n")) == (1 if "newer" in err or "format 9" in err else 2, "", 1)
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_every_suite_is_shown_as_a_file_of_its_kind(tmp_path, capsys):
    for entry in default_registry().entries("suites"):
        assert main(["show", "suite", entry.qualified]) == 0
        (tmp_path / "shown.yaml").write_text(capsys.readouterr().out)
        suite = default_registry().create("suites", entry.qualified)
        assert Suite.read(tmp_path, "shown.yaml") == suite
        assert main(["show", "suite", entry.qualified, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["suite"] == json.loads(json.dumps(suite.plain()))


USAGE = {
    "no predictor": (["--predictor", ""], "--predictor: the value is empty: give one, or leave the option out"),
    "an empty list": (["--predictor", "heun", "ddim[eta=[]]"], "empty list for eta in 'ddim[eta=[]]'"),
    "an empty list within": (["--sampler", "pc[predictor=ddim[eta=[]]]"], "empty list for eta in 'ddim[eta=[]]'"),
    "unknown suite": (["--suite", "few_stepp"], "Did you mean 'few_step'"),
    "no suite file": (["--suite", "gone.yaml"], "suite file gone.yaml not found"),
    "no jobs": (["--jobs", "0"], "--jobs must be at least 1, got 0"),
    "negative jobs": (["--jobs=-2"], "--jobs must be at least 1, got -2"),
    "unknown executor": (["--executor", "slurn"], "Did you mean 'slurm'"),
    "executor's parameter": (["--executor", "processes[job=2]"], "Did you mean 'jobs'"),
    "executor's value": (["--executor", "processes[jobs=0]"], "jobs"),
    "budget": (["--time-budget", "soon"], "--time-budget must be a time above 0 such as 90, 30m or 2h, got 'soon'"),
    "timeout": (["--timeout", "0"], "--timeout must be a time above 0"),
}


@pytest.mark.parametrize(("arguments", "message"), USAGE.values(), ids=USAGE)
def test_a_usage_error_is_one_line_before_any_work(bench, tmp_path, arguments, message):
    code, out, err = bench(*ONE, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not list(tmp_path.iterdir())


class TestCosts:
    def test_a_dry_run_knows_the_evaluations(self, bench):
        predictors = ("--predictor", "ddim", "heun", "dpmpp_3m", "unipc")
        _, out, _ = bench(
            *SMALL, "--sde", "vp", "--steps", "100", *predictors, "--corrector", "none", "langevin", "--dry-run"
        )
        found = {
            tuple(line.split(" · ")[3:5]): float(re.search(r"NFE ([\d.]+)", line)[1]) for line in out.splitlines()[:-1]
        }
        assert found["ddim", "none"] == found["dpmpp_3m", "none"] == 100
        assert found["heun", "none"] == 199
        assert found["ddim", "langevin"] == 200

    def test_what_was_measured_is_predicted(self, bench, tmp_path):
        bench(*SMALL, "--sde", "vp", "--steps", "40", "--out", "here")
        (row,) = rows_in(tmp_path / "here")
        from scoresde_bench.run.costs import Costs

        registry = default_registry()
        axes = {"target": ("mixture2d",), "sde": ("vp",), "evaluator": ("nll_gap",)}
        short, long = (
            Sweep(registry, "cpu").cells([Block({**axes, "steps": (n,)}, samples=64)])[0] for n in ("40", "400")
        )
        costs = Costs(bench=None, here=False)
        assert costs.seconds(short) is None  # nothing was measured, nothing can be
        costs.learn([short], {short.key: row})
        assert costs.seconds(short) == pytest.approx(row["cell_seconds"])
        judged = row["cell_seconds"] - row["seconds"]
        assert costs.seconds(long) == pytest.approx(10 * row["seconds"] + judged)

    @pytest.mark.parametrize("call", [1e-5, 5e-3, 0.03])
    def test_what_a_call_costs_is_not_what_a_sample_costs(self, call, monkeypatch):
        """A model that takes ``call`` seconds per batch and 20 us per sample; a busy machine is late at times."""
        from scoresde_bench.run import costs

        (cell,) = Sweep(default_registry(), "cpu").cells(
            [Block({"target": ("mixture2d",), "sde": ("vp",), "predictor": ("ddim",), "steps": ("50",)}, samples=1000)]
        )
        now, calls = [0.0], itertools.count()

        class Model:
            def evaluate(self, x, level):
                now[0] += (call + 20e-6 * len(x)) * (1 if next(calls) % 3 else 10)

        monkeypatch.setattr(costs.time, "perf_counter", lambda: now[0])
        bench = types.SimpleNamespace(load=lambda cell: Model())
        found = costs.Costs(bench).seconds(cell)
        assert found == pytest.approx(50 * (call + 20e-6 * 1000), rel=0.01)
        assert now[0] < 10  # what the answer costs, were each evaluation as late as a third of them are

    def test_threads_that_wait_for_each_other_are_no_measure(self, monkeypatch):
        """With more than one thread every evaluation takes a second: the cores are busy."""
        from scoresde_bench.run import costs

        axes = {"target": ("mixture2d",), "sde": ("vp",), "predictor": ("ddim",), "steps": ("50",)}
        (cell,) = Sweep(default_registry(), "cpu").cells([Block(axes, samples=1000)])
        now, threads = [0.0], [2]
        monkeypatch.setattr(costs.torch, "get_num_threads", lambda: threads[0])
        monkeypatch.setattr(costs.torch, "set_num_threads", lambda count: threads.__setitem__(0, count))

        class Model:
            def evaluate(self, x, level):
                now[0] += 1e-4 + 20e-6 * len(x) if threads[0] == 1 else 1.0

        monkeypatch.setattr(costs.time, "perf_counter", lambda: now[0])
        found = costs.Costs(types.SimpleNamespace(load=lambda cell: Model())).seconds(cell)
        assert found == pytest.approx(50 * (1e-4 + 20e-6 * 1000), rel=0.01)
        assert now[0] < 3  # a warm-up and one attempt
        assert threads == [2]

    def test_a_slow_network_is_asked_for_little(self, monkeypatch):
        from scoresde_bench.run import costs

        axes = {"target": ("mixture2d",), "sde": ("vp",), "predictor": ("ddim",), "steps": ("50",)}
        (cell,) = Sweep(default_registry(), "cpu").cells([Block(axes, samples=1000)])
        sizes = []

        class Model:
            def evaluate(self, x, level):
                sizes.append(len(x))
                now[0] += 0.2 * len(x)

        now = [0.0]
        monkeypatch.setattr(costs.time, "perf_counter", lambda: now[0])
        assert costs.Costs(types.SimpleNamespace(load=lambda cell: Model())).seconds(cell) == pytest.approx(10_000)
        assert set(sizes) == {1}

    def test_known_rows_are_predicted_from_others(self):
        """On the committed rows of few_step, each predicted from those of the other predictors on a shared machine."""
        from scoresde_bench.run.costs import Costs

        known = rows_in(Path(__file__).parents[2] / "benchmarks" / "results" / "few_step")
        axes = ("sde", "predictor", "grid", "steps")
        rows = {tuple(row[axis] for axis in axes): row for row in known}
        blocks = [
            block.replaced({"grid": ("logsnr", "karras", "uniform")})
            for block in default_registry().create("suites", "few_step").blocks
        ]
        cells = Sweep(default_registry(), "cpu").cells(blocks)
        ratios, totals = [], [0.0, 0.0]
        for predictor in ("ddim", "unipc", "heun"):
            costs = Costs(bench=None, here=False)
            mine = [cell for cell in cells if cell.names["predictor"] == predictor]
            others = [cell for cell in cells if cell.names["predictor"] != predictor]
            row_of = {cell.key: rows[*(cell.names[a] for a in axes[:3]), cell.steps] for cell in cells}
            costs.learn(others, row_of)
            for cell in mine:
                predicted, actual = costs.seconds(cell), row_of[cell.key]["cell_seconds"]
                ratios.append(predicted / actual)
                totals = [totals[0] + predicted, totals[1] + actual]
        assert statistics.quantiles(ratios, n=10)[0] > 0.5
        assert statistics.quantiles(ratios, n=10)[-1] < 2
        assert totals[0] == pytest.approx(totals[1], rel=0.25)

    def test_a_budget_leaves_cells_for_the_next_time(self, bench, tmp_path, monkeypatch):
        from scoresde_bench.run import costs

        monkeypatch.setattr(costs.Costs, "seconds", lambda self, cell: 1e6 if cell.steps == 5 else 0.0)
        arguments = [*SMALL, "--sde", "vp", "--steps", "4,5,6", "--out", "here"]
        code, out, _ = bench(*arguments, "--time-budget", "10m")
        assert code == 0
        assert "time budget exhausted: 1 of 3 cells were not run" in out
        assert {row["steps"] for row in rows_in(tmp_path / "here")} == {4, 6}
        code, out, _ = bench(*arguments)
        assert (code, "2 of 3 cells are already done" in out) == (0, True)
        assert [row["steps"] for row in rows_in(tmp_path / "here")] == [4, 6, 5]

    @pytest.mark.parametrize(
        ("seconds", "words"), [(0.04, "0.0 s"), (9.9, "9.9 s"), (75, "75 s"), (600, "10 min"), (9000, "2.5 h")]
    )
    def test_words(self, seconds, words):
        assert in_words(seconds) == words


class TestFailures:
    def test_want_of_memory_halves_the_batch_and_changes_nothing_else(self, bench, tmp_path, parts):
        arguments = [*ONE, "--registry", parts, "--predictor"]
        assert bench(*arguments, "greedy[most=16]", "--out", "here")[0] == 0
        assert bench(*arguments, "greedy[most=64]", "--out", "there")[0] == 0
        (here,), (there,) = rows_in(tmp_path / "here"), rows_in(tmp_path / "there")
        assert (here["batch_size"], there["batch_size"]) == (16, 64)
        assert here["metrics"] == there["metrics"]
        assert here["nfe"] == there["nfe"]

        assert "warnings" not in here

    def test_a_halved_batch_that_the_sampler_couples_is_told(self, bench, tmp_path, parts):
        arguments = [*ONE, "--registry", parts, "--predictor", "greedy[most=16]", "--corrector"]
        _, out, err = bench(*arguments, "langevin", "ald", "--out", "here")
        coupled, free = sorted(rows_in(tmp_path / "here"), key=lambda row: row["corrector"] == "ald")
        told = coupled["warnings"]["memory"]
        assert "out of memory with batches of 64, used 16; the sampler couples its batch" in told
        assert (
            "in batches of 16 events of 2 numbers the standard deviation can come out 6 %"
            in coupled["warnings"]["batch"]
        )
        assert "warnings" not in free
        for text in coupled["warnings"].values():
            assert err.count(text) == 1
            assert f"warning: {text}" in out

    def test_a_batch_too_small_for_its_norms_is_told(self, bench, tmp_path):
        bench(*ONE, "--corrector", "langevin", "--samples", "200", "--batch-size", "96", "--out", "here")
        (row,) = rows_in(tmp_path / "here")
        assert "in batches of 8 events" in row["warnings"]["batch"]  # the last of three
        assert "memory" not in row["warnings"]

    def test_want_of_memory_for_a_single_sample_is_a_row(self, bench, tmp_path, parts):
        code, out, _ = bench(*ONE, "--registry", parts, "--predictor", "greedy[most=0]", "ddim", "--out", "here")
        rows = {row["predictor"]: row for row in rows_in(tmp_path / "here")}
        assert (code, rows["ddim"]["status"]) == (1, "done")
        assert "out of memory: lower --batch-size" in rows["greedy[most=0]"]["reason"]
        assert "out of memory" in out

    def test_a_time_limit_stops_a_cell_and_no_other(self, bench, tmp_path, parts):
        code, _, _ = bench(*ONE, "--registry", parts, "--predictor", "slow", "ddim", "--timeout", "1s", "--out", "here")
        rows = {row["predictor"]: row for row in rows_in(tmp_path / "here")}
        assert (code, rows["ddim"]["status"], rows["slow"]["status"]) == (1, "done", "failed")
        assert "stopped after its --timeout of 1 s" in rows["slow"]["reason"]
        assert 1 <= rows["slow"]["cell_seconds"] < 10

    def test_only_one_command_writes_a_folder(self, bench, tmp_path):
        from scoresde_run.results.results import Results

        bench(*ONE, "--out", "here")
        before = (tmp_path / "here" / "results.jsonl").read_text()
        with Results(tmp_path / "here").claim():
            code, _, err = bench(*ONE, "--out", "here")
        assert (code, err.count("\n")) == (1, 1)
        assert "another scoresde-bench writes to here" in err
        assert bench(*ONE, "--out", "here")[0] == 0  # the claim ends with its holder
        assert (tmp_path / "here" / "results.jsonl").read_text() == before

    def test_a_row_that_arrived_is_taken_over_once(self, bench, tmp_path):
        """After a kill between writing a row and removing its file, the next command finds both."""
        from scoresde_run.results.results import Results, leave

        bench(*ONE, "--out", "here")
        (row,) = rows_in(tmp_path / "here")
        leave(row, tmp_path / "here")
        leave({**row, "cell": "0123456789abcdef"}, tmp_path / "here")
        for _ in range(2):
            results = Results(tmp_path / "here")
            with results.claim():
                assert set(results.rows) == {row["cell"], "0123456789abcdef"}
        assert len(rows_in(tmp_path / "here")) == 2
        assert not os.listdir(tmp_path / "here" / "arrived")


class TestSeeds:
    def test_several_seeds_are_one_row_with_the_error_of_the_mean(self, bench, tmp_path):
        _, out, _ = bench(*SMALL, "--sde", "vp", "--steps", "5,6", "--seed", "0,1,2,3", "--out", "here")
        rows = rows_in(tmp_path / "here")
        pooled = pool(rows)
        assert [(row["steps"], row["seed"], row["seeds"]) for row in pooled] == [
            (5, 0, [0, 1, 2, 3]),
            (6, 0, [0, 1, 2, 3]),
        ]
        for steps, row in zip((5, 6), pooled, strict=True):
            values = [each["metrics"]["nll_gap"]["value"] for each in rows if each["steps"] == steps]
            errors = [each["metrics"]["nll_gap"]["stderr"] for each in rows if each["steps"] == steps]
            found = row["metrics"]["nll_gap"]
            assert found["value"] == pytest.approx(statistics.mean(values))
            assert found["stderr_across_seeds"] == pytest.approx(statistics.stdev(values) / 2)
            assert found["stderr_within_seeds"] == pytest.approx(math.sqrt(sum(e * e for e in errors)) / 4)
            assert found["stderr"] == max(found["stderr_across_seeds"], found["stderr_within_seeds"])
        assert len(re.findall(r"^ vp +[56] ", out, re.M)) == 2

    def test_the_error_is_that_of_independent_runs(self):
        """Over many groups of four draws the root mean square of the pooled error is sigma / 2."""
        generator = torch.Generator().manual_seed(0)
        draws = torch.randn(4000, 4, generator=generator, dtype=torch.float64)
        squares = []
        for group in draws.tolist():
            rows = [self.row(seed, value) for seed, value in enumerate(group)]
            squares.append(pool(rows)[0]["metrics"]["m"]["stderr_across_seeds"] ** 2)
        assert math.sqrt(statistics.mean(squares)) == pytest.approx(0.5, rel=0.03)

    @staticmethod
    def row(seed, value, **more):
        metrics = {"m": {"value": value, "stderr": 0.01, "floor": None, "floor_stderr": None}}
        return {
            "cell": f"{seed}",
            "status": "done",
            "sde": "vp",
            "seed": seed,
            "device": "cpu",
            "metrics": metrics,
            **more,
        }

    def test_what_differs_otherwise_stays_apart(self):
        rows = [self.row(0, 1.0), self.row(1, 2.0, sde="ve"), self.row(1, 2.0, status="failed"), self.row(2, 3.0)]
        found = pool(rows)
        assert [(row["sde"], row["seed"], row.get("seeds"), row["status"]) for row in found] == [
            ("vp", 0, [0, 2], "done"),
            ("ve", 1, None, "done"),
            ("vp", 1, None, "failed"),
        ]
        twice = [self.row(0, 1.0), self.row(0, 2.0)]
        assert pool(twice) == twice  # two runs of one seed are no two draws

    def test_a_value_that_is_none_makes_the_mean_none(self):
        found = pool([self.row(0, 1.0), self.row(1, None)])[0]["metrics"]["m"]
        assert found["value"] is None


class TestDocs:
    """Every command of docs/bench.md, on the files shown in the page; sweeps are listed, not run."""

    BLOCKS = re.findall(
        r"^```(\w+)\n(.*?)^```",
        (Path(__file__).parents[2] / "docs" / "bench.md").read_text(encoding="utf-8"),
        re.M | re.S,
    )

    def test_commands(self, bench, tmp_path, monkeypatch):
        texts = [text for language, text in self.BLOCKS if language in ("yaml", "python")]
        for name, text in zip(("mine.yaml", "my_executors.py", "my_rows.yaml"), texts, strict=True):
            (tmp_path / name).write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        commands = [line for language, text in self.BLOCKS if language == "bash" for line in text.strip().splitlines()]
        assert len(commands) > 10
        for command in commands:
            program, *arguments = shlex.split(command)
            assert program == "scoresde-bench"
            if "speed" in arguments:  # whose networks take their time to plan
                arguments = [word.replace("speed", "quick") for word in arguments]
            if "few_step" in arguments:  # hundreds of cells
                arguments += ["--predictor", "ddim"]
            code, out, err = bench(*arguments, "--dry-run")
            assert code == 0, err
            assert " left" in out
        code, _, err = bench(
            "--suite", "mine.yaml", "--executor", "pool[size=1]", "--registry", "my_rows.yaml", "--out", "here"
        )
        assert code == 0, err
        assert len(rows_in(tmp_path / "here")) == 8

    def test_the_table_of_suites_is_right(self):
        text = next(
            p for p in (Path(__file__).parents[2] / "docs" / "bench.md").read_text().split("\n\n") if "| suite |" in p
        )
        counts = {name: int(cells) for name, cells in re.findall(r"^\| `(\w+)` .*\| (\d+) \|$", text, re.M)}
        assert set(counts) == set(SUITES)
        for name in set(SUITES) - {"speed"}:
            cells = Sweep(default_registry(), "cpu").cells(default_registry().create("suites", name).blocks)
            assert len(cells) == counts[name]
