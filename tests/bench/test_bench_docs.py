"""The commands of docs/report.md run, and the tables of docs/which_sampler.md are those of the committed rows."""

import re
import shlex
from pathlib import Path

import pytest
from scoresde_bench.cli import main
from scoresde_bench.report.ranking import rank
from scoresde_bench.report.result_sets import merge, read_result_sets

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


def test_the_fewest_evaluations_are_those_of_the_committed_rows() -> None:
    ranking = rank(merge(read_result_sets(["few_step"])))
    sdes, predictors = (list(dict.fromkeys(r[axis] for r in ranking.done.values())) for axis in ("sde", "predictor"))
    good = [row for at, row in ranking.done.items() if all(ranking.as_good(at, metric) for metric in DISTANCES)]
    table = [f"| predictor | {' | '.join(sdes)} |", "|---|---|---|---|"]
    for predictor in predictors:
        cells = []
        for sde in sdes:
            those = [(row["nfe"], row["grid"]) for row in good if (row["predictor"], row["sde"]) == (predictor, sde)]
            least = min(those, default=(0, ""))[0]
            cells.append(f"{least:g} ({', '.join(grid for nfe, grid in those if nfe == least)})" if those else "–")
        table.append(f"| `{predictor}` | {' | '.join(cells)} |")
    assert len(table) == 12
    assert "\n".join(["", *table, ""]) in CHOICE


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
def test_the_tables_of_the_page_on_exact_scores_are_of_the_committed_rows(folder: str) -> None:
    """In one of its tables every line and column is that of rows, and every row is there."""
    ranking, want = rank(merge(read_result_sets([folder]))), dict[tuple[str, ...], str]()
    for position, row in ranking.done.items():
        found = ranking.value(position, "nll_gap")
        text = f"{found.value:.1f} ± {found.stderr:.1f}"
        cell = (row["sde"], row["predictor"], row["corrector"], f"{row['steps']} steps")
        want[cell] = f"**{text}**" if found.as_good else text
    tables = []
    for block in (ROOT / "docs" / "exact_scores.md").read_text(encoding="utf-8").split("\n\n"):
        if block.startswith("| sde | predictor | corrector |"):
            heads, _, *lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines())
            tables.append({(*line[:3], n): cell for line in lines for n, cell in zip(heads[3:], line[3:], strict=True)})
    assert want in [{key: cell for key, cell in table.items() if cell} for table in tables]


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
