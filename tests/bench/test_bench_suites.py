"""Suites as data: bundled ones, files, faults in one line."""

import json
import re

import pytest
from runs import rows_in, save_models
from scoresde_bench.plan.suite import Suite
from scoresde_bench.plan.sweep import Sweep
from scoresde_core.registry import default_registry
from scoresde_run.commands.shell import main

SMALL = ["--target", "mixture2d", "--samples", "64", "--evaluator", "nll_gap"]
ONE = [*SMALL, "--sde", "vp", "--steps", "5"]
SUITES = [entry.row.name for entry in default_registry().entries("suites")]


def cells_of(*arguments, bench):
    """(key, title) of every cell that a command would run."""
    code, out, err = bench(*arguments, "--dry-run")
    assert code == 0, err
    return [tuple(line.split("  ")[:2]) for line in out.splitlines()[:-1]]


class TestSuites:
    @pytest.mark.parametrize("name", SUITES)
    def test_a_bundled_suite_reads_back_and_builds_its_cells(self, name):
        suite = default_registry().create("suites", name)
        assert suite.about
        assert Suite.from_plain(suite.plain(), name) == suite
        if name != "speed":  # whose networks take their time to plan
            cells = Sweep(default_registry(), "cpu").cells(suite.blocks)
            reasons = {cell.skip for cell in cells if cell.skip and "pip install" not in cell.skip}
            assert reasons == set()

    def test_blocks_of_one_target_may_have_samples_of_their_own(self, bench, tmp_path):
        """Each is compared with as many exact samples."""
        block = "{target: mixture2d, sde: vp, steps: 5, evaluator: sliced_wasserstein, samples: %d}"
        (tmp_path / "two.yaml").write_text(f"format: 1\nblocks: [{block % 64}, {block % 32}]\n")
        assert bench("--suite", "two.yaml", "--out", "here")[0] == 0
        assert [row["samples"] for row in rows_in(tmp_path / "here")] == [64, 32]

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
        heads = next(line for line in out.splitlines() if line.startswith(" SDE"))
        assert heads.split() == ["SDE", "steps", "NFE", "(nats)", "published", "fid", "samples/s"]
        lines = {line.split()[1]: line for line in out.splitlines() if line.startswith(" vp ")}
        assert re.search(r" ±.* 3\.240 ± 0\.020 +[\d.e+]+ $", lines["5"])
        assert lines["4"].count("±") == 1

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
    assert (code, out, err.count("\n")) == (3 if "newer" in err or "format 9" in err else 2, "", 1)
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
