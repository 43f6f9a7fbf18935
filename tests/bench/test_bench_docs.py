"""The commands of docs/report.md run, and the tables of docs/which_sampler.md are those of the committed rows."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from scoresde_bench.cli import main
from scoresde_bench.report.result_sets import read_result_sets

ROOT = Path(__file__).parents[2]
CHOICE = (ROOT / "docs" / "which_sampler.md").read_text(encoding="utf-8")
DISTANCES = ("sliced_wasserstein", "moments", "energy_distance", "mode_weights")


def test_the_commands_of_the_page_on_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(
        r"^```bash\n(.*?)^```", (ROOT / "docs" / "report.md").read_text(encoding="utf-8"), re.M | re.S
    )
    for line in block.strip().splitlines():
        program, *arguments = shlex.split(line)
        assert program == "scoresde-bench"
        assert main(arguments) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"before", "after", "both.html", "rows.csv"}


def test_the_fewest_evaluations_are_those_of_the_committed_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["markdown_table.py", "few_step", *DISTANCES])
    runpy.run_path(str(ROOT / "docs/pictures/markdown_table.py"), run_name="__main__")
    table = capsys.readouterr().out
    assert table.count("\n") == 12
    assert table in CHOICE


def test_the_gaps_are_those_of_the_committed_rows() -> None:
    (few,) = read_result_sets(["few_step"])
    table = [line for line in CHOICE.splitlines() if line.startswith("| `") and line.count("|") == 14]
    lines = {line.split("`")[1]: line for line in table}
    assert set(lines) == {"ddim", "dpmpp_2m", "dpmpp_3m", "unipc", "ipndm", "deis", "heun"}
    for predictor, line in lines.items():
        found = [float(text) for text in line.split("|")[2:-1]]
        rows = [r for r in few.rows if r["predictor"] == predictor and r["grid"] == "logsnr"]
        rows.sort(key=lambda r: (("vp", "ve", "subvp").index(r["sde"]), r["nfe"]))
        assert found == [pytest.approx(r["metrics"]["nll_gap"]["value"], abs=0.051, rel=5e-4) for r in rows]


def test_the_distances_of_the_page_on_samplers_are_those_of_the_committed_rows() -> None:
    (few,) = read_result_sets(["few_step"])
    text = (ROOT / "docs" / "samplers.md").read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("| `") and line.count("|") == 14]
    assert len(table) == 9
    for line in table:
        predictor, found = line.split("`")[1], [float(text) for text in line.split("|")[2:-1]]
        rows = [row for row in few.rows if (row["predictor"], row["sde"]) == (predictor, "vp")]
        rows.sort(key=lambda row: (("logsnr", "karras", "uniform").index(row["grid"]), row["nfe"]))
        assert found == [pytest.approx(row["metrics"]["sliced_wasserstein"]["value"], abs=0.00051) for row in rows]


@pytest.mark.parametrize("folder", ["exact_scores", "exact_scores_snr", "exact_scores_steps"])
def test_the_tables_of_the_page_on_exact_scores_are_of_the_committed_rows(
    folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ROOT / "benchmarks" / "results" / folder / "results.jsonl"
    monkeypatch.setattr(sys, "argv", ["markdown_table.py", str(rows), "nll_gap"])
    runpy.run_path(str(ROOT / "docs/pictures/markdown_table.py"), run_name="__main__")
    table = capsys.readouterr().out.strip()
    assert table.count("\n") > 3
    assert table in (ROOT / "docs" / "exact_scores.md").read_text(encoding="utf-8")


def test_the_committed_pictures_are_those_of_the_rows() -> None:
    for folder in ("few_step", "order"):
        results = ROOT / "benchmarks" / "results" / folder
        (run,) = read_result_sets([str(results)])
        named = {row["picture"] for row in run.rows if row["status"] == "done"}
        assert named == {f"pictures/{path.name}" for path in (results / "pictures").iterdir()}


def test_links_lead_somewhere() -> None:
    for page in ("report.md", "which_sampler.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / "docs" / page).read_text(encoding="utf-8")):
            assert (ROOT / "docs" / link).exists(), link
