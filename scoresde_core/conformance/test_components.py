"""Collected by ``pytest --pyargs scoresde_core.conformance``: every chosen component, check by check."""

import pytest

from .suite import Case


def test_component(scoresde_case: Case) -> None:
    """The case passes; where it does not apply, the reason is shown."""
    result = scoresde_case.run()
    if result.state == "skipped":
        pytest.skip(result.reason)
    if result.error is not None:
        raise result.error
