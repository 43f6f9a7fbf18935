"""Reading and exporting runs: seeds, merged runs, the command of a cell, Markdown, CSV, convergence."""

import csv
import io
import json
import math
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import DENOISER, save_models
from scoresde_bench.cli import main
from scoresde_bench.plan.axes import DEFAULTS
from scoresde_bench.report import published
from scoresde_bench.report.export import as_csv, as_markdown
from scoresde_bench.report.lines import CROWD, Layout
from scoresde_bench.report.plot import NFE, TIME, TRAINING, convergences, error, pareto, plots, power
from scoresde_bench.report.ranking import MetricValue, rank
from scoresde_bench.report.repeat import command
from scoresde_bench.report.result_sets import ResultSet, merge, read_result_sets


def row(cell: str = "a", value: float | None = 1.0, stderr: float | None = 0.1, **more: Any) -> dict[str, Any]:
    entry = {"value": value, "stderr": stderr, "floor": 0.5, "floor_stderr": 0.1, "unit": "nats", "better": "lower"}
    base = {"schema": 1, "cell": cell, "status": "done", "reason": None, "target": "mixture2d", "sde": "vp", "nfe": 9.0}
    base |= {"sampler": "pc", "predictor": "ddim", "corrector": "none", "grid": "uniform", "steps": 9, "seed": 0}
    base |= {"samples": 64, "batch_size": 64, "dtype": "float32", "tf32": False, "device": "cpu (EPYC, 1 threads)"}
    base |= {"seconds": 2.0, "samples_per_second": 32.0, "command": "scoresde-bench --samples 64", "metrics": {}}
    return {**base, "metrics": {"m": entry}, **more}


def stored(folder: Path, *rows: dict[str, Any], end: str = "") -> str:
    folder.mkdir(parents=True)
    (folder / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows) + end)
    return str(folder)


# Seeds


def test_only_seeds_are_pooled() -> None:
    rows = [row("a", 1.0, seed=0), row("b", 5.0, sde="ve"), row("c", 3.0, seed=1, seconds=4.0)]
    rows += [row("d", 9.0, seed=2, device="cuda:0 (H100)"), row("e", status="failed", seed=3, metrics={})]
    ranking = rank([*rows, row("f", 7.0, seed=4, run="other")])
    first = ranking.rows[0]
    assert [one["cell"] for one in ranking.rows] == ["a", "b", "d", "e", "f"]
    assert first["seeds"] == [0, 1]
    assert first["metrics"]["m"]["value"] == 2.0
    assert first["metrics"]["m"]["stderr"] == pytest.approx(1.0)  # across: |1 - 3| / 2, not 0.1 / sqrt(2)
    assert first["metrics"]["m"]["floor_stderr"] == pytest.approx(0.1 / math.sqrt(2))
    assert first["seconds"] == 3.0


# Sources


def test_a_run_is_a_folder_a_file_or_committed_results(tmp_path: Path) -> None:
    folder = stored(tmp_path / "run", row())
    for path in (folder, f"{folder}/results.jsonl"):
        (run,) = read_result_sets([path])
        assert (run.name, run.rows) == ("run", [row()])
    (few,) = read_result_sets(["few_step"])
    assert (few.name, len(few.rows)) == ("few_step", 360)


def test_reading_changes_nothing(tmp_path: Path) -> None:
    folder = stored(tmp_path / "run", row(), row("b", status="failed"), row("b"), end='{"schema": 1, "ce')
    before = (tmp_path / "run" / "results.jsonl").read_bytes()
    (run,) = read_result_sets([folder])
    assert [(r["cell"], r["status"]) for r in run.rows] == [("a", "done"), ("b", "done")]
    assert (tmp_path / "run" / "results.jsonl").read_bytes() == before
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["results.jsonl"]


def test_rows_of_an_evaluation_during_training_load(tmp_path: Path) -> None:
    """One run at several training steps: quality against training is one line."""
    rows = [
        row(str(n), 9.0 / n, checkpoint=f"runs/a/models/step_{1000 * n:09d}", network="mlp", training_step=1000 * n)
        for n in (1, 2, 3)
    ]
    ranking = rank(merge(read_result_sets([stored(tmp_path / "run", *rows)])))
    assert ranking.labels == [f"vp 9 steps after {1000 * n} training steps" for n in (1, 2, 3)]
    main(["report", str(tmp_path / "run")])
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Quality against training" in page
    assert "3,000" in page
    assert {r["checkpoint"] for r in ranking.rows} == {"runs/a"}
    (line,) = plots(ranking, TRAINING)[0].series
    assert (len(line.points), len(line.path)) == (3, 3)


def test_disjoint_runs_merge_and_those_that_share_cells_stand_apart() -> None:
    one, two, three = (ResultSet(name, Path(name), rows) for name, rows in (
        ("one", [row("a")]), ("two", [row("b", sde="ve")]), ("three", [row("a", torch="3.0")]),
    ))  # fmt: skip
    assert [r.get("run") for r in merge([one, two])] == [None, None]
    assert [r.get("run") for r in merge([one, two, three])] == ["one", "two", "three"]
    assert rank(merge([one, three])).labels == ["one vp 9 steps", "three vp 9 steps"]


def test_a_name_is_no_formula_in_csv_and_no_markup_in_markdown() -> None:
    for name in ("=1+1", "+1", "-dash", "@sum(a1)", "\tx", "\r=1"):
        (line,) = csv.DictReader(io.StringIO(as_csv(rank([row(checkpoint=name, value=-1.5, reason=name)]))))
        quoted = f"'{name}".replace("\r", "\n")
        assert (line["checkpoint"], line["reason"], line["m"]) == (quoted, quoted, "-1.5")
    names = "[a](http://x) ![b](http://x) [c][d] `code` ~~~ <b> a|b a\\|b langevin[snr=0.1] **bold**"
    text = as_markdown([ResultSet("r", Path(), [row(command="a '\n```\n````'")])], rank([row("a", sde=names)]), [], [])
    escaped = r"[a]\(http://x) ![b]\(http://x) [c]\[d] \`code\` \~\~~ &lt;b> a\|b a\\\|b langevin[snr=0.1] **bold**"
    assert f"| {escaped} | 9 |" in text
    assert text.count("\n`````\n") == 2  # the fence of the command is longer than those in it


# The command of a cell

CELLS = {
    "sampler and parameters": [
        *(
            "--target",
            "mixture2d[layout=ring]",
            "--sde",
            "ve[sigma_max=20]",
            "--corrector",
            "langevin[snr=0.1,norm=level]",
        ),
        *("--predictor", "ddim[eta=0.5]", "--grid", "logsnr", "--steps", "3,5", "--seed", "4", "--samples", "32"),
        *("--batch-size", "20", "--dtype", "float64", "--evaluator", "nll_gap"),
    ],
    "unused axes": ["--target", "mixture2d", "--sampler", "ode", "--sde", "vp", "--samples", "16"],
    "fixed steps": ["--target", "mixture2d", "--sampler", "pc[steps=4]", "--sde", "vp", "subvp", "--samples", "16"],
    "a list for a parameter": [
        *("--target", "mixture2d", "--sde", "ve[prior_mean=[0.1,0.2]]", "--steps", "3", "--samples", "16"),
        *("--evaluator", "energy_distance", "moments"),
    ],
    "the predictors' own grids": [
        *("--target", "mixture2d", "--sde", "vp", "--predictor", "heun", "dpmpp_2m", "ddim", "--steps", "3"),
        *("--samples", "16"),
    ],
    "names with a dash": [
        *("--checkpoint=-dash", "--checkpoint=a b", "--registry=-mine.yaml", "--target", "mixture2d"),
        *("--steps", "3", "--samples", "16"),
    ],
    "several seeds": ["--target", "mixture2d", "--sde", "vp", "--steps", "3", "--seed", "0,1", "--samples", "16"],
}


@pytest.mark.parametrize("arguments", CELLS.values(), ids=CELLS)
def test_the_command_of_a_cell_makes_the_very_cell(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-mine.yaml").write_text("api: 1\n")
    if "--checkpoint=-dash" in arguments:
        save_models(tmp_path, "-dash", "a b", network=DENOISER)
    assert main([*arguments, "--device", "cpu", "--out", "first"]) == 0
    capsys.readouterr()
    (run,) = read_result_sets(["first"])
    for one in rank(run.rows).rows:
        program, *words = shlex.split(command(one))
        assert program == "scoresde-bench"
        assert main([*words, "--dry-run"]) == 0
        keys = [line.split()[0] for line in capsys.readouterr().out.splitlines()[:-1]]
        axes = ("checkpoint", "sde", "predictor", "steps")
        alike = [r for r in run.rows if all(r[axis] == one[axis] for axis in axes)]
        assert keys == [r["cell"] for r in alike if r["seed"] in one.get("seeds", [r["seed"]])]
    assert main([*words, "--out", "again"]) == 0
    (again,) = read_result_sets(["again"])
    assert again.rows[-1]["metrics"] == run.rows[-1]["metrics"]


def test_rows_from_before_evaluators_were_recorded() -> None:
    told = row(command="scoresde-bench --evaluator nll_gap moments --sde vp --registry my.yaml", tf32=True)
    words = shlex.split(command(told))
    assert words[words.index("--evaluator") + 1 :] == ["nll_gap", "moments", "--tf32", "--registry", "my.yaml"]
    assert "--evaluator" not in command(row())  # they had those of the command's default
    assert " ".join(DEFAULTS["evaluator"]) == "nll_gap sliced_wasserstein mode_weights moments energy_distance"


def test_the_command_of_another_program_is_left_alone() -> None:
    assert command(row(command="scoresde evaluate --checkpoint 'a b'")) == "scoresde evaluate --checkpoint 'a b'"


def test_a_checkpoint_brings_its_own_sde() -> None:
    words = shlex.split(command(row(checkpoint="runs/a", network="mlp", target=None)))
    assert words[1:3] == ["--checkpoint", "runs/a"]
    assert not {"--sde", "--network", "--target"} & set(words)


# Markdown and CSV


def exported(folder: str, kind: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["report", folder, "--format", kind]) == 0
    return capsys.readouterr().out


def test_csv_has_every_row_in_full_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        row("a", 1 / 3),
        row("b", None, sde="ve"),
        row("c", status="failed", sde="subvp", reason='no, "x"\n', metrics={}),
    ]
    folder = stored(tmp_path / "run", *rows)
    found = list(csv.DictReader(io.StringIO(exported(folder, "csv", capsys))))
    assert [(r["cell"], r["status"]) for r in found] == [("a", "done"), ("b", "done"), ("c", "failed")]
    assert float(found[0]["m"]) == 1 / 3
    assert (found[0]["m_stderr"], found[0]["m_floor"], found[1]["m"], found[2]["m"]) == ("0.1", "0.5", "", "")
    assert found[2]["reason"] == 'no, "x"\n'
    assert found[0]["command"] == command(rows[0])
    assert None not in found[0]
    assert len(set(found[0])) == len(found[0])


def test_markdown_has_a_line_a_cell_and_breaks_on_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("a", 1.0), row("b", 9.0, sde="v|e<b>"), row("c", status="skip", reason="cannot", sde="x", metrics={})]
    text = exported(stored(tmp_path / "run", *rows), "markdown", capsys)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[2] == "| vp | 9 | 9 | **1.00 ± 0.10** | 32 |"
    assert table[3] == "| v\\|e&lt;b> | 9 | 9 | 9.00 ± 0.10 | 32 |"
    assert "- x 9 steps: skip: cannot" in text
    assert command(rows[0]) in text


def test_published_numbers_stand_beside_and_are_never_ranked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"fid": 2.41, "source": "Song et al. 2021, Table 1"}
    folder = stored(tmp_path / "run", row("a", 5.0, published=known), row("b", 1.0, sde="ve"))
    text = exported(folder, "markdown", capsys)
    assert "| published fid |" in text
    assert "| 5.00 ± 0.10 | 2.41 |" in text
    assert "| **1.00 ± 0.10** | – |" in text
    (first, second) = csv.DictReader(io.StringIO(exported(folder, "csv", capsys)))
    assert (first["published_fid"], first["published_source"], second["published_fid"]) == ("2.41", known["source"], "")
    assert published.text({"published": {"fid": {"value": 2.41, "stderr": 0.02}}}, "fid") == "2.410 ± 0.020"
    assert main(["report", folder]) == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Song et al. 2021, Table 1" in page
    assert '<td class="published">2.41</td>' in page


def test_report_of_two_runs_compares_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = stored(tmp_path / "one", row("a", 1.0)), stored(tmp_path / "two", row("a", 9.0))
    out = tmp_path / "page.html"
    assert main(["report", one, two, "--out", str(out)]) == 0
    page = out.read_text(encoding="utf-8")
    assert "two against one: 1 worse (1 value of 1 cell)" in page
    ids = [part.split('"')[0] for part in page.split('<tr id="')[1:]]
    assert ids == ["cell-a", "cell-a-2"]
    assert main(["report", one, two]) == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["html", "markdown", "csv"])
def test_nothing_of_others_is_overwritten(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = stored(tmp_path / "run", row()), tmp_path / "notes.txt"
    out.write_text("my notes")
    assert main(["report", folder, "--format", kind, "--out", str(out)]) == 2
    assert "notes.txt exists" in capsys.readouterr().err
    assert out.read_text() == "my notes"
    out.unlink()
    for _ in range(2):  # its own it replaces
        assert main(["report", folder, "--format", kind, "--out", str(out)]) == 0


def test_format_follows_the_name_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stored(tmp_path / "run", row())
    for name, head in (("a.md", "<!-- scoresde-bench"), ("a.csv", "cell,"), ("a.html", "<!doctype html>")):
        assert main(["report", folder, "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_text(encoding="utf-8").lstrip().startswith(head)
    capsys.readouterr()
    assert main(["report", folder, "--out", str(tmp_path / "a.docx")]) == 2
    assert main(["report", folder, "--metric", "n"]) == 2
    assert "no done cell has the metric 'n'" in capsys.readouterr().err


def test_reading_rows_takes_no_torch(tmp_path: Path) -> None:
    folder = stored(tmp_path / "run", row())
    code = "import sys; from scoresde_bench.cli import main; main(sys.argv[1:]); sys.exit(int('torch' in sys.modules))"
    for arguments in (["report", folder], ["compare", folder, folder]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, timeout=60, check=False)
        assert done.returncode == 0


# Fronts, panels, convergence


def test_pareto_front_against_its_definition() -> None:
    points = {n: (float(n * 7 % 11), float(n * n % 13)) for n in range(40)}
    front = [
        n
        for n, (cost, bad) in points.items()
        if not any(c <= cost and b <= bad and (c, b) != (cost, bad) for c, b in points.values())
    ]
    assert sorted(pareto(points)) == front


def test_front_is_over_all_panels_and_on_both_costs() -> None:
    rows = [row(f"{n}", 1.0 + n % 5, predictor=f"p{n}", nfe=1.0 + n, samples_per_second=100.0 + n) for n in range(20)]
    ranking = rank(rows)
    (counted,), (timed,) = plots(ranking, NFE), plots(ranking, TIME)
    found = [{p.position for s in plot.series for p in s.points if p.front} for plot in (counted, timed)]
    # quality falls from 0 to 4 and again; fewer evaluations for the first, faster for the last of them
    assert found == [{0}, {15, 16, 17, 18, 19}]
    for plot in (counted, timed):  # of so many lines, those with the best cells and on the front are clear
        clear = {s.line.label for s in plot.series if any(p.mark or p.front for p in s.points)}
        assert {s.line.label for s in plot.series if not s.faint} == clear
        assert 0 < len(clear) < 20


def test_many_lines_are_parted_into_few_panels_on_one_scale() -> None:
    names = [(sde, predictor, grid) for sde in ("a", "b", "c") for predictor in range(9) for grid in ("x", "y", "z")]
    rows = [row(f"{n}", 1.0 + n, sde=s, predictor=f"p{p}", grid=g) for n, (s, p, g) in enumerate(names)]
    drawn = Layout(rank(rows))
    assert len(drawn.titles) == 9
    assert [line.label for line in drawn.legend] == [f"p{n}" for n in range(9)]
    assert len(set(drawn.legend)) == 9
    panels = plots(rank(rows))
    assert [panel.panel for panel in panels] == [f"{sde} {grid}" for sde in "abc" for grid in "xyz"]
    assert len({str(panel.y_ticks) for panel in panels}) == 1
    few = Layout(rank(rows[:CROWD]))
    assert few.titles == [""]


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0, 3.0])
def test_power_is_recovered_with_its_error(order: float) -> None:
    points = [(n, measured(3.0 * n**-order, 0.03 * n**-order)) for n in (5, 10, 20, 40, 80)]
    found = power(points)
    assert found is not None
    assert found[0] == pytest.approx(order, abs=1e-9)
    # the standard error of a straight line through points of equal relative error, 1 % and the 5 % of the model
    logs = [math.log(n) for n in (5, 10, 20, 40, 80)]
    spread = sum((x - sum(logs) / 5) ** 2 for x in logs)
    assert found[1] == pytest.approx(math.hypot(0.01, 0.05) / math.sqrt(spread))


def test_the_line_is_weighted_least_squares() -> None:
    """Of uneven errors, by the normal equations; the deviations are within them, so the scatter does not count."""
    steps, values, errors = (10, 20, 40, 80), (1.0, 0.3, 0.06, 0.02), (0.02, 0.06, 0.006, 0.006)
    found = power([(n, measured(v, e)) for n, v, e in zip(steps, values, errors, strict=True)])
    weights = np.diag([1 / ((e / v) ** 2 + 0.05**2) for v, e in zip(values, errors, strict=True)])
    x = np.stack([np.log(steps), np.ones(4)], 1)
    covariance = np.linalg.inv(x.T @ weights @ x)
    expected = -(covariance @ x.T @ weights @ np.log(values))[0]
    assert found == pytest.approx((expected, math.sqrt(covariance[0, 0])), rel=1e-9)


def test_a_power_may_hold_from_some_number_of_steps_on() -> None:
    """Without noise, a higher-order term bends the start of the line: the order is that of its end."""
    points = [(n, measured(1 / n**2 + 300 / n**4, 0.0)) for n in (4, 8, 16, 32, 64, 128, 256)]
    slopes = [math.log2(a.value / b.value) for (_, a), (_, b) in pairwise(points)]
    assert slopes[0] > 3.3
    found = power(points)
    assert found is not None
    assert found[0] == pytest.approx(2, abs=0.15)
    # As noisy as the bend is large, all points are needed and none is left out.
    noisy = [(n, measured(error.value, 2 * error.value)) for n, error in points]
    assert (power(noisy) or (0, 0))[0] > 2.3


@pytest.mark.parametrize(
    "values", [(1.0, 0.5), (1.0, 2.0, 4.0), (1.0, 0.1, 1.0, 0.1)], ids=["two points", "rising", "no power"]
)
def test_where_no_power_makes_sense(values: tuple[float, ...]) -> None:
    assert power([(10.0 * 2**n, measured(value, 0.01)) for n, value in enumerate(values)]) is None


def measured(value: float, stderr: float, floor: float = math.nan, better: str = "lower") -> MetricValue:
    return MetricValue(value, stderr, floor, 0.0, "", better)


@pytest.mark.parametrize(
    ("value", "floor", "better", "expected"),
    [(3.0, 1.0, "lower", 2.0), (3.0, 5.0, "higher", 2.0), (-3.0, 0.5, "zero", 3.0), (3.0, math.nan, "lower", 3.0)],
)
def test_error_is_what_exceeds_exact_samples(value: float, floor: float, better: str, expected: float) -> None:
    assert error(measured(value, 0.1, floor, better)).value == expected


def test_convergence_shows_the_power_and_leaves_out_noise_and_crossings() -> None:
    def cell(n: int, sde: str, value: float) -> dict[str, Any]:
        entry = {"value": value, "stderr": 0.001, "floor": 0.0, "floor_stderr": 0.001, "better": "zero"}
        return row(f"{sde}{n}", sde=sde, steps=n, nfe=float(n), metrics={"m": entry})

    rows = [cell(n, "clean", 100.0 / n**2) for n in (10, 20, 40, 80)]
    rows += [cell(320, "clean", 0.0005)]  # within the noise: not a part of the fit
    rows += [cell(n, "crosses", value) for n, value in ((10, 1.0), (20, -0.25), (40, 0.0625), (80, -0.015625))]
    ranking = rank(rows)
    (found,) = convergences(ranking, Layout(ranking))
    assert [(line.label, text) for line, text in found.slopes] == [("clean", "2.00 ± 0.04")]
    assert [p.mark for p in found.series[0].points] == ["", "", "", "", "noise"]
    assert found.series[0].path == [(p.x, p.y) for p in found.series[0].points[:4]]


def test_no_convergence_without_three_step_counts() -> None:
    ranking = rank([row("a", 9.0, steps=5), row("b", 3.0, steps=10)])
    assert convergences(ranking, Layout(ranking)) == []
