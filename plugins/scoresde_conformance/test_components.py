"""Collected by ``pytest --pyargs scoresde_conformance``: every selected component, check by check."""

import warnings

import pytest
from .suite import Case


def test_component(scoresde_case: Case) -> None:
    """Run the case; skip it with the reason if it does not apply or the component is exempt."""
    result = scoresde_case.run()
    if result.state in ("skipped", "exempt"):
        pytest.skip(result.reason if result.state == "skipped" else f"exempt: {result.reason}")
    if result.error is not None:
        # Names the component and its counterpart; the traceback of the original error comes first.
        raise AssertionError(result.reason) from result.error
    if result.reason:
        warnings.warn(f"{result.kind} {result.name} {result.check}: {result.reason}", stacklevel=1)
