"""Any matrix, from a file."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor
from scoresde_core import FileError, param
from scoresde_run import Operator
from scoresde_run.data import array_file
from scoresde_run.sampling.operator import Shape


@attrs.frozen
class MatrixOperator(Operator):
    """y = M x (m,), with x the entries of an event in row-major order and M (m, entries) of a file."""

    @staticmethod
    def example(folder: Path) -> dict[str, Any]:
        """Write a matrix for points in the plane."""
        np.save(folder / "matrix.npy", np.array([[1.0, 2.0]]))
        return {"path": str(folder / "matrix.npy")}

    path: str = param(help="an .npy, .npz or .csv file with a matrix, one row a measurement")
    key: str | None = param(None, "name of the matrix in an .npz file; null: the only one, or matrix")

    def files(self) -> Sequence[str]:
        return (self.path,)

    def measured(self, shape: Shape) -> Shape:
        found, size = tuple(self._read(header=True).shape), math.prod(shape)
        if len(found) != 2 or found[1] != size:
            event = f"an event of shape {list(shape)} has {size} entries: give a matrix with {size} columns"
            raise ValueError(f"the matrix {self.path} has shape {list(found)}, {event}")
        return found[:1]

    def tables(self, shape: Shape) -> Sequence[Tensor]:
        values = self._read().astype(np.float64)
        if not np.isfinite(values).all():
            raise FileError(f"the matrix {self.path} has entries that are not finite: give numbers")
        return (torch.from_numpy(values),)

    def apply(self, x: Tensor) -> Tensor:
        (matrix,) = self.placed(x, tuple(x.shape[1:]))
        return x.flatten(1) @ matrix.T  # type: ignore[no-any-return]

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        return (y @ self.placed(y, shape)[0]).reshape(len(y), *shape)  # type: ignore[no-any-return]

    def _read(self, header: bool = False) -> Any:
        return array_file.read(Path(self.path), self.key, ("matrix",), header=header)
