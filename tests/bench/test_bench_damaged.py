"""Rows that were damaged, merged or edited: named in one line, left out of reports, measured anew."""

import copy
import json
import random

import pytest
from scoresde_run.results.results import ARRIVED, Results, read_rows
from scoresde_run.results.rows import fault

CELLS = ["--target", "mixture2d", "--samples", "64", "--evaluator", "nll_gap", "--sde", "vp", "--steps", "4,5"]
METRIC = {"value": 1.0, "stderr": 0.1, "floor": 0.5, "floor_stderr": 0.1, "unit": "nats", "better": "lower", "df": 9}
ROW = {
    **{"schema": 2, "cell": "a", "status": "done", "reason": None, "target": "mixture2d", "sde": "vp", "sampler": "pc"},
    **{"predictor": "ddim", "corrector": "none", "grid": "uniform", "steps": 9, "seed": 0, "samples": 64, "nfe": 9.0},
    **{
        "batch_size": 64,
        "dtype": "float32",
        "tf32": False,
        "device": "cpu (EPYC)",
        "seconds": 2.0,
        "date": "2026-01-01",
    },
    **{"samples_per_second": 32.0, "command": "scoresde-bench --samples 64", "picture": "pictures/a.png"},
    **{"parameters": {"sde": {"beta": 1.0}}, "plugins": {"scoresde": "1"}, "evaluators": ["m"], "compile_seconds": 0.0},
    **{"metrics": {"m": METRIC}, "metrics_skipped": {"n": "no"}, "cell_seconds": 3.0, "warnings": {"batch": "small"}},
}
X = 56 * "x"
FAULTS = {
    "no mapping": (3, "it is no mapping"),
    "null": (None, "it is no mapping"),
    "no cell": ({**ROW, "cell": None}, "cell is missing"),
    "no status": ({key: ROW[key] for key in ROW if key != "status"}, "status is missing"),
    "a number for text": ({**ROW, "sde": 3}, "sde must be text, got 3"),
    "text for a number": ({**ROW, "seconds": "2"}, 'seconds must be a number, got "2"'),
    "truth for an integer": ({**ROW, "steps": True}, "steps must be an integer, got true"),
    "a fraction of a step": ({**ROW, "steps": 9.5}, "steps must be an integer, got 9.5"),
    "beyond 64 bits": ({**ROW, "seed": 2**63}, f"seed must be an integer, got {2**63}"),
    "a list of metrics": ({**ROW, "metrics": [METRIC]}, "metrics must be a mapping, got [{"),
    "a bare metric": ({**ROW, "metrics": {"m": 3.0}}, "metrics.m must be a mapping, got 3.0"),
    "no metric": ({**ROW, "metrics": {"m": None}}, "metrics.m.value is missing"),
    "no value": ({**ROW, "metrics": {"m": {"stderr": 1.0}}}, "metrics.m.value is missing"),
    "within a metric": ({**ROW, "metrics": {"m": {**METRIC, "df": "4"}}}, 'metrics.m.df must be a number, got "4"'),
    "within a list": ({**ROW, "evaluators": ["m", 3]}, "evaluators.1 must be text, got 3"),
    "long": ({**ROW, "tf32": "x" * 99}, f'tf32 must be true or false, got "{X}...'),
}
VALUES = [
    None,
    0,
    -1,
    2**70,
    1.5,
    1e308,
    float("inf"),
    float("nan"),
    True,
    "",
    "x",
    "\ud800",
    [],
    ["a", None],
    {},
    {"a": 1},
]


@pytest.mark.parametrize(("row", "text"), FAULTS.values(), ids=FAULTS)
def test_a_fault_names_its_field(row, text):
    assert fault(ROW) is None
    assert fault(row).startswith(text)


@pytest.fixture
def damaged(bench, tmp_path):
    """A folder of two cells, of which one has a hand-edited row between marks of a merge."""
    bench(*CELLS, "--out", "here")
    path = tmp_path / "here" / "results.jsonl"
    good, bad = path.read_text().splitlines()
    edited = bad.replace('"steps": 5', '"steps": "5"')
    path.write_text(f"{good}\n<<<<<<< ours\n{edited}\n\n")
    return path


WARNINGS = [
    "warning: {}, line 2, is not a result row: it is not JSON; it is left out",
    'warning: {}, line 3, is not a result row: steps must be an integer, got "5"; it is left out',
]


@pytest.mark.parametrize(
    "arguments", [["report", "here"], ["report", "here", "--format", "csv"], ["compare", "here", "here"]], ids=" ".join
)
def test_reports_leave_bad_rows_out_and_say_so(bench, damaged, arguments):
    code, _, err = bench(*arguments)
    assert code == 0
    told = [text.format("here/results.jsonl") for text in WARNINGS]
    assert err.splitlines() == told * arguments.count("here")


def test_the_same_command_measures_bad_rows_anew_and_keeps_their_lines(bench, damaged):
    before = damaged.read_text()
    code, out, _ = bench(*CELLS, "--out", "here", "--dry-run")
    assert (code, out.count("already done")) == (0, 1)
    code, out, err = bench(*CELLS, "--out", "here")
    assert code == 0
    assert err.splitlines() == [text.format("here/results.jsonl") for text in WARNINGS]
    assert "1 of 2 cells are already done" in out
    assert damaged.read_text().startswith(before)
    assert sorted(row["steps"] for row in read_rows(damaged, tell=lambda text: None).values()) == [4, 5]
    assert bench(*CELLS, "--out", "here")[1].startswith("2 of 2 cells are already done")


def test_huge_values_of_several_seeds_are_pooled(bench, tmp_path):
    rows = [{**ROW, "cell": c, "seed": s, "metrics": {"m": {**METRIC, "value": v}}} for c, s, v in
            (("a", 0, 1e308), ("b", 1, -1e308))]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = bench("report", "rows.jsonl", "--format", "csv")
    assert (code, err) == (0, "")
    assert ",0.0,1e+308," in out  # the mean, and its error


def test_a_file_that_an_editor_marked_and_ended_otherwise_is_read(tmp_path):
    """A mark of byte order, carriage returns, empty lines, and U+2028 within text, which ends no line."""
    rows = [{**ROW, "cell": cell, "reason": "a\u2028b"} for cell in "ab"]
    text = "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert list(read_rows(tmp_path / "rows.jsonl")) == ["a", "b"]


def test_a_last_row_that_only_lacks_its_line_end_is_kept(bench, tmp_path):
    bench(*CELLS, "--out", "here")
    path = tmp_path / "here" / "results.jsonl"
    whole = path.read_text()
    path.write_text(whole.removesuffix("\n"))
    assert len(read_rows(path)) == 2
    assert bench(*CELLS, "--out", "here")[1].startswith("2 of 2 cells are already done")
    assert path.read_text() == whole


def test_a_row_that_arrived_damaged_is_told_and_left(tmp_path, capsys):
    results = Results(tmp_path)
    (tmp_path / ARRIVED).mkdir()
    (tmp_path / ARRIVED / "a.json").write_text(json.dumps({**ROW, "steps": "9"}))
    with results.claim():
        assert results.rows == {}
    assert "a.json is not a result row: steps must be an integer" in capsys.readouterr().err


def test_no_damage_stops_a_command(bench, tmp_path):
    """Random edits of one value, and random damage of the text, in one of three rows."""
    choice = random.Random(5)
    others = [json.dumps({**ROW, "cell": cell, "seed": seed}) for cell, seed in (("b", 1), ("c", 2))]
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "results.jsonl").write_text("\n".join([json.dumps(ROW), *others]))
    (tmp_path / "edited").mkdir()
    for _ in range(150):
        row = copy.deepcopy(ROW)
        holder = choice.choice([row, row, row["metrics"], row["metrics"]["m"], row["parameters"], row["plugins"]])
        holder[choice.choice([*holder, "seeds", "published", "measured", "folder"])] = choice.choice(VALUES)
        text = json.dumps(row)
        at = choice.randrange(len(text))
        text = choice.choice(
            [text, text, text[:at], text + text, text[:at] + choice.choice('"{}[],\\') + text[at + 1 :]]
        )
        (tmp_path / "edited" / "results.jsonl").write_text("\n".join([text, *others]))
        for command in (["report", "edited", "--format", "markdown"], ["compare", "kept", "edited", "--json"]):
            code, out, err = bench(*command)
            assert code in (0, 1), text  # 1: compare found a change
            assert out, text
            assert all(line.startswith("warning: edited/results.jsonl, line 1, is not a") for line in err.splitlines())
