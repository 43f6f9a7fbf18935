r"""Frames: coordinates in which a process is ``c_t = alpha c_0 + sigma eps``, whatever it is in those of its events.

    c = Q (x - m(t) y)          Q orthonormal; y is what the process knows of each sample, m(t) how far it moves to it

In a frame a process that blurs (Q the cosine basis) or that ends at an observation (m(1) = 1) has coefficients that are
one number, or one number an entry, and every sampler written in alpha and sigma serves it unchanged. The score is
``Q score_x``. A process with ``parts`` > 1 adds variables to the data, such as a velocity: they are zero in c_0.
"""

from collections.abc import Callable, Sequence
from typing import Self

import attrs
import torch
from torch import Tensor
from .shapes import expand

Basis = Sequence[Tensor | None]
"""An orthonormal matrix an axis of an event, its rows the basis; None is the identity. Q is their Kronecker product."""


def rotate(x: Tensor, basis: Basis, inverse: bool = False) -> Tensor:
    """Return the coefficients Q x of events (n, *shape), or Q^T x with ``inverse``."""
    for axis, matrix in enumerate(basis, start=1):
        if matrix is not None:
            x = torch.tensordot(x, (matrix if inverse else matrix.T).to(x), ([axis], [0])).movedim(-1, axis)
    return x


@attrs.frozen(eq=False)
class Frame:
    """The frame of a process: its basis Q, its moving centre ``m(t) y`` and the number of parts of a state."""

    basis: Basis = ()
    centre: Callable[[Tensor], Tensor] | None = None
    y: Tensor | None = None
    parts: int = 1

    def to(self, x: Tensor) -> Self:
        """The frame with its tensors on the device of ``x`` and in its dtype, so that no call has to move them."""
        basis = tuple(None if matrix is None else matrix.to(x) for matrix in self.basis)
        return attrs.evolve(self, basis=basis, y=None if self.y is None else self.y.to(x))

    def enter(self, x: Tensor, t: float | Tensor) -> Tensor:
        """``x`` (B, ...) at a time, or at one time per row, in the frame."""
        return rotate(x if self.centre is None else x - self._middle(x, t), self.basis)

    def leave(self, c: Tensor, t: float | Tensor) -> Tensor:
        """The inverse of :meth:`enter`."""
        x = rotate(c, self.basis, inverse=True)
        return x if self.centre is None else x + self._middle(x, t)

    def turn(self, score: Tensor) -> Tensor:
        """A score in the frame."""
        return rotate(score, self.basis)

    def turn_back(self, score: Tensor) -> Tensor:
        """The inverse of :meth:`turn`."""
        return rotate(score, self.basis, inverse=True)

    def lift(self, x: Tensor) -> Tensor:
        """Clean events as states at t = 0."""
        c = rotate(x, self.basis)
        return torch.cat([c, *(self.parts - 1) * [torch.zeros_like(c)]], 1) if self.parts > 1 else c

    def drop(self, c: Tensor) -> Tensor:
        """The clean events of states at t = 0."""
        return rotate(c[:, : c.shape[1] // self.parts], self.basis, inverse=True)

    def _middle(self, x: Tensor, t: float | Tensor) -> Tensor:
        assert self.centre is not None
        assert self.y is not None
        if self.y.shape != x.shape:
            why = f"y has shape {tuple(self.y.shape)}, the state {tuple(x.shape)}: give one y a sample, like the events"
            raise ValueError(why)
        if isinstance(t, Tensor) and t.ndim:
            return expand(self.centre(t), x).to(x.dtype) * self.y.to(x)
        return float(self.centre(torch.as_tensor(t, dtype=torch.float64, device="cpu"))) * self.y.to(x)
