"""The suite under pytest: one test item for each component and check.

    pytest --pyargs scoresde_conformance --scoresde-dist my_package

A package may include them in its own test file: a test function with an argument ``scoresde_case`` runs for the
cases that the options select, and :func:`.test_components.test_component` can be imported. pytest loads this module
at every start, so it imports nothing but pytest.
"""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that select cases; by default everything that is installed."""
    group = parser.getgroup("scoresde", "conformance of scoresde components")
    add = group.addoption
    add("--scoresde-dist", metavar="D", help="check the components of this installed package")
    add("--scoresde-registry", metavar="FILE", action="append", default=[], help="a local registry file")
    add("--scoresde-kind", metavar="KIND", help="check the components of this kind")
    add("--scoresde-name", metavar="NAME", help="check this component of --scoresde-kind, as in 'vp[beta_max=10]'")
    text = "quick: seconds per component; full: all bundled counterparts in all variants (default: full)"
    add("--scoresde-level", default="full", choices=("quick", "full"), help=text)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Generate one item for each case."""
    if "scoresde_case" not in metafunc.fixturenames:
        return
    from scoresde_core import ScoreSDEError, load_registry
    from .suite import candidates, cases

    options = ("kind", "name", "dist", "level")
    kind, name, dist, level = (metafunc.config.getoption(f"scoresde_{key}") for key in options)
    try:
        registry = load_registry(local=metafunc.config.getoption("scoresde_registry"))
        found = cases(candidates(registry, kind, name, dist, level))
    except ScoreSDEError as error:
        raise pytest.Collector.CollectError(str(error)) from error
    metafunc.parametrize("scoresde_case", found, ids=[case.id for case in found])
