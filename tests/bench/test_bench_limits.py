"""Costs and budgets, want of memory and of time, rows that arrive from elsewhere."""

import itertools
import os
import re
import statistics
import time
import types
from pathlib import Path

import pytest
from runs import rows_in
from scoresde_bench.plan.suite import Block
from scoresde_bench.plan.sweep import Sweep
from scoresde_core.registry import default_registry
from scoresde_run.machine.progress import in_words

SMALL = ["--target", "mixture2d", "--samples", "64", "--evaluator", "nll_gap"]
ONE = [*SMALL, "--sde", "vp", "--steps", "5"]


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

        monkeypatch.setattr(time, "perf_counter", lambda: now[0])
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

        monkeypatch.setattr(time, "perf_counter", lambda: now[0])
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
        monkeypatch.setattr(time, "perf_counter", lambda: now[0])
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
        assert (code, err.count("\n")) == (3, 1)
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
