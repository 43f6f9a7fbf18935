"""Sweeps: the syntax of axes, grids, seeds; usage errors in one line."""

import json
import math
import re
import shlex
import statistics
from pathlib import Path

import pytest
import torch
from runs import rows_in
from scoresde_bench.plan.suite import Block
from scoresde_bench.plan.sweep import Sweep, sweep
from scoresde_bench.report.combinations import pool
from scoresde_core.registry import default_registry

SMALL = ["--target", "mixture2d", "--samples", "64", "--evaluator", "nll_gap"]
ONE = [*SMALL, "--sde", "vp", "--steps", "5"]
SUITES = [entry.row.name for entry in default_registry().entries("suites")]


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
        assert "is not registered: register it, or choose one with --grid" in err
        assert bench(*axes, "--grid", "logsnr", "--dry-run")[0] == 0


USAGE = {
    "no predictor": (["--predictor", ""], "--predictor: the value is empty: give one, or leave the option out"),
    "an empty list": (["--predictor", "heun", "ddim[eta=[]]"], "empty list for eta in 'ddim[eta=[]]'"),
    "an empty list within": (["--sampler", "pc[predictor=ddim[eta=[]]]"], "empty list for eta in 'ddim[eta=[]]'"),
    "unknown suite": (["--suite", "few_stepp"], "Did you mean 'few_step'"),
    "no suite file": (["--suite", "gone.yaml"], "suite file gone.yaml not found"),
    "no jobs": (["--jobs", "0"], "--jobs must be at least 1, got 0"),
    "negative jobs": (["--jobs=-2"], "--jobs must be at least 1, got -2"),
    "too many steps": (["--steps", "1" + "0" * 10], "--steps must be at most 1000000000, got 10000000000"),
    "a digit of another kind": (["--steps", "²"], "--steps must be integers of at least 1, got '²'"),
    "a seed beyond 64 bits": (["--seed", str(2**63)], f"--seed must be at most {2**63 - 1}, got {2**63}"),
    "thousands of digits": (["--seed", "9" * 5000], f"--seed must be at most {2**63 - 1}, got 999"),
    "too many samples": (["--samples", str(10**12)], f"--samples must be at most 1000000000, got {10**12}"),
    "too many jobs": (["--jobs", "100000"], "jobs"),
    "too long": (["--timeout", "9" * 30], "--timeout must be a time at most 100000h"),
    "too many cells": (
        ["--seed", ",".join(map(str, range(3000))), "--steps", ",".join(map(str, range(1, 3001)))],
        "9,000,000 cells are more than 100,000: sweep fewer values, or in several runs",
    ),
    "too many components": (
        ["--predictor", f"heun[s_churn=[{','.join(map(str, range(999)))}],s_noise=[{','.join(map(str, range(999)))}]]"],
        "998,001 predictors in heun[s_churn=",
    ),
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
