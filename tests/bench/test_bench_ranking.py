"""Numbers as text, the ranking, and the terminal table."""

import io
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scoresde_bench.report.export import as_markdown
from scoresde_bench.report.labels import labels, plain, quantity
from scoresde_bench.report.ranking import rank
from scoresde_bench.report.table import print_table
from scoresde_core import UsageError


def row(value: float | None = 1.0, stderr: float | None = 0.1, better: str = "lower", **more: Any) -> dict[str, Any]:
    """A done row with one metric ``m``; keywords replace its other entries."""
    entry = {"value": value, "stderr": stderr, "floor": None, "floor_stderr": None, "unit": "nats", "better": better}
    base = {"status": "done", "target": "mnist_mfa", "sde": "vp", "corrector": None, "steps": 100, "nfe": 100.0}
    return {**base, "samples_per_second": 320.0, "metrics": {"m": entry}, **more}


def floored(value: float, floor: float, better: str) -> dict[str, Any]:
    entry = {"value": value, "stderr": 0.3, "floor": floor, "floor_stderr": 0.4, "unit": "", "better": better}
    return row(metrics={"m": entry})


def broken(status: str, reason: str, **more: Any) -> dict[str, Any]:
    return {"status": status, "reason": reason, "target": "mnist_mfa", "steps": 100, **more}


def printed(rows: list[dict[str, Any]], **console: Any) -> str:
    out = io.StringIO()
    print_table(rows, Console(file=out, **console))
    return out.getvalue()


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        pytest.param(3.1415, 0.62, "3.1 ± 0.6", id="one digit of the error"),
        pytest.param(3.1415, 0.214, "3.14 ± 0.21", id="two digits where it leads with 2"),
        pytest.param(12.3456, 0.0961, "12.35 ± 0.10", id="error that rounds up to the next decade"),
        pytest.param(-0.04, 0.5, "0.0 ± 0.5", id="no minus zero"),
        pytest.param(5.0, 312.0, "5 ± 312", id="error above the value"),
        pytest.param(123456.0, 4000.0, "(1.23 ± 0.04)e5", id="large"),
        pytest.param(2.5e-7, 1.0e-8, "(2.50 ± 0.10)e-7", id="small"),
        pytest.param(1e30, 1e-4, "1e+30 ± 0.0001", id="error far below the digits of the value"),
        pytest.param(1.23456, 0.0, "1.235", id="exact"),
        pytest.param(1.23456, math.nan, "1.235", id="no error known"),
        pytest.param(1.5, math.inf, "1.5 ± inf", id="infinite error"),
        pytest.param(math.nan, 0.1, "nan", id="nan"),
        pytest.param(-math.inf, 0.1, "-inf", id="minus infinity"),
    ],
)
def test_quantity_rounds_where_its_error_does(value: float, stderr: float, text: str) -> None:
    assert quantity(value, stderr) == text


@given(st.floats(), st.floats(min_value=0.0))
def test_quantity_takes_every_float(value: float, stderr: float) -> None:
    assert quantity(value, stderr)


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e3))
def test_rounding_loses_less_than_a_fifth_of_the_error(value: float, stderr: float) -> None:
    text = quantity(value, stderr)
    factor = 1.0
    if "e" in text and text.startswith("("):
        text, _, exponent = text.partition(")e")
        text, factor = text[1:], 10.0 ** int(exponent)
    shown, _, error = text.partition(" ± ")
    assert abs(float(shown) * factor - value) <= max(0.2 * stderr, 5.01e-4 * abs(value) * (stderr < 1e-7 * abs(value)))
    assert float(error) * factor == pytest.approx(stderr, rel=0.15)


@pytest.mark.parametrize(
    ("value", "text"), [(200.0, "200"), (1365.33, "1365"), (0.134567, "0.1346"), (1.5e7, "1.5e+07"), (math.nan, "nan")]
)
def test_plain_numbers(value: float, text: str) -> None:
    assert plain(value) == text


def test_labels_name_what_varies_and_differ() -> None:
    rows = [
        row(),
        row(sde="ve", steps=1),
        row(corrector="langevin[snr=0.16]"),
        row(cell="aaaaaa0"),
        row(cell="bbbbbb0"),
    ]
    found = labels(rows)
    assert found[1:3] == ["ve 1 step", "vp langevin[snr=0.16] 100 steps"]
    assert found[3:] == ["vp 100 steps (cell aaaaaa)", "vp 100 steps (cell bbbbbb)"]
    assert len(set(found)) == len(found)


def test_what_a_skipped_row_lacks_does_not_vary() -> None:
    rows = [row(dtype="float32", seed=0), broken("skip", "why", sde="ve", dtype=None)]
    assert labels(rows) == ["vp 100 steps", "ve 100 steps"]


@pytest.mark.parametrize(
    ("better", "values", "best"),
    [
        pytest.param("lower", [3.0, -2.0, 1.0], 1, id="lower"),
        pytest.param("higher", [3.0, -2.0, 1.0], 0, id="higher"),
        pytest.param("zero", [3.0, -2.0, 1.0], 2, id="zero"),
    ],
)
def test_best_by_direction(better: str, values: list[float], best: int) -> None:
    standing = rank([row(v, better=better) for v in values]).standings[0]
    assert (standing.best, standing.tied) == (best, ())


@pytest.mark.parametrize(
    ("better", "values", "tied"),
    [
        # errors 0.3 and 0.4 make the difference uncertain by 0.5: up to 0.98 apart is noise
        pytest.param("lower", (1.0, 1.97), (1,), id="lower, within"),
        pytest.param("lower", (1.0, 1.99), (), id="lower, beyond"),
        pytest.param("higher", (5.0, 4.03), (1,), id="higher, within"),
        pytest.param("higher", (5.0, 4.01), (), id="higher, beyond"),
        pytest.param("zero", (0.5, -1.47), (1,), id="zero compares absolute values, within"),
        pytest.param("zero", (0.5, -1.49), (), id="zero compares absolute values, beyond"),
    ],
)
def test_ties_are_within_the_noise_of_the_difference(better: str, values: tuple[float, float], tied: tuple) -> None:
    standing = rank([row(values[0], 0.3, better), row(values[1], 0.4, better)]).standings[0]
    assert (standing.best, standing.tied) == (0, tied)


@pytest.mark.parametrize(
    ("better", "value", "reached"),
    [
        ("lower", 2.17, True),
        ("lower", 2.19, False),
        ("lower", -5.0, True),
        ("higher", -0.17, True),
        ("higher", -0.19, False),
        ("higher", 9.0, True),
        ("zero", 2.17, True),
        ("zero", 2.19, False),
        ("zero", -0.19, False),
    ],
)
def test_as_good_as_exact_is_an_upper_confidence_limit(better: str, value: float, reached: bool) -> None:
    """The margin is 5 x 0.4, the limit 1.645 x 0.5 above the difference: met up to a difference of 1.178."""
    ranking = rank([floored(value, floor=1.0, better=better)])
    assert ranking.standings[0].as_good == ((0,) if reached else ())
    assert ranking.as_good(0, "m") == reached
    assert ("as good as exact samples of this size (worse by less than 2)" in ranking.sentences[0]) == reached


def test_tables_show_what_is_as_good_as_exact_samples() -> None:
    rows = [floored(2.0, 1.0, "lower"), floored(1.0, 1.0, "lower"), floored(9.0, 1.0, "lower")]
    rows = [{**one, "sde": name} for one, name in zip(rows, "abc", strict=True)]
    text = printed(rows, width=200)
    assert [line.count("°") for line in text.splitlines() if "± 0.3" in line] == [1, 1, 0]
    assert "° as good as exact samples" in text
    plain_text = as_markdown([], rank(rows), [], [])
    assert [line.count("°") for line in plain_text.splitlines() if "± 0.3" in line and "|" in line] == [1, 1, 0]


def test_a_difference_that_noise_hides_is_not_as_good() -> None:
    """Samples at 1e21 have errors of 1e21."""
    far = {"value": 1.2e21, "stderr": 1e21, "floor": 1.0, "floor_stderr": 0.4, "unit": "", "better": "lower"}
    ranking = rank([row(metrics={"m": far})])
    assert not ranking.as_good(0, "m")
    assert "not told apart from them (resolution 2e+21)" in ranking.sentences[0]
    clear = rank([floored(9.0, floor=1.0, better="lower")]).sentences[0]
    assert clear.endswith("exact samples of this size score 1.0 ± 0.4")


def test_an_error_from_few_pieces_tells_less_apart() -> None:
    """3.4 standard errors are significant for errors from many pieces, but not with four degrees of freedom."""
    entry = {"stderr": 0.3, "floor": None, "floor_stderr": None, "unit": "", "better": "lower"}

    def tied(df: float | None) -> tuple[int, ...]:
        entries = [{**entry, "value": value, "df": df} for value in (1.0, 1.0 + 3.4 * 0.3 * math.sqrt(2))]
        return rank([row(metrics={"m": each}, steps=n) for n, each in enumerate(entries)]).standings[0].tied

    assert tied(None) == ()
    assert tied(1) == (1,)


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf], ids=str)
def test_what_is_not_finite_never_wins(bad: float | None) -> None:
    ranking = rank([row(bad), broken("failed", "boom", metrics={"m": {"value": -9.0}}), row(2.0), row(bad)])
    assert (ranking.standings[0].best, ranking.standings[0].tied) == (2, ())
    alone = rank([row(bad), row(bad)])
    assert alone.standings[0].best is None
    assert alone.sentences == ["m: none of 2 cells has a finite value"]
    assert "none with a finite value" in alone.headline


def test_without_a_known_error_nothing_is_told_apart() -> None:
    assert rank([row(1.0, None), row(5.0, None)]).standings[0].tied == (1,)


def test_sentence() -> None:
    rows = [row(3.1, 0.6, "zero", steps=200), row(-3.4, 0.6, "zero", sde="subvp", steps=200), row(9.0, 0.6, "zero")]
    ranking = rank(rows)
    assert ranking.sentences == [
        "m: best is vp 200 steps (3.1 ± 0.6 nats); within its noise: subvp 200 steps",
    ]
    assert ranking.headline == "Best by m: vp 200 steps on mnist_mfa (1 other within its noise)"
    assert [ranking.mark(position, "m") for position in range(3)] == ["best", "tied", ""]


def test_targets_are_ranked_apart() -> None:
    ranking = rank([row(5.0), row(4.0, steps=7), row(0.1, target="mixture2d"), row(0.9, target="mixture2d", sde="ve")])
    assert [(s.target, s.best) for s in ranking.standings] == [("mnist_mfa", 1), ("mixture2d", 2)]
    assert ranking.sentences[0].startswith("m on mnist_mfa: best is vp 7 steps (")
    assert "vp 100 steps on mixture2d" in ranking.headline


def test_primary_metric_is_the_first_unless_given() -> None:
    entries = {"m": {"value": 1.0, "better": "lower"}, "other": {"value": 2.0, "better": "lower"}}
    rows = [broken("failed", "boom"), row(metrics=entries), row(metrics={"late": entries["m"]})]
    assert rank(rows).metrics == ["m", "other", "late"]
    assert rank(rows, "other").metrics == ["other", "m", "late"]
    with pytest.raises(UsageError, match=r"has the metric 'othr'\. Did you mean 'other'"):
        rank(rows, "othr")


@pytest.mark.parametrize("rows", [[], [broken("failed", "boom")]], ids=["no row", "all failed"])
def test_nothing_done(rows: list[dict[str, Any]]) -> None:
    assert rank(rows, "m").sentences == ["No cell is done"]


FIVE = {
    name: {"value": 123.456, "stderr": 0.62, "floor": 0.21, "floor_stderr": 0.55, "unit": "", "better": "lower"}
    for name in ("nll_gap", "sliced_wasserstein", "mode_weights", "moments", "energy_distance")
}


def test_pipe_gets_plain_uncut_lines() -> None:
    rows = [row(metrics=FIVE), row(sde="ve[sigma_max=50]", corrector="langevin[snr=0.16]", metrics=FIVE)]
    rows.append(broken("skip", "needs a discretisation", sde="subvp", metrics={}))
    rows.append(broken("failed", "out of\nmemory [red]", sde="critical"))
    text = printed(rows)
    assert "\x1b" not in text
    lines = text.splitlines()
    (line,) = [line for line in lines if "ve[sigma_max=50]" in line]
    assert line.count("123.5 ± 0.6") == 5
    assert "langevin[snr=0.16]" in line
    (floor,) = [line for line in lines if line.strip().startswith("exact samples")]
    assert floor.count("0.2 ± 0.6") == 5
    assert "1 cell skipped: needs a discretisation  [subvp 100 steps]" in lines
    assert "1 cell failed: out of memory [red]  [critical 100 steps]" in lines


def test_table_marks_best_and_tied() -> None:
    text = printed([row(1.0, 0.3), row(1.5, 0.3, sde="ve"), row(9.0, 0.3, sde="subvp"), row(None, sde="cosine")])
    found = {line.split()[0]: line for line in text.splitlines() if line.split()}
    assert "1.0 ± 0.3 *" in found["vp"] or "1.00 ± 0.30 *" in found["vp"]
    assert " ~ " in found["ve"]
    assert not {"*", "~"} & set(found["subvp"] + found["cosine"])
    assert "nan" in found["cosine"]
    assert "lower is better: m" in text


def test_narrow_terminal_loses_no_number() -> None:
    rows = [row(metrics=FIVE, sde=sde) for sde in ("vp", "subvp")]
    text = printed(rows, width=80, force_terminal=True, color_system=None)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("123.5 ± 0.6") == 10
    assert all(name in text for name in FIVE)


def test_terminal_shows_the_best_in_bold() -> None:
    text = printed([row(1.0), row(9.0, sde="ve")], width=80, force_terminal=True, color_system="standard")
    assert "\x1b[1;32m1.00 ± 0.10 *" in text


def test_ascii_where_nothing_else_is_spoken() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    print_table([row(1.0), row(None, metrics={})], Console(file=out))
    out.flush()
    assert b"1.00 +- 0.10" in raw.getvalue()


def test_metrics_that_did_not_judge_are_named() -> None:
    text = printed([row(metrics_skipped={"mode_weights": "gaussian has no modes"}) for _ in range(2)])
    assert "mode_weights was skipped: gaussian has no modes [2 cells]" in text


def test_only_varying_axes_are_columns() -> None:
    rows = [row(predictor="ancestral", grid=grid, dtype="float32") for grid in ("uniform", "logsnr")]
    header = next(line for line in printed(rows).splitlines() if "SDE" in line)
    assert header.split() == ["SDE", "grid", "steps", "NFE", "(nats)", "samples/s"]


def test_seeds_are_one_line_with_their_number() -> None:
    rows = [row(value, 0.1, seed=seed) for seed, value in enumerate((1.0, 2.0, 3.0))]
    header, *lines = [line.split() for line in printed(rows).splitlines() if "vp" in line or "SDE" in line][:2]
    assert header == ["SDE", "steps", "seeds", "NFE", "(nats)", "samples/s"]
    assert lines == [["vp", "100", "3", "100", "2.0", "±", "0.6", "*", "320"]]


def test_pooled_rows_are_not_named_after_their_seeds() -> None:
    rows = [row(1.0, seed=seed, sde=sde) for sde, seeds in (("vp", (0, 1)), ("ve", (2, 3))) for seed in seeds]
    assert rank(rows).labels == ["vp 100 steps", "ve 100 steps"]


def test_without_errors_a_value_is_as_good_if_it_is_not_worse() -> None:
    for value, good in ((1.0, True), (0.9, True), (1.1, False)):
        exact = {"value": value, "stderr": 0.0, "floor": 1.0, "floor_stderr": 0.0, "unit": "", "better": "lower"}
        assert rank([row(metrics={"m": exact})]).as_good(0, "m") == good
