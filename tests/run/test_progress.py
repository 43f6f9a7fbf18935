"""What a long measurement says of the time that it still takes."""

import pytest
from scoresde_run.machine import progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_batch_says_how_long_the_rest_takes(clock, capsys):
    """Batches of 60 s: after two of ten, eight minutes are left; a task resumed at batch 5 counts from there."""
    shown = progress.Progress(True)
    for k in range(3):
        shown.batch("bits", k, 10)
        clock[0] += 60
    for k in (5, 6):
        shown.batch("encode", k, 10)
        clock[0] += 20
    assert capsys.readouterr().err.splitlines() == [
        "bits, batch 2 of 10, about 9 min left",
        "bits, batch 3 of 10, about 8 min left",
        "encode, batch 6 of 10",
        "encode, batch 7 of 10, about 80 s left",
    ]
