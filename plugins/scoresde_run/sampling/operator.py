r"""Operators: what is measured of an event, y = A x; noise belongs to whoever measures.

With a linear A = U S V^T, V orthonormal, a :class:`Spectrum` has V and S >= 0. All else follows from them and A^T:
U^T y = V^T A^T y / s where s > 0, and the pseudo-inverse is V (V^T A^T y / s^2).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor
from scoresde_core import Basis, ScoreSDEError
from scoresde_core.frame import rotate

Shape = tuple[int, ...]


@attrs.frozen(eq=False)
class Spectrum:
    """``values`` (*view) are the singular values of the coefficients V^T x of x (n, *shape); 0: not measured.

    ``basis`` has V^T for x.reshape(n, *view): one orthonormal matrix an axis of the view, None for the identity.
    """

    values: Tensor
    basis: Basis = ()

    def coefficients(self, x: Tensor) -> Tensor:
        """V^T x, (n, *view)."""
        return rotate(x.reshape(len(x), *self.values.shape), self.basis)

    def events(self, c: Tensor, shape: Shape) -> Tensor:
        """V c, (n, *shape)."""
        return rotate(c, self.basis, inverse=True).reshape(len(c), *shape)


class Operator(ABC):
    """A map A of events; give :meth:`measured` and :meth:`apply`. The rest follows, where it is not cheaper.

    Results are on the device and in the dtype of their tensor. Fields must be hashable: tables are kept by component.
    """

    mixes_channels: bool = True
    """Whether an entry of y may depend on several channels or columns of x; False is a promise."""
    linear: bool = True
    """Whether A is linear; one that is not has no adjoint and no spectrum."""

    @abstractmethod
    def measured(self, shape: Shape) -> Shape:
        """The shape of y for events of ``shape``; ``ValueError``, in one line, if they do not fit."""

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """A x, (n, *measured), for ``x`` (n, *shape); differentiable."""

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        """A^T y, (n, *shape), for ``y`` (n, *measured): by differentiation unless overridden."""
        if not self.linear:
            raise ValueError(f"{type(self).__name__} is not linear and has no adjoint: take a linear operator")
        with torch.enable_grad():
            x = y.new_zeros(len(y), *shape).requires_grad_()
            return torch.autograd.grad(self.apply(x), x, y)[0]

    def tables(self, shape: Shape) -> Sequence[Tensor | None]:
        """Tensors, float64 or indices, that ``apply`` needs for events of ``shape``; read them by :meth:`placed`."""
        return ()

    def files(self) -> Sequence[str]:
        """The files that determine A besides the parameters."""
        return ()

    def spectrum(self, shape: Shape) -> Spectrum | None:
        """V and S for events of ``shape``, float64; None if they are not cheap: dense, up to 2,048 entries."""
        return _dense(self, shape, self._version) if self.linear and math.prod(shape) <= 2048 else None

    def skip(self, shape: Shape) -> str | None:
        """Why A does not apply to events of ``shape``, or None."""
        try:
            self.measured(shape)
        except (ValueError, ScoreSDEError) as error:
            return str(error)
        return None

    def check(self, y: Tensor, shape: Shape) -> None:
        """Raise ``ValueError``, in one line, for measurements ``y`` of another shape."""
        if tuple(y.shape[1:]) != (wanted := self.measured(shape)):
            given = f"{type(self).__name__} measures {list(wanted)} of an event {list(shape)}, not {list(y.shape[1:])}"
            raise ValueError(f"{given}: choose an operator of the right shape")

    def back(self, y: Tensor, shape: Shape, smallest: float = 1e-6) -> tuple[Tensor, Spectrum]:
        """U^T y / s in the coefficients, 0 where s is below ``smallest`` times the largest; and the spectrum, for y.

        ``ValueError``, in one line, for measurements of another shape, and without a spectrum.
        """
        self.check(y, shape)
        name, x, found = type(self).__name__, self.adjoint(y, shape), self.spectrum(shape)
        if found is None:
            raise ValueError(f"{name} has no cheap singular values for events of shape {list(shape)}: take smaller")
        spectrum = Spectrum(found.values.to(y), tuple(m if m is None else m.to(y) for m in found.basis))
        s, c = spectrum.values, spectrum.coefficients(x)
        return torch.where(s > smallest * s.max(), c / s.square(), 0.0), spectrum

    def pseudo_inverse(self, y: Tensor, shape: Shape, smallest: float = 1e-6) -> Tensor:
        """A^+ y (n, *shape), without singular values below ``smallest`` times the largest."""
        c, spectrum = self.back(y, shape, smallest)
        return spectrum.events(c, shape)

    def placed(self, like: Tensor, shape: Shape) -> Sequence[Any]:
        """:meth:`tables` for events of ``shape``, on the device and, if they are floats, in the dtype of ``like``."""
        return _placed(self, shape, like.device, like.dtype, self._version)

    @property
    def _version(self) -> tuple[int, ...]:
        return tuple(Path(path).stat().st_mtime_ns for path in self.files())


@lru_cache(maxsize=32)
def _placed(operator: Operator, shape: Shape, device: torch.device, dtype: torch.dtype, _: Any) -> Sequence[Any]:
    made = (None if table is None else table.to(device) for table in operator.tables(shape))
    return tuple(table.to(dtype) if table is not None and table.is_floating_point() else table for table in made)


@lru_cache(maxsize=8)
def _dense(operator: Operator, shape: Shape, _: Any) -> Spectrum:
    size = math.prod(shape)
    matrix = operator.apply(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).reshape(size, -1).T
    _, values, basis = torch.linalg.svd(matrix, full_matrices=True)
    return Spectrum(torch.nn.functional.pad(values, (0, size - len(values))), (basis,))
