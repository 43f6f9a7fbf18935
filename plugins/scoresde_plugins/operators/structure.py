"""Operators by their structure: some coefficients in an orthonormal basis, or a matrix for each side of an event."""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from scoresde_core import Basis
from scoresde_core.frame import rotate
from scoresde_run import Operator, Spectrum
from scoresde_run.sampling.operator import Shape


class SelectedOperator(Operator):
    """The coefficients of Q x, Q orthonormal, where ``kept`` is true, as the last axis of y; A A^T = 1."""

    mixes_channels = False

    @abstractmethod
    def kept(self, shape: Shape) -> Tensor:
        """Which coefficients of an event are kept, bool, for its last axes; the same for all others."""

    def basis(self, shape: Shape) -> Basis:
        """Q, one orthonormal matrix an axis of the event; () for 1."""
        return ()

    def measured(self, shape: Shape) -> Shape:
        kept = self.kept(shape)
        return (*shape[: len(shape) - kept.ndim], int(kept.sum()))

    def tables(self, shape: Shape) -> Sequence[Tensor | None]:
        kept = self.kept(shape)
        index = kept.flatten().nonzero().reshape(*[1] * (kept.ndim - 1), -1)  # with as many axes as it flattens
        return (index, *self.basis(shape))

    def apply(self, x: Tensor) -> Tensor:
        index, *basis = self.placed(x, tuple(x.shape[1:]))
        return rotate(x, basis).flatten(-index.ndim).index_select(-1, index.flatten())

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        index, *basis = self.placed(y, shape)
        empty = y.new_zeros(*y.shape[:-1], math.prod(shape[-index.ndim :]))
        return rotate(empty.index_copy(-1, index.flatten(), y).reshape(len(y), *shape), basis, inverse=True)

    def spectrum(self, shape: Shape) -> Spectrum:
        return Spectrum(self.kept(shape).double().expand(shape), self.basis(shape))


class SeparableOperator(Operator):
    """One matrix a side, A = 1 x A_1 x A_2 ...; singular vectors and values are Kronecker products of the matrices'."""

    mixes_channels = False

    @abstractmethod
    def matrix(self, size: int) -> Tensor:
        """A along a side of ``size``, (m, size), float64."""

    def measured(self, shape: Shape) -> Shape:
        if len(shape) < 2:
            raise ValueError(f"{type(self).__name__} needs events with channels and sides, not {list(shape)}")
        return (shape[0], *(len(self.matrix(size)) for size in shape[1:]))

    def tables(self, shape: Shape) -> Sequence[Tensor | None]:
        return (None, *(self.matrix(size) for size in shape[1:]))

    def apply(self, x: Tensor) -> Tensor:
        return rotate(x, self.placed(x, tuple(x.shape[1:])))

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        return rotate(y, self.placed(y, shape), inverse=True)

    def spectrum(self, shape: Shape) -> Spectrum:
        product, bases = torch.ones(shape, dtype=torch.float64), []
        for axis, size in enumerate(shape[1:], 1):
            _, values, basis = torch.linalg.svd(self.matrix(size))
            product.movedim(axis, -1).mul_(pad(values, (0, size - len(values))))
            bases.append(basis)
        return Spectrum(product, (None, *bases))
