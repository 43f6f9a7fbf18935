"""What checks expect: tensors that agree, means of zero, refusals with a reason."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from scoresde_core import FileError
from .candidate import Skip

T = TypeVar("T")


def some(found: Iterable[T], reason: str) -> Iterator[T]:
    """Yield what is found; :class:`Skip` with the reason if that is nothing."""
    number = 0
    for number, each in enumerate(found, 1):  # noqa: B007
        yield each
    if not number:
        raise Skip(reason)


def or_skip(read: Callable[[], T]) -> T:
    """Return ``read()``; :class:`Skip` for files that are not on this machine."""
    try:
        return read()
    except FileError as error:
        raise Skip(str(error)) from error


def is_like(what: str, value: Tensor, shape: Sequence[int], dtype: torch.dtype) -> None:
    """A tensor is finite, and has this shape and dtype."""
    found, expected = (tuple(value.shape), value.dtype), (tuple(shape), dtype)
    assert found == expected, f"{what} is {found}, expected {expected}"
    assert bool(value.isfinite().all()), f"{what} is not finite"


def is_zero(values: Tensor, what: str, more: float = 0.0, *, verb: str = "is off by") -> None:
    """Independent values (n,), or (n, K) in columns, have a mean of 0 within 4 standard errors, or to rounding.

    ``what`` may have a place for the number of the column; ``more`` is a further standard error.
    """
    columns = values.reshape(len(values), -1)
    found, error = columns.mean(0), (columns.var(0) / len(values) + more**2).sqrt()
    k = int((found.abs() - 4 * error).argmax())
    told = f"{what.format(k)} {verb} {float(found[k]):+.4g}, with a standard error of {float(error[k]):.2g}"
    assert float(found[k].abs()) <= 4 * float(error[k]) + 1e-12, told


def agree(found: Tensor, expected: Tensor | float, most: float, what: str) -> None:
    """Two tensors differ by at most ``most``, which ends the sentence ``what``."""
    gap = float((found - expected).detach().abs().max())
    assert gap <= most, f"{what} {gap:.3g}"


def near(what: str, found: float | Tensor, expected: float | Tensor, most: float | Tensor) -> None:
    """A number is as expected, but for ``most``."""
    told = f"{what} is {float(found):#.4g}, expected {float(expected):#.4g} within {float(most):.2g}"
    assert abs(float(found) - float(expected)) <= float(most), told


def refusal(call: Callable[..., Any], *given: Any, also: type[Exception] = ValueError) -> str | None:
    """Return the reason of the ValueError, or of the error ``also``, that a call raises, or None."""
    try:
        call(*given)
    except (ValueError, also) as error:
        return str(error)
    return None
