"""What an evaluation prints of its rows."""

from __future__ import annotations

from scoresde_run.results.results import Row


def found_texts(found: Row) -> list[str]:
    """The metrics that a measure adds to a row, why others are missing, and what samples cost."""
    texts = metric_texts(found.get("metrics", {}))
    texts += [f"{title} skipped: {reason}" for title, reason in found.get("metrics_skipped", {}).items()]
    if found.get("nfe"):
        texts.append(f"samples, {found['nfe']:g} function evaluations each, {found['seconds']:.1f} s")
    return texts


def metric_texts(metrics: Row) -> list[str]:
    """``test_loss 0.1234 ± 0.0012`` for every metric of a row."""
    return [
        f"{name} {_number(m['value'], m['stderr'])}{' ' * bool(m['unit'])}{m['unit']}" for name, m in metrics.items()
    ]


def _number(value: float | None, error: float | None) -> str:
    if value is None:  # a row on the disk has no NaN
        return "nan"
    return f"{value:.6g}" + (f" ± {error:.2g}" if error is not None and error == error else "")
