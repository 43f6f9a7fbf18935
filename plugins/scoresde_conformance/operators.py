"""Operators: they are linear or say so, their adjoint is one, and shapes, dtypes and refusals are what they say."""

import torch
from torch import Tensor
from scoresde_core import Noise
from scoresde_run import Operator
from .candidate import Candidate, Skip, first_accepted
from .expect import agree, is_like, refusal

SHAPES = ((1, 8, 8), (3, 8, 8), (1, 16), (2,), (4,))


def _fitted(candidate: Candidate) -> tuple[Operator, tuple[int, ...], Tensor, Tensor]:
    operator: Operator = candidate.component
    shape = first_accepted(SHAPES, operator.skip)
    x, y = (Noise(3, s, 5, dtype=torch.float64).draw("conformance", "x") for s in (shape, operator.measured(shape)))
    return operator, shape, x, y


def is_linear(candidate: Candidate) -> None:
    """A (2 x - z / 2) = 2 A x - A z / 2, row by row; it is not if ``linear`` is False."""
    operator, _, x, _ = _fitted(candidate)
    found, z = operator.apply(x), x.flip(0)
    both, apart = operator.apply(2 * x - z / 2), 2 * found - found.flip(0) / 2
    if operator.linear:
        agree(both, apart, 1e-9, "A (2 x - z / 2) is off by")
    else:
        assert not torch.allclose(both, apart), "it declares linear = False, but it is linear"
    agree(operator.apply(x[1:2]), found[1:2], 1e-9, "a row of A x alone differs by")


def adjoint_is_the_transpose(candidate: Candidate) -> None:
    """<A x, y> = <x, A^T y>, in the shapes of ``measured`` and of events, in any dtype."""
    operator, shape, x, y = _fitted(candidate)
    for dtype, most in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        ahead = operator.apply(x.to(dtype))
        is_like("A x", ahead, y.shape, dtype)
        if not operator.linear:
            assert refusal(operator.adjoint, y, shape), "it declares linear = False, but adjoint raises no ValueError"
            continue
        back = operator.adjoint(y.to(dtype), shape)
        is_like("A^T y", back, x.shape, dtype)
        left, right = (ahead * y).flatten(1).sum(1), (x * back).flatten(1).sum(1)
        agree(left, right, most, "<A x, y> and <x, A^T y> differ by")


def has_gradients(candidate: Candidate) -> None:
    """The gradient of the sum of the squares of A x is finite and not zero: methods follow it."""
    operator, _, x, _ = _fitted(candidate)
    with torch.enable_grad():
        loss = operator.apply(x.requires_grad_()).square().sum()
    (slope,) = torch.autograd.grad(loss, x)
    assert bool(slope.isfinite().all() & slope.any()), "the gradient of the squares of A x is zero, or not finite"


def spectrum_is_that_of_the_operator(candidate: Candidate) -> None:
    """In the coefficients of its spectrum A^T A is the square of the singular values, and events come back."""
    operator, shape, x, _ = _fitted(candidate)
    if (spectrum := operator.spectrum(shape)) is None:
        raise Skip("it has no cheap spectrum")
    c = spectrum.coefficients(x)
    agree(spectrum.events(c, shape), x, 1e-8, "V V^T x differs from x by")
    both = spectrum.coefficients(operator.adjoint(operator.apply(x), shape))
    agree(both, spectrum.values.square() * c, 1e-8, "V^T A^T A x differs from s^2 V^T x by")


def refuses_or_serves(candidate: Candidate) -> None:
    """``skip`` says in one line why events do not fit; what it does not refuse is measured."""
    for shape in ((1,), (2,), (7,), (2, 5), (1, 7, 7), (3, 6, 6), (1, 4, 4, 4)):
        if (reason := candidate.component.skip(shape)) is None:
            candidate.component.apply(torch.zeros(1, *shape))
        else:
            assert "\n" not in reason, f"of events of shape {shape} skip says {reason!r}, which has several lines"
