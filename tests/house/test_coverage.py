"""docs/coverage.md: what it names is there, and what is there is named."""

import re
from pathlib import Path

import pytest
from scoresde_core.kinds import KINDS
from scoresde_core.registry import load_registry

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`(\w+)/(\w+)`", PAGE)) - {("kind", "name")}
REGISTRY = load_registry()
ELSEWHERE = {"presets", "checkpoints", "suites", "executors"}  # kinds with pages of their own


@pytest.mark.parametrize("kind", sorted(set(KINDS) - ELSEWHERE))
def test_the_page_names_every_component_and_no_other(kind):
    bundled = {entry.row.name for entry in REGISTRY.entries(kind) if entry.owner == "scoresde"}
    assert {name for of, name in NAMED if of == kind} == bundled


def test_every_name_has_a_kind():
    assert {kind for kind, _ in NAMED} <= set(KINDS)


def test_the_tests_and_pages_exist():
    tests, pages = set(re.findall(r"`(test_\w+\.py)`", PAGE)), set(re.findall(r"\]\(([\w.]+)\)", PAGE))
    assert tests
    assert all(any((ROOT / "tests").glob(f"*/{name}")) for name in tests)
    assert all((ROOT / "docs" / name).is_file() for name in pages)


def test_every_row_of_a_table_names_its_tests():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| there", "|---"))]
    assert len(rows) > 50
    assert all(re.search(r"\| (`test_\w+\.py`(, )?)+ \|$", row) for row in rows)
