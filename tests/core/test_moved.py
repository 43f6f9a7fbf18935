"""Names that moved keep working for this version, with a warning at the line that uses them."""

import importlib
import sys

import pytest

import scoresde_core
from scoresde_core import moved

MODULES, NAMES = moved.table("modules"), moved.table("names")


@pytest.fixture(autouse=True)
def unimported():
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        if name in MODULES:
            del sys.modules[name]


@pytest.mark.filterwarnings("ignore:.* moved to:DeprecationWarning")  # of the old name's own package
@pytest.mark.parametrize("old", MODULES)
def test_a_module_imports_by_its_old_name(old):
    new = importlib.import_module(MODULES[old])
    with pytest.warns(DeprecationWarning, match=f"{old} moved to {MODULES[old]}: "):
        found = importlib.import_module(old)
    public = [name for name in vars(new) if not name.startswith("_")]
    assert [name for name in public if getattr(found, name) is not getattr(new, name)] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_the_core_is_found(name):
    with pytest.warns(DeprecationWarning, match=f"scoresde_core.{name} moved to {NAMES[name]}.{name}") as heard:
        found = getattr(scoresde_core, name)
    assert found is getattr(importlib.import_module(NAMES[name]), name)
    assert heard[0].filename == __file__


@pytest.mark.parametrize(
    ("module", "name"),
    [("evaluator", "Evidence"), ("score", "NetworkScore"), ("sampler", "diverged"), ("document", "dump")],
)
def test_a_name_is_found_in_its_former_module(module, name):
    with pytest.warns(DeprecationWarning, match=f"scoresde_core.{module}.{name} moved to") as heard:
        assert callable(getattr(importlib.import_module(f"scoresde_core.{module}"), name))
    assert heard[0].filename == __file__


def test_an_unknown_name_is_an_error():
    with pytest.raises(AttributeError, match=r"module 'scoresde_core' has no attribute 'Nothing'"):
        scoresde_core.Nothing  # noqa: B018
