"""The report in a real browser: script, security policy, widths, print, dark mode. Skipped without a browser."""

from pathlib import Path
from typing import Any

import browser
import pytest
import torch
from scoresde_bench.report.compare import RunComparison as compare
from scoresde_bench.report.page import page
from scoresde_bench.report.ranking import rank
from scoresde_bench.report.result_sets import ResultSet, merge
from scoresde_run.data.units import Units
from scoresde_run.results import picture

pytestmark = pytest.mark.skipif(browser.find() is None, reason="there is no Chromium")

SDES, PREDICTORS, STEPS = ("vp", "ve"), ("ddim", "heun", "ipndm"), (5, 10, 20, 40)
COLUMNS = "[...document.querySelectorAll('#cells th')].map(head => head.innerText.split('\\n')[0].trim())"
SHOWN = "[...document.querySelectorAll('#cells tbody tr')].filter(row => row.offsetParent !== null)"


def row(sde: str, predictor: str, steps: int, better: float = 1.0, **more: Any) -> dict[str, Any]:
    value = better * 40.0 / steps**1.5 * (1 + PREDICTORS.index(predictor)) * (-1 if sde == "ve" else 1)
    floor = {"floor": 0.02, "floor_stderr": 0.01}
    metrics = {
        "nll_gap": {"value": value, "stderr": 0.02, **floor, "unit": "nats", "better": "zero"},
        "moments": {"value": abs(value) + 0.02, "stderr": 0.02, **floor, "unit": "", "better": "lower"},
    }
    base = {"schema": 1, "cell": f"{sde}-{predictor}-{steps}", "status": "done", "target": "mixture2d", "sde": sde}
    base |= {"predictor": predictor, "steps": steps, "nfe": float(steps), "samples_per_second": 900.0 / steps}
    base |= {"seed": 0, "samples": 64, "device": "cpu (EPYC)", "command": "scoresde-bench", "picture": "a.png"}
    base |= {"sampler": "pc"}
    return {**base, "metrics": metrics, **more}


def written(folder: Path, *runs: ResultSet) -> Path:
    ranking = rank(merge(runs))
    changes = [compare(runs[0], run) for run in runs[1:]]
    path = folder / "report.html"
    path.write_text(page(runs, ranking, {}, changes), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two dozen cells with pictures, a failure, and markup in a name."""
    folder = tmp_path_factory.mktemp("report")
    picture.draw(folder / "a.png", Units(levels=256), torch.zeros(4, 1, 8, 8))
    rows = [row(sde, predictor, steps) for sde in SDES for predictor in PREDICTORS for steps in STEPS]
    rows.append(row("vp", "ddim", 7, status="failed", reason="<b onclick=alert(1)>boom</b>"))
    return written(folder, ResultSet("run", folder, rows))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory):
    with browser.Browser.start(tmp_path_factory.mktemp("profile")) as started:
        yield started


def centre(tab: browser.Page, selector: str) -> tuple[float, float]:
    """Scroll to an element; returns its centre in the window."""
    found = tab.run(
        f"(() => {{ const one = document.querySelector({selector!r}); one.scrollIntoView({{block: 'center'}});"
        " return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {"
        "  const box = one.getBoundingClientRect(); done([box.x + box.width / 2, box.y + box.height / 2]) }))) })()"
    )
    return found[0], found[1]


def column(tab: browser.Page, title: str) -> list[str]:
    """The texts of a column in the visible rows."""
    place = tab.run(COLUMNS).index(title)
    return tab.run(f"{SHOWN}.map(row => row.cells[{place}].innerText.trim())")


def test_nothing_is_requested_and_nothing_complains(chromium: browser.Browser, report: Path) -> None:
    tab = chromium.open(report)
    assert tab.run("document.documentElement.classList.contains('scripted')")
    assert tab.requests == [report.resolve().as_uri()]
    assert tab.complaints == []


def test_the_policy_holds_against_what_is_not_ours(chromium: browser.Browser, report: Path) -> None:
    tab = chromium.open(report)
    tab.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.evil = 1'}))")
    tab.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.evil = 1\">')")
    assert tab.run("window.evil") is None
    assert any("Content Security Policy" in complaint for complaint in tab.complaints)


def test_a_heading_sorts_its_column_both_ways(chromium: browser.Browser, report: Path) -> None:
    tab = chromium.open(report)
    head = f"#cells th:nth-child({tab.run(COLUMNS).index('nll_gap') + 1}) [role=button]"
    for sign in (1, -1):
        tab.click(*centre(tab, head))
        values = [abs(float(text.split()[0])) for text in column(tab, "nll_gap")]  # nearest to 0 is best
        assert values == sorted(values, reverse=sign < 0)
        order = tab.run("document.querySelector('th[aria-sort]').ariaSort")
        assert order == ("ascending" if sign > 0 else "descending")
    assert len(values) == 24
    # a name sorts as text, a speed from the fastest, and a key does what a click does
    tab.run("[...document.querySelectorAll('#cells th')].find(one => one.innerText == 'samples/s').firstChild.click()")
    speeds = [float(text) for text in column(tab, "samples/s")]
    assert speeds == sorted(speeds, reverse=True)
    tab.run("document.querySelector('#cells th [role=button]').focus()")
    for kind in ("keyDown", "keyUp"):
        tab.ask("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13)
    assert column(tab, "SDE") == ["ve"] * 12 + ["vp"] * 12


def test_filters_act_on_rows_points_and_pictures_together(chromium: browser.Browser, report: Path) -> None:
    tab = chromium.open(report)
    told = "document.querySelector('#filter output').value"
    assert tab.run(told) == "24 cells"
    tab.run("document.querySelector('#filter select[aria-label=predictor]').value = 'heun'")
    tab.run("document.querySelector('#filter').dispatchEvent(new Event('input'))")
    assert tab.run(told) == "8 of 24 cells"
    assert set(column(tab, "predictor")) == {"heun"}
    clear = "[...document.querySelectorAll('.point:not(.gone)')].map(point => point.getAttribute('href'))"
    assert set(tab.run(clear)) == {f"#cell-{sde}-heun-{steps}" for sde in SDES for steps in STEPS}
    pictures = "[...document.querySelectorAll('.picture')].filter(one => one.offsetParent).length"
    assert tab.run(pictures) == 8
    tab.run("document.querySelector('#filter input').focus()")
    tab.ask("Input.insertText", text="VE 20")
    assert tab.run(told) == "1 of 24 cells"
    assert column(tab, "SDE") == ["ve"]
    tab.run("document.querySelector('#filter').reset()")
    tab.run("document.querySelector('#filter').dispatchEvent(new Event('input'))")
    assert tab.run(told) == "24 cells"


def test_a_point_tells_what_it_is_and_leads_to_its_row(chromium: browser.Browser, report: Path) -> None:
    tab = chromium.open(report)
    assert tab.run("document.querySelector('#tip').hidden")
    point = '.point[href="#cell-ve-heun-5"]'
    x, y = centre(tab, f"{point} .marker")
    tab.move(x + 3, y - 2)  # near is enough
    tip = tab.run("document.querySelector('#tip').innerText").split("\n")
    assert tip[0] == "ve heun 5 steps"
    assert tip[1].startswith("-7.155 ± 0.020 nats")
    assert tip[2] == "5 NFE"
    dim = "[...document.querySelectorAll('.plot [data-line]')].filter(one => !one.classList.contains('dim'))"
    assert set(tab.run(f"{dim}.map(one => one.dataset.line)")) == {"ve heun"}
    box = tab.run(
        "(() => { const b = document.querySelector('#tip').getBoundingClientRect(); return [b.left, b.right] })()"
    )
    assert 0 <= box[0] < box[1] <= 1280
    tab.move(2, 2)
    assert tab.run("document.querySelector('#tip').hidden")
    tab.click(*centre(tab, f"{point} .marker"))
    assert tab.run("location.hash") == "#cell-ve-heun-5"
    assert tab.run("document.querySelector('tr:target').innerText").split()[:2] == ["ve", "heun"]


def test_a_command_is_copied(chromium: browser.Browser, report: Path) -> None:
    tab = chromium.open(report)
    tab.run("navigator.clipboard.writeText = text => { window.copied = text; return Promise.resolve() }")
    tab.click(*centre(tab, "#cells tbody tr .repeat"))
    command = tab.run("document.querySelector('#repeat pre').firstChild.textContent")
    assert tab.run("window.copied") == command
    assert command.startswith("scoresde-bench --target mixture2d --sde vp --sampler pc --predictor ddim --steps 5")
    assert tab.run("document.querySelector('#cells tbody tr .repeat').innerText") == "copied"


def test_without_scripts_the_page_is_whole(chromium: browser.Browser, report: Path) -> None:
    tab = chromium.open(report, scripts=False)
    assert tab.complaints == []
    tab.ask("Emulation.setScriptExecutionDisabled", value=False)  # to look, the page has loaded without
    assert not tab.run("document.documentElement.classList.contains('scripted')")
    assert tab.run("document.querySelector('#filter').offsetParent") is None
    assert tab.run(f"{SHOWN}.length") == 24
    assert tab.run("document.querySelectorAll('.point title').length") > 48
    link = tab.run("document.querySelector('#cells .repeat').getAttribute('href')")
    assert tab.run(f"document.querySelector('{link} pre').textContent").startswith("scoresde-bench ")
    assert tab.run("getComputedStyle(document.querySelector('.live')).display") == "none"


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_no_width_scrolls_sideways(chromium: browser.Browser, report: Path, width: int) -> None:
    tab = chromium.open(report, width=width)
    assert tab.run("document.documentElement.scrollWidth") <= width
    small = tab.run(
        "Math.min(...[...document.querySelectorAll('.plot text')].map(t => t.getBoundingClientRect().height))"
    )
    assert small >= 8


@pytest.mark.parametrize("width", [390, 1280])
def test_labels_of_a_plot_do_not_overlap(chromium: browser.Browser, report: Path, width: int) -> None:
    tab = chromium.open(report, width=width)
    assert tab.run(
        "[...document.querySelectorAll('.plot')].filter(plot => plot.getBoundingClientRect().width).every(plot => {"
        " const boxes = [...plot.querySelectorAll('text')].map(text => text.getBoundingClientRect());"
        " return boxes.every((a, i) => boxes.slice(i + 1).every(b =>"
        "  a.right <= b.left || b.right <= a.left || a.bottom <= b.top + 1 || b.bottom <= a.top + 1)) })"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_light_and_dark(chromium: browser.Browser, report: Path, scheme: str) -> None:
    """At least 4.5 to 1 for text and 3 to 1 for lines, as WCAG 2 requires (1.4.3, 1.4.11)."""
    tab = chromium.open(report, scheme=scheme)
    ratio = (
        "(name => { const style = getComputedStyle(document.documentElement);"
        " const light = name => { const hex = style.getPropertyValue(name).trim();"
        "  const full = hex.length === 4 ? '#' + [...hex.slice(1)].map(c => c + c).join('') : hex;"
        "  const [r, g, b] = [1, 3, 5].map(i => parseInt(full.slice(i, i + 2), 16) / 255)"
        "   .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);"
        "  return 0.2126 * r + 0.7152 * g + 0.0722 * b };"
        " const [a, b] = [light(name), light('--page')].sort((a, b) => b - a); return (a + 0.05) / (b + 0.05) })"
    )
    for name, least in {"--ink": 7, "--soft": 4.5, "--accent": 4.5, "--bad": 4.5}.items():
        assert tab.run(f"{ratio}('{name}')") >= least, name
    for n in range(9):
        assert tab.run(f"{ratio}('--c{n}')") >= 3, n
    background = tab.run("getComputedStyle(document.documentElement).backgroundColor")
    assert (background == "rgb(20, 23, 26)") == (scheme == "dark")


def test_paper_shows_everything_but_the_controls(chromium: browser.Browser, report: Path, tmp_path: Path) -> None:
    tab = chromium.open(report, scheme="dark")
    tab.media("dark", "print")
    assert tab.run("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.run("document.querySelector('#filter').offsetParent") is None
    assert tab.run("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    assert tab.run("document.querySelector('.copy').offsetParent") is None
    tab.pdf(tmp_path / "page.pdf")
    pages = (tmp_path / "page.pdf").read_bytes().count(b"/Type /Page\n")
    assert 2 <= pages <= 9


def test_two_runs_on_one_page(chromium: browser.Browser, tmp_path: Path) -> None:
    before, after = ([row("vp", "ddim", steps, better) for steps in STEPS] for better in (1.0, 3.0))
    tab = chromium.open(written(tmp_path, ResultSet("old", tmp_path, before), ResultSet("new", tmp_path, after)))
    assert tab.complaints == []
    assert column(tab, "run") == ["old"] * 4 + ["new"] * 4
    assert "new against old: 8 worse (8 values of 4 cells)" in tab.run("document.body.innerText")


@pytest.fixture
def long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page with more cells than it draws, shows and embeds at first."""
    monkeypatch.setattr("scoresde_bench.report.page.GALLERY", 3)
    for module in ("page", "lines"):
        monkeypatch.setattr(f"scoresde_bench.report.{module}.MANY", 10)
    picture.draw(tmp_path / "a #1.png", Units(levels=256), torch.zeros(4, 1, 8, 8))
    rows = [row(sde, predictor, steps) for sde in SDES for predictor in PREDICTORS for steps in STEPS]
    runs = [ResultSet("run", tmp_path, [{**one, "picture": "a #1.png"} for one in rows])]
    path = tmp_path / "long.html"
    path.write_text(page(runs, rank(merge(runs)), {}, place=tmp_path), encoding="utf-8")
    return path


def test_a_long_page_shows_its_best_and_finds_the_rest(chromium: browser.Browser, long: Path) -> None:
    tab = chromium.open(long)
    assert tab.run(f"{SHOWN}.length") == 10
    tab.run("document.querySelectorAll('#cells th')[0].querySelector('[role=button]').click()")
    assert column(tab, "SDE") == ["ve"] * 10
    type_filter = "(words => {{ const field = document.querySelector('#filter input'); field.value = words;"
    type_filter += " field.dispatchEvent(new Event('input', {{bubbles: true}})) }})({!r})"
    tab.run(type_filter.format("vp ipndm"))
    assert column(tab, "predictor") == ["ipndm"] * 4  # the last of the page
    tab.run(type_filter.format(""))
    assert tab.run(f"{SHOWN}.length") == 10
    tab.run("document.getElementById('every').click()")
    assert tab.run(f"{SHOWN}.length") == 24
    assert tab.run("document.querySelectorAll('.gallery img[src^=data]').length") == 3
    assert tab.requests == [long.resolve().as_uri()]
    tab.run("document.querySelectorAll('details').forEach(one => { one.open = true })")
    linked = ".gallery img:not([src^=data])"
    assert tab.run(f"document.querySelectorAll('{linked}').length") == 21
    loaded = f"new Promise(done => {{ const one = document.querySelector('{linked}'); one.scrollIntoView();"
    assert tab.run(f"{loaded} one.decode().then(() => done(one.naturalWidth), () => done(0)) }})") > 0


def test_verdicts_are_sorted_and_filtered_by_library(chromium: browser.Browser, tmp_path: Path) -> None:
    def judged(name: str, steps: int, power: int) -> dict[str, Any]:
        about = {"type": f"sampler scoresde:{name}", "version": "1.0", "claims": 2}
        found = row("vp", "ddim", steps, cell=f"{name}-{steps}", sampler=name, parameters={"sampler": about})
        found["metrics"] = {"moments": {"value": steps**-power, "stderr": 0.0, "unit": "", "better": "lower"}}
        return found

    rows = [judged(name, steps, power) for name, power in (("one", 2), ("two", 1)) for steps in STEPS]
    tab = chromium.open(written(tmp_path, ResultSet("run", tmp_path, rows)))
    faults = "[...document.querySelectorAll('#verdicts tbody tr:not(.gone)')].map(row => row.cells[1].textContent)"
    assert tab.run(faults) == ["–", "lost order"]
    tab.run("document.querySelector('#verdicts th:nth-child(3) [role=button]').click()")
    assert tab.run(faults) == ["lost order", "–"]
    tab.run("document.querySelector('#judge select[aria-label=library]').value = 'one 1.0'")
    tab.run("document.querySelector('#judge').dispatchEvent(new Event('input'))")
    assert (tab.run(faults), tab.run("document.querySelector('#judge output').value")) == (["–"], "1 of 2 verdicts")
