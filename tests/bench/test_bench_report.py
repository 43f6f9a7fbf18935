"""The report and the pictures: self-contained, complete, safe, and robust to unusual numbers."""

import base64
import errno
import hashlib
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scoresde_bench.report import plot, scales
from scoresde_bench.report.page import write_report
from scoresde_bench.report.ranking import rank
from scoresde_core.errors import FileError
from scoresde_run.data.units import Units
from scoresde_run.results import picture

COMMAND = "scoresde-bench --corrector 'langevin[snr=0.16]'"


def row(cell: int, value: float | None = 1.0, stderr: float | None = 0.1, **more: Any) -> dict[str, Any]:
    floor = {"floor": 0.02, "floor_stderr": 0.06}
    base = {
        **{"schema": 1, "cell": f"{cell:016x}", "status": "done", "reason": None, "target": "mnist_mfa", "sde": "vp"},
        **{"predictor": "ancestral", "corrector": "none", "grid": "uniform", "steps": 100, "nfe": 100.0, "seed": 0},
        **{"samples": 64, "samples_per_second": 10.0, "seconds": 6.4, "picture": None, "device": "cpu (EPYC)"},
        **{"torch": "2.15.0", "plugins": {"scoresde": "0.1.0"}, "git": None, "date": "2026-11-22T12:00:00+00:00"},
        "metrics": {"nll_gap": {"value": value, "stderr": stderr, **floor, "unit": "nats", "better": "zero"}},
    }
    return {**base, **more}


class Reader(HTMLParser):
    """Collects tags and attributes, and checks that tags nest."""

    VOID = frozenset({"meta", "img", "path", "rect", "circle", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]


def report(rows: list[dict[str, Any]], folder: Path, command: str = COMMAND) -> tuple[str, Reader]:
    page = write_report(rows, folder / "report.html", command).read_text(encoding="utf-8")
    return page, Reader(page)


def sweep(count: int) -> list[dict[str, Any]]:
    """This many done rows, over SDEs, correctors and steps."""
    sdes, correctors = ("vp", "subvp", "ve", "cosine"), tuple(f"langevin[snr=0.{n}]" for n in range(1, 11))
    rows = []
    for n in range(count):
        steps = 10 * 2 ** (n // 40)
        axes = {"sde": sdes[n % 4], "corrector": correctors[n // 4 % 10], "steps": steps, "nfe": 2.0 * steps}
        rows.append(row(n, 500.0 / steps + n % 7, 0.5, **axes))
    return rows


@pytest.mark.parametrize("count", [1, 12, 200])
def test_every_done_cell_is_there(count: int, tmp_path: Path) -> None:
    rows = sweep(count)
    _, reader = report(rows, tmp_path)
    assert {f"cell-{r['cell']}" for r in rows} == {a["id"] for a in reader.all("tr") if "id" in a}
    points = [a["href"] for a in reader.all("a") if a.get("class") == "point"]
    assert {f"#cell-{r['cell']}" for r in rows} == set(points)
    assert all(points.count(point) >= 2 for point in points)  # against evaluations and against time
    assert COMMAND in reader.words
    assert "cpu (EPYC)" in reader.words
    assert rank(rows).headline in reader.words


def test_page_is_self_contained(tmp_path: Path) -> None:
    sample_grid(torch.zeros(4, 1, 8, 8), tmp_path / "pictures" / "a.png")
    page, reader = report([row(0, picture="pictures/a.png")], tmp_path)
    assert not re.search(r"https?://|//[a-z]|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    assert not {"link", "iframe", "object", "embed"} & {tag for tag, _ in reader.seen}
    assert reader.all("script") == reader.all("style") == [{}]
    assert not [
        name for _, attributes in reader.seen for name in attributes if name.startswith("on") or name == "style"
    ]


def test_policy_admits_this_script_and_this_style_alone(tmp_path: Path) -> None:
    page, reader = report([row(0)], tmp_path)
    (policy,) = [a["content"] for a in reader.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none'; ")
    assert "unsafe" not in str(policy)
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in str(policy)


def test_hostile_names_are_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    rows = [row(0, sde=evil, device=evil), row(1, sde="ve", target=evil)]
    rows += [row(2, status="failed", reason=evil, metrics=None, nfe=None), row(3, metrics={evil: {"value": 1.0}})]
    page, reader = report(rows, tmp_path, command=evil)
    assert page.count("<script") == 1
    assert reader.all("script") == [{}]
    assert not reader.all("img")
    assert reader.words.count("<script>alert(1)</script>") > 5


def test_pictures_are_embedded_as_they_are(tmp_path: Path) -> None:
    path = sample_grid(torch.rand(5, 1, 8, 8), tmp_path / "pictures" / "a.png")
    assert path is not None
    _, reader = report([row(0, picture="pictures/a.png"), row(1, picture="pictures/gone.png")], tmp_path)
    (image,) = reader.all("img")
    assert base64.b64decode(str(image["src"]).removeprefix("data:image/png;base64,")) == path.read_bytes()
    assert reader.words.count("The picture is missing.") == 1


def test_best_picture_is_never_folded_away(tmp_path: Path) -> None:
    sample_grid(torch.zeros(1, 1, 8, 8), tmp_path / "a.png")
    rows = [row(n, 90.0 - n, steps=n, picture="a.png") for n in range(60)]
    page, reader = report(rows, tmp_path)
    shown, folded = page.split("<summary>36 more</summary>")
    assert shown.count("data:image/png") == 24
    assert folded.count("data:image/png") == 36
    assert reader.all("img")[0]["alt"] == "Samples of vp 59 steps"


@pytest.mark.parametrize("count", [500, 501])
def test_beyond_500_cells_pictures_are_links_and_the_leading_lines_are_drawn(count: int, tmp_path: Path) -> None:
    sample_grid(torch.zeros(1, 1, 8, 8), tmp_path / "a b.png")
    page, reader = report([{**one, "picture": "a b.png"} for one in sweep(count)], tmp_path)
    sources = [str(image["src"]) for image in reader.all("img")]
    drawn = {a["href"] for a in reader.all("a") if a.get("class") == "point"}
    rest = [row for row in reader.all("tr") if row.get("class") == "rest"]
    if count == 500:
        assert all(source.startswith("data:") for source in sources)
        assert (len(drawn), rest, "img-src data:;" in page, "show all" in page) == (500, [], True, False)
        return
    assert [source[:5] for source in sources[:24]] == ["data:"] * 24
    assert set(sources[24:]) == {"a%20b.png"}
    assert all(image.get("loading") == "lazy" for image in reader.all("img")[24:])
    assert (len(rest), "img-src data: 'self' file:;" in page) == (1, True)
    assert 450 < len(drawn) <= 500
    assert f"{len(drawn)} cells of 501" in reader.words
    ranking = rank(sweep(count))
    best = {f"#cell-{ranking.rows[s.best]['cell']}" for s in ranking.standings if s.best is not None}
    assert best <= drawn


@pytest.mark.parametrize(
    "picture", ["../secret.png", "notes.txt", ".", "\0"], ids=["outside", "no PNG", "folder", "null"]
)
def test_nothing_but_pictures_of_its_folder_is_embedded(picture: str, tmp_path: Path) -> None:
    inside = tmp_path / "run"
    sample_grid(torch.rand(1, 1, 8, 8), tmp_path / "secret.png")
    inside.mkdir()
    (inside / "notes.txt").write_text("private")
    _, reader = report([row(0, picture=picture)], inside)
    assert not reader.all("img")
    assert "The picture is missing." in reader.words


def test_cells_that_did_not_run_are_grouped_by_reason(tmp_path: Path) -> None:
    common = {"metrics": {}, "nfe": None, "seconds": None}
    rows = [row(n, status="skip", reason="needs a discretisation", steps=n, **common) for n in range(3)]
    rows.append(row(9, status="failed", reason="out of memory", sde="ve", **common))
    _, reader = report(rows, tmp_path)
    assert reader.words.count("needs a discretisation") == 1
    assert re.search(r"3 skipped\s+needs a discretisation", reader.words)
    assert re.search(r"1 failed\s+out of memory", reader.words)
    assert "No cell is done" in reader.words
    assert not reader.all("svg")


ODD = {
    "nan": [math.nan, 1.0],
    "null": [None, 1.0],
    "infinite": [math.inf, -math.inf, 1.0],
    "negative": [-3.0, 0.0, 40.0],
    "all zero": [0.0, 0.0],
    "zero alone": [0.0],
    "equal": [2.0, 2.0],
    "diverged": [1e30, 1.0, 2.0],
    "extreme": [1.7e308, 5e-324, -1.7e308],
    "tiny": [5e-324],
    "nothing finite": [math.nan],
}


@pytest.mark.parametrize("stderr", [0.1, 0.0, None, math.inf, 1e308], ids=str)
@pytest.mark.parametrize("values", ODD.values(), ids=ODD.keys())
def test_odd_values_break_no_plot(values: list[float | None], stderr: float | None, tmp_path: Path) -> None:
    rows = [row(n, value, stderr, steps=10**n, nfe=10.0**n) for n, value in enumerate(values)]
    page, _ = report(rows, tmp_path)
    drawings = re.findall(r"<svg class=\"plot\".*?</svg>", page, re.DOTALL)
    assert (len(drawings) >= 2) == any(v is not None and abs(v) < 1e300 for v in values)
    for drawing in drawings:
        shapes = re.sub(r"<title>.*?</title>|<text[^>]*>|</?text|>[^<]*<", "", drawing)
        assert not re.search(r"nan|inf", shapes)
    for found in plot.plots(rank(rows)):
        for point in (point for series in found.series for point in series.points):
            assert scales.LEFT < point.x < scales.RIGHT
            assert scales.TOP <= point.upper <= point.y <= point.lower <= scales.BOTTOM


@pytest.mark.parametrize("nfe", [None, 0.0, math.nan, -1.0], ids=str)
def test_cells_without_a_cost_are_named_below_the_plot(nfe: float | None) -> None:
    (found,) = plot.plots(rank([row(0), row(1, sde="ve", nfe=nfe)]))
    assert found.undrawn == ["ve 100 steps"]
    assert [tick.at for tick in found.x_ticks] == [(scales.LEFT + scales.RIGHT) / 2]


@pytest.mark.parametrize(
    ("values", "floor", "kind"),
    [
        pytest.param([1.0, 100.0], 0.5, "logarithmic", id="positive over decades"),
        pytest.param([1.0, 2.0], 1.5, "linear", id="positive, close"),
        pytest.param([1.0, 2.0], -0.1, "linear", id="signs differ, close"),
        pytest.param([-1.0, 200.0], 0.5, "asinh", id="signs differ, decades"),
    ],
)
def test_axis_suits_the_values(values: list[float], floor: float, kind: str) -> None:
    entry = {"stderr": 0.1, "floor": floor, "floor_stderr": 0.2, "better": "zero"}
    rows = [row(n, metrics={"m": {"value": v, **entry}}, steps=n, nfe=1.0 + n) for n, v in enumerate(values)]
    (found,) = plot.plots(rank(rows))
    assert found.axis == kind
    heights = [point.y for point in found.series[0].points]
    assert heights == sorted(heights, reverse=True)  # greater values stand higher


def test_positions_on_logarithmic_axes_are_proportional_to_logarithms() -> None:
    values, costs = (0.1, 1.0, 10.0), (10.0, 100.0, 1000.0)
    entry = {"stderr": 0.001, "floor": None, "floor_stderr": None, "better": "lower"}
    rows = [
        row(n, nfe=c, steps=n, metrics={"m": {"value": v, **entry}})
        for n, (v, c) in enumerate(zip(values, costs, strict=True))
    ]
    (found,) = plot.plots(rank(rows))
    first, second, third = found.series[0].points
    assert second.x - first.x == pytest.approx(third.x - second.x)
    assert second.y - first.y == pytest.approx(third.y - second.y)
    at = {tick.text: tick.at for tick in found.y_ticks}
    assert at["1"] == pytest.approx(second.y)
    assert {tick.text: tick.at for tick in found.x_ticks}["100"] == pytest.approx(second.x)


@pytest.mark.parametrize("kind", ["linear", "logarithmic", "asinh"])
def test_a_margin_is_the_same_share_of_both_ends_of_every_scale(kind: str) -> None:
    scale = scales.Scale(kind, 0.5)
    low, high = scale.padded(2.0, 5000.0)
    bottom, least, most, top = map(scale, (low, 2.0, 5000.0, high))
    assert [least - bottom, top - most] == pytest.approx([0.06 * (most - least)] * 2)


def test_diverged_cell_does_not_flatten_the_others() -> None:
    values = (1e30, 1.0, 3.0, 10.0)
    rows = [row(n, v, steps=n, nfe=10.0 * 2**n) for n, v in enumerate(values)]
    (found,) = plot.plots(rank(rows))
    points = found.series[0].points
    assert [point.off for point in points] == ["above", "", "", ""]
    assert points[1].y - points[3].y > 0.1 * (scales.BOTTOM - scales.TOP)
    assert found.beyond == ["vp 0 steps: 1e+30 ± 0.1 nats"]


def test_lines_join_the_steps_of_one_combination_and_its_seeds_are_one_point() -> None:
    rows = [row(n, sde=("vp", "ve")[n % 2], steps=s, nfe=s, seed=n // 2 % 2) for n, s in enumerate([10] * 4 + [20] * 4)]
    (found,) = plot.plots(rank(rows))
    assert [series.line.label for series in found.series] == ["vp", "ve"]
    assert [len(series.points) for series in found.series] == [2, 2]
    assert [len(series.path) for series in found.series] == [2, 2]
    assert len({(series.line.colour, series.line.marker) for series in found.series}) == 2


def test_band_is_the_confidence_interval_of_the_floor() -> None:
    entry = {"stderr": 0.1, "floor": 10.0, "floor_stderr": 2.0, "better": "lower"}
    rows = [row(n, metrics={"m": {"value": v, **entry}}, steps=n) for n, v in enumerate((5.0, 20.0))]
    (found,) = plot.plots(rank(rows))
    assert found.axis == "linear"
    at = {tick.text: tick.at for tick in found.y_ticks}
    unit = (at["10"] - at["20"]) / 10.0
    assert found.band is not None
    top, height = found.band
    assert top == pytest.approx(at["10"] - 2 * 1.959964 * unit)
    assert height == pytest.approx(4 * 1.959964 * unit)


def test_targets_have_plots_of_their_own() -> None:
    found = plot.plots(rank([row(0), row(1, target="mixture2d")]))
    assert [p.target for p in found] == ["mnist_mfa", "mixture2d"]


def test_meaning_of_further_metrics(tmp_path: Path) -> None:
    path = write_report([row(0)], tmp_path / "r.html", COMMAND, {"nll_gap": "Nats that are too many."})
    assert "Nats that are too many. Nearest to 0 is best. Exact samples of this size score 0.02 ± 0.06 nats." in Reader(
        path.read_text(encoding="utf-8")
    ).words.replace("\n", " ")


def test_unwritable_report_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"cannot write .*report.html: "):
        write_report([row(0)], tmp_path / "file" / "report.html", COMMAND)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def sample_grid(samples: torch.Tensor, path: Path, columns: int = 8, rows: int = 4) -> Path:
    """A picture as a cell has it."""
    picture.draw(path, Units(levels=256), samples, columns=columns, count=columns * rows, least=56, clear=True)
    return path


def opened(path: Path) -> "np.ndarray[Any, Any]":
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())))


@pytest.mark.parametrize(
    ("shape", "size", "bands"),
    [
        pytest.param((40, 1, 28, 28), (2 * (8 * 30 - 2), 2 * (4 * 30 - 2)), 2, id="grey, a full grid, magnified"),
        pytest.param((40, 3, 32, 64), (8 * 66 - 2, 4 * 34 - 2), 4, id="colour, wide"),
        pytest.param((5, 2, 64, 64), (5 * 66 - 2, 64), 2, id="two channels, fewer than a line"),
        pytest.param((11, 1, 64, 64), (8 * 66 - 2, 2 * 66 - 2), 2, id="an unfinished line"),
    ],
)
def test_grid_size(shape: tuple[int, ...], size: tuple[int, int], bands: int, tmp_path: Path) -> None:
    pixels = opened(sample_grid(torch.zeros(shape), tmp_path / "new" / "a.png"))
    assert pixels.shape == (size[1], size[0], bands)


def test_grid_shows_each_sample_in_its_place(tmp_path: Path) -> None:
    levels = torch.tensor([-1.0, 0.0, 1.0, 7.0, math.inf, -math.inf, math.nan])
    pixels = opened(sample_grid(levels.view(7, 1, 1, 1).expand(7, 1, 64, 64), tmp_path / "a.png", columns=3, rows=3))
    centres = pixels[32::66, 32::66]
    assert centres[..., 0].flatten().tolist()[:7] == [0, 128, 255, 255, 255, 0, 0]
    assert centres[..., 1].flatten().tolist() == [255] * 7 + [0, 0]  # tiles opaque, the rest transparent
    assert pixels[32, 64, 1] == 0


def test_colours_and_channel_mean(tmp_path: Path) -> None:
    colour = torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    assert opened(sample_grid(colour, tmp_path / "a.png"))[0, 0].tolist() == [255, 0, 128, 255]
    pair = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 64, 64)
    assert opened(sample_grid(pair, tmp_path / "b.png"))[0, 0].tolist() == [191, 255]


def test_points_become_a_scatter_plot(tmp_path: Path) -> None:
    right = torch.tensor([[1.0, 0.0]]).repeat(50, 1)
    odd = torch.tensor([[math.nan, 0.0], [math.inf, 1.0]])
    pixels = opened(sample_grid(torch.cat([right, odd]), tmp_path / "a.png"))
    assert pixels.shape == (480, 480, 4)
    blue = (pixels[..., 2].astype(int) - pixels[..., 0] > 60) & (pixels[..., 3] > 100)
    assert blue[:, 240:].sum() > 10
    assert blue[:, :240].sum() == 0


def test_scatter_of_nothing_finite(tmp_path: Path) -> None:
    assert opened(sample_grid(torch.full((9, 2), math.nan), tmp_path / "a.png")).shape == (480, 480, 4)


def test_curves_lie_in_their_tiles(tmp_path: Path) -> None:
    """A line that rises through its tile, and one at the bottom of the next, in colours of their channels."""
    events = torch.zeros(3, 2, 50)
    events[0, 0] = torch.linspace(0, 4, 50)
    picture.draw(tmp_path / "a.png", Units(), events, columns=2)
    pixels = opened(tmp_path / "a.png").astype(int)
    assert pixels.shape == (144, 240, 4)
    blue, orange = pixels[..., 2] - pixels[..., 0] > 60, pixels[..., 0] - pixels[..., 2] > 60
    heights = [float(blue[:72, left : left + 12].nonzero()[0].mean()) for left in (10, 54, 98)]
    # A tile has a margin of 5 %: the line begins 6 pixels from its left and 3.6 above its bottom.
    assert heights == pytest.approx([72 - 3.6 - 64.8 * (x - 6) / 108 for x in (16, 60, 104)], abs=1)
    for top, left in ((0, 0), (0, 120), (72, 0)):
        where = orange[top : top + 72, left : left + 120].nonzero()
        assert (where[0].min() > 64, where[1].min() < 10, where[1].max() > 110) == (True, True, True)
    assert not (blue | orange)[72:, 120:].any()
    with Image.open(tmp_path / "a.png") as image:
        assert image.text == {"Description": "curves: the bottom of a tile is 0, its top 4"}  # type: ignore[attr-defined]


def test_curves_of_grey_levels_stay_in_their_range(tmp_path: Path) -> None:
    assert picture.draw(tmp_path / "a.png", Units(levels=256), torch.tensor([[-9.0, 0.0, 0.5]])) == (
        "curves: the bottom of a tile is -1, its top 0.5"
    )


@pytest.mark.parametrize("shape", [(4, 3), (1, 1), (2, 2, 1), (2, 1, 2, 3, 4, 5)], ids=str)
def test_every_other_shape_is_a_curve(shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = opened(sample_grid(torch.rand(shape), tmp_path / "a.png")).astype(int)
    assert (pixels[..., 2] - pixels[..., 0] > 60).any()


def test_volumes_are_their_middle_slices(tmp_path: Path) -> None:
    """Of (H, W, D) = (4, 6, 8): W x D, H x D and H x W, next to each other, from the top."""
    volume = torch.full((1, 1, 4, 6, 8), -1.0)
    volume[0, 0, 2, 1, 7], volume[0, 0, 3, 3, 5], volume[0, 0, 0, 2, 4] = 1.0, 0.0, 0.5
    picture.draw(tmp_path / "a.png", Units(levels=256), volume)
    pixels = opened(tmp_path / "a.png")
    expected = np.zeros((6, 8 + 8 + 6), np.uint8)
    expected[1, 7], expected[3, 8 + 5], expected[0, 16 + 2] = 255, 128, 191
    assert pixels.tolist() == expected.tolist()


def test_points_beside_what_was_observed_have_a_colour_each(tmp_path: Path) -> None:
    picture.draw(tmp_path / "a.png", Units(), torch.tensor([[-1.0, 0.0]] * 9), torch.tensor([[1.0, 0.0]] * 9))
    pixels = opened(tmp_path / "a.png").astype(int)
    warm, cold = (sign * (pixels[..., 0] - pixels[..., 2]) > 60 for sign in (1, -1))
    assert warm[:, :240].any()
    assert cold[:, 240:].any()
    assert not warm[:, 240:].any()
    assert not cold[:, :240].any()


def test_picture_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"cannot write .*a.png"):
        sample_grid(torch.zeros(1, 1, 8, 8), tmp_path / "file" / "a.png")


def test_a_disk_that_fills_up_leaves_the_former_page_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report([row(1)], tmp_path / "report.html", COMMAND)
    before = path.read_bytes()

    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        write(self, data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FileError, match="No space left on device"):
        write_report([row(1), row(2)], path, COMMAND)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
