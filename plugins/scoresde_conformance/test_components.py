"""Collected by ``pytest --pyargs scoresde_conformance``: every chosen component, check by check."""

import warnings

import pytest

from .suite import Case


def test_component(scoresde_case: Case) -> None:
    """The case passes; where it does not apply, or the component is exempt, the reason is shown."""
    result = scoresde_case.run()
    if result.state in ("skipped", "exempt"):
        pytest.skip(result.reason if result.state == "skipped" else f"exempt: {result.reason}")
    if result.error is not None:
        # With the component and its counterpart; the traceback of the error itself comes first.
        raise AssertionError(result.reason) from result.error
    if result.reason:
        warnings.warn(f"{result.kind} {result.name} {result.check}: {result.reason}", stacklevel=1)
