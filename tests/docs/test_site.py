"""The site: built strictly and offline, with every component and committed result, and nothing fetched from elsewhere.

``.ci/run`` builds it first and names the folder in SCORESDE_SITE; elsewhere it is built here, if mkdocs is installed.
"""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import scoresde
from scoresde_core import default_registry
from scoresde_core.kinds import KINDS

ROOT = Path(__file__).parents[2]
FETCHED = dict.fromkeys(("script", "img", "source", "iframe", "video", "audio", "embed"), "src")
"""What a browser fetches by itself, besides the links of a page's head."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    if built := os.environ.get("SCORESDE_SITE"):
        return Path(built)
    if find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    environment = {
        **os.environ,
        "NO_MKDOCS_2_WARNING": "1",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Page(HTMLParser):
    """The addresses that a page fetches, those that it links to, and its anchors."""

    def __init__(self, path):
        super().__init__()
        self.fetched, self.links, self.anchors, self.path = [], [], set(), path
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "link" and found.get("rel") not in ("canonical", "next", "prev"):
            self.fetched.append(found.get("href", ""))
        if found.get(FETCHED.get(tag, "")):
            self.fetched.append(found[FETCHED[tag]])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])


@pytest.fixture(scope="module")
def pages(site):
    return {path.relative_to(site).as_posix(): Page(path) for path in sorted(site.rglob("*.html"))}


def test_nothing_is_fetched_from_elsewhere(pages, site):
    for name, page in pages.items():
        for address in page.fetched:
            assert not urlsplit(address).netloc, (name, address)
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.findall(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//", text), sheet


def test_every_link_and_anchor_is_there(pages, site):
    """In the built pages, so that generated ones count; Python's own names may have links that leave the site."""
    checked = 0
    for name, page in pages.items():
        for address in page.links + page.fetched:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc or name == "404.html":
                continue
            target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), (name, address)
            if parts.fragment and target.suffix == ".html" and not parts.fragment.startswith("__"):
                found = pages[target.relative_to(site.resolve()).as_posix()].anchors
                assert unquote(parts.fragment) in found, (name, address)
                checked += 1
    assert checked > 500


def test_every_component_has_its_formula_parameters_and_paper(pages):
    registry = default_registry()
    entries = registry.entries(None)
    assert len(entries) > 100
    for entry in entries:
        kind, name = entry.row.kind, entry.row.name
        page = pages[f"reference/{kind}.html"]
        text = page.path.read_text(encoding="utf-8")
        assert f"<code>{name}</code>" in text, entry
        assert KINDS[kind].data or name in page.anchors, entry
        for number in re.findall(r"arXiv:(\d+\.\d+)", entry.row.paper or ""):
            assert f"https://arxiv.org/abs/{number}" in text, entry
    langevin = pages["reference/correctors.html"].path.read_text(encoding="utf-8")
    assert "signal-to-noise ratio that sets the step size" in langevin
    assert "<code>0.16</code>" in langevin
    assert ":class:" not in "".join(page.path.read_text(encoding="utf-8") for page in pages.values())


def test_every_public_name_has_its_docstring(pages):
    shown = [page for name, page in pages.items() if name.startswith("reference/python")]
    text = "".join(page.path.read_text(encoding="utf-8") for page in shown)
    for name in scoresde.__all__:
        assert re.search(rf'id="[\w.]*\.{name}"', text), name
    assert "Tweedie" in text or "grad log p_t(x)" in text


def test_every_committed_result_says_how_it_was_made(pages):
    folders = [path.parent.name for path in (ROOT / "benchmarks" / "results").glob("*/results.jsonl")]
    assert len(folders) > 5
    for folder in folders:
        text = pages[f"results/{folder}.html"].path.read_text(encoding="utf-8")
        for word in ("Device: ", "Measured: ", "torch: ", "scoresde-bench "):
            assert word in text, (folder, word)


def test_the_gallery_ran(pages, site):
    scripts = sorted((ROOT / "docs" / "gallery").glob("[0-9]*.py"))
    assert len(scripts) == 7
    for script in scripts:
        assert len(script.read_text(encoding="utf-8").splitlines()) <= 60, script
        text = pages[f"gallery/{script.stem}.html"].path.read_text(encoding="utf-8")
        assert "language-text" in text or list((site / "gallery").glob(f"{script.stem}_*.png")), script


def test_every_page_opens_with_its_answer(pages):
    """The first element after the title is text, not a heading, a table or code."""
    for name, page in pages.items():
        text = page.path.read_text(encoding="utf-8")
        body = text.split("</h1>", 1)
        if name != "404.html" and not name.endswith("page.html"):  # a report has its headline first
            assert re.match(r"\s*<p>", body[1]), name
