"""Verdicts on samplers: every fault from errors that have it, none from errors that have not."""

import re

import pytest
from scoresde_bench.report.export import as_markdown
from scoresde_bench.report.page import facts, page
from scoresde_bench.report.ranking import rank
from scoresde_bench.report.result_sets import ResultSet
from scoresde_bench.report.verdicts import verdicts

STEPS = (10, 20, 40, 80, 160)


def row(sampler, steps, value, order=None, status="done", **more):
    known = {"parameters": {"sampler": {"type": f"sampler scoresde:{sampler}", "claims": order, "version": "1.0"}}}
    metric = {"value": value, "stderr": 0.0, "better": "lower", "unit": "data units"}
    found = {"status": status, "reason": "it fell over" if status == "failed" else None, "target": "gaussian"}
    return {
        "cell": f"{sampler}-{steps}", "sde": "vp", "sampler": sampler, "steps": steps, "seed": 0, **known, **found,
        "metrics": {"gaussian_w2": metric} if status == "done" else {}, "nfe": steps, **more,
    }  # fmt: skip


def judged(**lines):
    """Errors by sampler; each with its claim."""
    rows = [
        row(name, n, value, claim)
        for name, (claim, errors) in lines.items()
        for n, value in zip(STEPS, errors, strict=True)
    ]
    return {verdict.line: verdict for verdict in verdicts(rank(rows))}


def falling(power, scale=1.0):
    return [scale * n**-power for n in STEPS]


def test_what_holds_its_claim_has_no_fault():
    found = judged(second=(2, falling(2.0)), first=(1, falling(1.0)), unclaimed=(None, falling(0.9)))
    assert {line: verdict.faults for line, verdict in found.items()} == dict.fromkeys(found, ())
    assert found["second"].order[0] == pytest.approx(2.0, abs=1e-6)
    assert (found["second"].steps, found["second"].claim) == (160, 2)
    assert found["second"].error.value == pytest.approx(160**-2.0)


@pytest.mark.parametrize(
    ("errors", "faults"),
    [
        ([0.2, 0.16, 0.151, 0.15, 0.1499], ("wrong law",)),
        (falling(1.0), ("lost order",)),
        (falling(1.8), ()),
        (falling(1.6), ("lost order",)),
        ([1e-2, 2.5e-3, 6e-4, 9e-4, 8e-2], ("rising error",)),
        ([1e-2, 2.5e-3, 6e-4, 1.5e-4, 1e-4], ()),
        ([0.3, 0.07, 1e-3, 1e-3, 1e-3], ()),
        ([0.3, 0.07, 0.018, 3e-6, 3e-5], ()),
        ([0.3, 0.07, 0.018, 0.0045, 0.02], ("rising error",)),
    ],
    ids=[
        "plateau",
        "first for second",
        "within 0.3",
        "not within 0.3",
        "rises",
        "slows",
        "small",
        "single precision",
        "rises again",
    ],
)
def test_every_fault_has_its_name(errors, faults):
    assert judged(good=(2, falling(2.0)), judged=(2, errors))["judged"].faults == faults


def test_a_plateau_that_all_reach_is_no_wrong_law():
    level = [0.2, 0.16, 0.151, 0.15, 0.1499]
    assert judged(one=(2, level), two=(2, level))["one"].faults == ()


def test_the_end_of_a_process_is_no_wrong_law_of_its_samplers():
    """Under ve both stop at 3e-3, where the process ends; under vp one goes on."""
    ends = [0.2, 0.01, 0.003, 0.003, 0.003]
    rows = [row("far", n, value, 2, sde="vp") for n, value in zip(STEPS, falling(4.0, 1e3), strict=True)]
    rows += [row(one, n, value, 2, sde="ve") for one in ("a", "b") for n, value in zip(STEPS, ends, strict=True)]
    assert {verdict.faults for verdict in verdicts(rank(rows))} == {()}
    alone = [{**each, "sde": "vp"} for each in rows if each["sampler"] != "b"]
    assert ("wrong law",) in {verdict.faults for verdict in verdicts(rank(alone))}


def test_a_floor_of_a_library_is_not_fitted():
    """Of order 2 until 2.5e-4, to which all of the library fall; fitted, the last three would give 1.2."""
    level = [4 * n**-2.0 + 2.5e-4 for n in STEPS]
    kin = {"parameters": {"sampler": {"type": "sampler scoresde:same", "version": "1.0", "claims": 2}}}
    rows = [row(one, n, value, 2, **kin) for one in "abc" for n, value in zip(STEPS, level, strict=True)]
    assert {verdict.faults for verdict in verdicts(rank(rows))} == {()}
    assert judged(alone=(2, level), other=(None, level))["alone"].faults == ("lost order",)


def test_one_target_where_an_order_holds_clears_it_on_others():
    hard = [row("one", n, value, 2, target="hard") for n, value in zip(STEPS, falling(1.0), strict=True)]
    easy = [row("one", n, value, 2, target="easy") for n, value in zip(STEPS, falling(2.0), strict=True)]
    assert [verdict.faults for verdict in verdicts(rank(hard))] == [("lost order",)]
    assert [verdict.faults for verdict in verdicts(rank(hard + easy))] == [(), ()]


def test_an_error_that_passes_through_zero_is_neither():
    assert judged(good=(1, falling(2.0)), one=(1, [0.3, 0.07, 0.02, 0.0066, 0.0109]))["one"].faults == ()


def test_a_cell_that_failed_is_a_crash():
    rows = [row("one", n, n**-2.0, 2) for n in STEPS] + [row("one", 320, 0.0, 2, status="failed")]
    (verdict,) = verdicts(rank(rows))
    assert verdict.faults == ("crash",)


def test_more_evaluations_than_said_are_a_fault():
    def spent(nfe):
        rows = [row("one", n, n**-2.0, 2) for n in STEPS]
        for each in rows:
            each["parameters"]["sampler"]["evaluations"] = 2
            each["nfe"] = nfe(each["steps"])
        return verdicts(rank(rows))[0].faults

    assert (spent(lambda n: 2 * n), spent(lambda n: 2 * n - 1)) == ((), ())
    assert spent(lambda n: 2 * n + 1) == ("evaluations",)


def test_rows_without_a_claim_are_not_judged():
    assert judged(one=(None, falling(1.0))) == {}


def test_they_are_on_the_page_and_in_markdown(tmp_path):
    rows = [row(name, n, n**-power, 2) for name, power in (("good", 2.0), ("bad", 1.0)) for n in STEPS]
    ranking, run = rank(rows), ResultSet("here", tmp_path, rows)
    text = as_markdown([run], ranking, facts(rows), [])
    assert (
        "| bad | lost order | 1.00 ± 0.05 | 2 | 0.00625 data units | 160 | gaussian_w2 | gaussian | bad 1.0 |" in text
    )
    html = page([run], ranking, {})
    assert re.search(r">bad</td><td class=.name.>lost order</td>.*>gaussian</td><td class=.name.>bad 1.0</td>", html)


def test_a_fault_in_one_line():
    verdict = judged(good=(2, falling(2.0)), bad=(2, falling(1.0)))["bad"]
    assert verdict.text == (
        "lost order: bad of bad 1.0 on gaussian: "
        "order 1.00 ± 0.05, claimed 2, gaussian_w2 0.00625 data units at 160 steps"
    )
