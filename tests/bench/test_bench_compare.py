"""scoresde-bench compare: what counts as worse, what is new or missing, and the exit code."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from scoresde_bench.cli import main
from scoresde_bench.report.compare import RunComparison as compare
from scoresde_bench.report.result_sets import ResultSet
from scoresde_core.errors import UsageError
from scoresde_run.results.certainty import holm


def row(value: float | None = 1.0, stderr: float | None = 0.1, better: str = "lower", **more: Any) -> dict[str, Any]:
    base = {"schema": 1, "status": "done", "target": "mnist_mfa", "sde": "vp", "predictor": "ddim", "steps": 10}
    base |= {"seed": 0, "samples": 64, "batch_size": 64, "dtype": "float32", "tf32": False, "nfe": 10.0}
    base |= {"device": "cpu (EPYC)", "torch": "2.6.0", "samples_per_second": 100.0, "metrics": {}}
    if value is not None or stderr is not None:
        base["metrics"] = {"m": {"value": value, "stderr": stderr, "unit": "nats", "better": better}}
    found = {**base, **more}
    return {"cell": f"{found['sde']}-{found['steps']}-{found['seed']}-{found['torch']}", **found}


def run(name: str, *rows: dict[str, Any]) -> ResultSet:
    return ResultSet(name, Path(), list(rows))


def written(folder: Path, *rows: dict[str, Any]) -> str:
    folder.mkdir(parents=True)
    (folder / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(folder)


def test_versions_devices_and_dates_are_ignored_names_are_not() -> None:
    before = run("a", row(), row(sde="ve"))
    after = run("b", row(torch="2.15.0", device="cuda:0 (H100)", date="later", git="f00"), row(sde="ve", steps=20))
    found = compare(before, after)
    assert (found.matched, found.missing, found.new) == (1, ["ve 10 steps"], ["ve 20 steps"])
    assert found.speed.ratios == {}
    assert found.speed.unlike == 1
    assert not found.is_worse


def test_two_versions_of_a_library_are_compared_cell_by_cell() -> None:
    def of(version: str, value: float) -> dict[str, Any]:
        about = {"sampler": {"type": "sampler scoresde:diffusers", "version": version}}
        return row(value, sampler="diffusers[scheduler=DDIM]", parameters=about)

    found = compare(run("a", of("0.41.0", 1.0)), run("b", of("0.42.1", 3.0)))
    assert (found.matched, [change.z for change in found.worse]) == (1, [pytest.approx(20 / 2**0.5)])
    assert dict(found.sections)["libraries"] == ["diffusers 0.41.0 -> diffusers 0.42.1"]
    assert compare(run("a", of("0.41.0", 1.0)), run("b", of("0.41.0", 1.0))).libraries == []


@pytest.mark.parametrize(
    ("better", "before", "after", "z"),
    [
        # 0.3 and 0.4 make the difference uncertain by 0.5
        pytest.param("lower", 1.0, 3.0, 4.0, id="lower, worse"),
        pytest.param("lower", 3.0, 1.0, -4.0, id="lower, better"),
        pytest.param("higher", 1.0, 3.0, -4.0, id="higher, better"),
        pytest.param("zero", -1.0, 3.0, 4.0, id="zero, worse by 2 of absolute value"),
        pytest.param("zero", -3.0, 1.0, -4.0, id="zero, better"),
        pytest.param("zero", -3.0, 3.0, 0.0, id="zero, as far on the other side"),
    ],
)
def test_differences_are_in_combined_standard_errors(better: str, before: float, after: float, z: float) -> None:
    (change,) = compare(run("a", row(before, 0.3, better)), run("b", row(after, 0.4, better))).changes
    assert change.z == pytest.approx(z)


def test_holm_against_its_textbook_example() -> None:
    # four hypotheses at 5 %: 0.005 <= 0.05 / 4, 0.01 <= 0.05 / 3, 0.03 > 0.05 / 2 stops, whatever comes after
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([]) == []
    assert holm([0.04]) == [True]


def test_false_alarms_are_rare_whatever_the_number_of_cells() -> None:
    """Of 60 unchanged cells: false alarms nearly always with two standard errors, about 5 % with Holm."""
    noise = random.Random(0)
    alarms = {None: 0, 2.0: 0}
    for _ in range(100):
        pair = [run(name, *(row(noise.gauss(5.0, 0.1), steps=n) for n in range(1, 61))) for name in "ab"]
        for threshold in alarms:
            found = compare(*pair, threshold)
            alarms[threshold] += bool(found.worse or found.better)
    assert alarms[2.0] > 80  # 1 - 0.9545^60 = 94 % expected
    assert alarms[None] <= 13  # 5 expected; more than 13 has a chance of 0.05 %


def test_a_real_change_is_found_among_many() -> None:
    rows = [row(5.0, 0.1, steps=n) for n in range(1, 101)]
    found = compare(run("a", *rows), run("b", *rows[:-1], row(5.8, 0.1, steps=100)))
    assert [change.label for change in found.worse] == ["vp 100 steps"]
    assert found.is_worse
    assert "+5.7 standard errors" in found.worse[0].text


def test_a_threshold_takes_the_place_of_the_procedure() -> None:
    before, after = run("a", row(1.0, 0.3)), run("b", row(1.8, 0.4))  # 1.6 standard errors
    assert not compare(before, after).worse
    assert compare(before, after, 1.5).worse
    assert not compare(before, after, 1.7).worse


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        pytest.param((1.0, None), (1.1, 0.1), "unjudged", id="an error is not known"),
        pytest.param((1.0, 0.0), (1.1, 0.0), "worse", id="exact, different"),
        pytest.param((1.0, 0.0), (1.0 + 1e-9, 0.0), "same", id="exact, equal but for rounding"),
        pytest.param((1.0, None), (1.0, None), "same", id="equal"),
        pytest.param((1.0, 0.1), (math.nan, 0.1), "worse", id="became nan"),
        pytest.param((None, 0.1), (1.0, 0.1), "better", id="was nan"),
        pytest.param((None, 0.1), (math.inf, 0.1), "same", id="neither is finite"),
    ],
)
def test_odd_errors_and_values(before: tuple, after: tuple, verdict: str) -> None:
    found = compare(run("a", row(*before)), run("b", row(*after)))
    lists = {"worse": found.worse, "better": found.better, "unjudged": found.unjudged}
    assert [name for name, entries in lists.items() if entries] == ([] if verdict == "same" else [verdict])


def test_seeds_are_combined_before_they_are_compared() -> None:
    before = run("a", *(row(value, 0.1, seed=seed) for seed, value in enumerate((1.0, 2.0, 3.0))))
    (change,) = compare(before, run("b", row(9.0, 0.1, seed=7))).changes
    assert change.before.value == pytest.approx(2.0)
    assert change.before.stderr == pytest.approx(1 / math.sqrt(3))  # across seeds, s = 1, not 0.1 / sqrt(3)
    assert change.z == pytest.approx(7 / math.hypot(1 / math.sqrt(3), 0.1))


def test_a_cell_that_no_longer_runs_is_worse() -> None:
    broken = row(None, None, status="failed", reason="out\nof memory")
    found = compare(run("a", row()), run("b", broken))
    assert found.broken == ["vp 10 steps: failed: out of memory"]
    assert found.is_worse
    back = compare(run("b", broken), run("a", row()))
    assert (back.fixed, back.is_worse) == (["vp 10 steps: was failed: out of memory"], False)


def test_a_seed_that_fails_breaks_its_combination() -> None:
    good = [row(seed=seed) for seed in (0, 1)]
    assert compare(run("a", *good), run("b", good[0], {**good[1], "status": "failed", "reason": "nan"})).broken


def test_costs_speed_and_lost_metrics() -> None:
    after = row(nfe=20.0, samples_per_second=50.0, metrics={})
    found = compare(run("a", row()), run("b", after))
    assert found.costs == ["vp 10 steps: 10 -> 20 function evaluations per sample"]
    assert found.missing == ["vp 10 steps: m"]
    assert found.speed.ratios == {"vp 10 steps": 0.5}
    assert found.speed.text == "0.50 times as fast (geometric mean of 1 cell)"
    assert not found.is_worse


def test_nothing_in_common_is_an_error_that_says_why() -> None:
    with pytest.raises(UsageError, match="no cell in common: sde is vp in one and ve in the other"):
        compare(run("a", row()), run("b", row(sde="ve")))


def test_exit_codes_and_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = written(tmp_path / "old", row(1.0), row(1.0, steps=20))
    new = written(tmp_path / "new", row(9.0), row(1.0, steps=20))
    assert main(["compare", old, old]) == 0
    assert "nothing worse or better beyond the noise (2 values of 2 cells)" in capsys.readouterr().out
    assert main(["compare", old, new]) == 1
    out = capsys.readouterr().out
    assert "new against old: 1 worse (2 values of 2 cells)" in out
    assert "vp 10 steps  m  1.00 ± 0.10 -> 9.00 ± 0.10 nats  (+56.6 standard errors)" in out
    assert main(["compare", new, old]) == 0
    assert main(["compare", old, new, "--threshold", "100"]) == 0


def test_json_is_complete_and_strict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = written(tmp_path / "old", row(1.0, 0.0)), written(tmp_path / "new", row(9.0, 0.0))
    assert main(["compare", old, new, "--json"]) == 1
    data = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (data["schema"], data["is_worse"], data["cells"], data["speed"]) == (1, True, 1, {"vp 10 steps": 1.0})
    (change,) = data["worse"]
    assert (change["before"], change["after"], change["standard_errors"]) == (1.0, 9.0, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{old}", "nowhere"], "no results at nowhere"),
        (["{old}", "{empty}"], "no results.jsonl in"),
        (["{old}", "{broken}"], "line 1, is not a result row"),
        (["{old}", "{newer}"], "has schema 99"),
        (["{old}"], "AFTER"),
        (["{old}", "{old}", "--threshold", "-1"], "--threshold must be at least 0, got -1"),
        (["{old}", "{old}", "--threshold", "nan"], "--threshold must be at least 0, got nan"),
        (["{old}", "{other}"], "no cell in common"),
    ],
    ids=["nowhere", "empty folder", "no rows", "newer", "one argument", "negative", "nan", "nothing in common"],
)
def test_errors_are_one_line_with_a_code_of_their_own(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"old": written(tmp_path / "old", row()), "other": written(tmp_path / "other", row(sde="ve"))}
    places["newer"] = written(tmp_path / "newer", row(schema=99))
    for name, text in (("empty", None), ("broken", "[1]\n")):
        (tmp_path / name).mkdir()
        places[name] = str(tmp_path / name)
        if text:
            (tmp_path / name / "results.jsonl").write_text(text)
    expected = 3 if {"{broken}", "{newer}"} & set(arguments) else 2  # of a file, of a request; 1 says that it is worse
    assert main(["compare", *(argument.format(**places) for argument in arguments)]) == expected
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_errors_from_few_pieces_raise_no_more_alarms() -> None:
    """Unchanged cells with errors from 5 pieces alarm in at most 5 % of comparisons, also with pooled seeds."""
    draw = random.Random(1)

    def entry() -> dict[str, Any]:
        pieces = [draw.gauss(0.0, 1.0) for _ in range(5)]
        middle = sum(pieces) / 5
        stderr = math.sqrt(sum((piece - middle) ** 2 for piece in pieces) / 4 / 5)
        return {"value": middle, "stderr": stderr, "unit": "", "better": "lower", "df": 4.0}

    def measured(name: str, seeds: int) -> ResultSet:
        return run(name, *[row(metrics={"m": entry()}, steps=n, seed=s) for n in range(10) for s in range(seeds)])

    for seeds in (1, 3):
        alarms = [compare(measured("a", seeds), measured("b", seeds)) for _ in range(200)]
        share = sum(bool(found.worse or found.better) for found in alarms) / len(alarms)
        assert share <= 0.081, (seeds, share)  # 5 % and two standard errors of 200 trials


def test_a_value_without_errors_is_worse_if_it_differs_by_more_than_rounding() -> None:
    for value, worse in ((1.0005, True), (1.0000001, False), (0.9995, False)):
        assert compare(run("a", row(1.0, 0.0)), run("b", row(value, 0.0))).is_worse == worse
