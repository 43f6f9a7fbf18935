"""3x3 convolutions on a CPU by Winograd's minimal filtering (Lavin and Gray 2016, arXiv:1509.09308, section 4).

F(2x2, 3x3): the padded image is cut into tiles d of 4x4 pixels that overlap by two, and each gives 2x2 pixels of the
output, with the kernel g,

    y = A^T [ sum over input channels of (G g G^T) * (B^T d B) ] A

          [1  0 -1  0]         [ 1    0    0 ]
    B^T = [0  1  1  0]     G = [1/2  1/2  1/2]     A^T = [1  1  1  0]
          [0 -1  1  0]         [1/2 -1/2  1/2]           [0  1 -1 -1]
          [0  1  0 -1]         [ 0    0    1 ]

with * elementwise. This takes 16 products where the definition has 36, and sums each over the input channels: 16
matrix products. The rest only moves memory, so it pays if there are many channels. Its rounding errors are no larger
than those of the definition, whose sums are longer.

It has no gradient, and a layer caches its transformed kernel, 16/9 of the kernel's size.
"""

from collections.abc import Iterator
from typing import Any

import attrs
import torch
from torch import Tensor, nn

SMALLEST_WIDTH = 96
"""Of in x out / (in + out) channels: products grow with in x out, memory traffic with in + out."""

SMALLEST_IMAGE = 64
"""Pixels; fewer do not justify reading 16 / 9 as many numbers of a kernel. The number of images does not count, or an
image's result would depend on its batch.
"""

PIECE = 2**22
"""Numbers before and after the products at a time, so that they stay in the processor's cache."""

_G = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


@attrs.frozen(eq=False)
class Kernel:
    """G g G^T of a layer's weight, with the version and fingerprint of the weight."""

    version: int
    fingerprint: Tensor
    values: Tensor
    """(16, in, out)."""


class Conv3x3(nn.Conv2d):
    """``nn.Conv2d(in, out, 3, padding=1)``, by Winograd's method without a gradient on a CPU where that is faster."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)
        self._kernel: Kernel | None = None

    def forward(self, x: Tensor) -> Tensor:
        if pays(x, self.weight):
            try:
                return convolve(x, self._transformed(), self.bias)
            except RuntimeError:  # torch.func, forward derivatives: they cannot write into given memory
                self._kernel = None
        return super().forward(x)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the transformed kernel, which follows from the weight."""
        return {**self.__dict__, "_kernel": None}

    def _transformed(self) -> Tensor:
        """Return the transformed kernel, computed again if the weight has changed.

        The weight's version counts changes in place, except those through ``weight.data``, which change its
        fingerprint.
        """
        weight = self.weight
        version = 0 if weight.is_inference() else weight._version
        found = fingerprint(weight)
        kept = self._kernel
        if kept is None or kept.version != version or not torch.equal(kept.fingerprint, found):
            self._kernel = kept = Kernel(version, found, transform(weight))
        return kept.values


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether :func:`convolve` can take these and is faster than the definition."""
    outputs, inputs = weight.shape[:2]
    height, width = x.shape[-2:]
    return (
        x.ndim == 4
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]
        and height % 2 == width % 2 == 0
        and height * width >= SMALLEST_IMAGE
        and inputs * outputs >= SMALLEST_WIDTH * (inputs + outputs)
    )


def fingerprint(weight: Tensor) -> Tensor:
    """(out, in, 3, 3) -> (out,): sums in which every place has a different weight."""
    rows = weight.permute(0, 2, 3, 1).flatten(1)
    return rows @ torch.arange(1.0, 1.0 + rows.shape[1], dtype=weight.dtype, device=weight.device).cos()


def transform(weight: Tensor) -> Tensor:
    """(out, in, 3, 3) -> G g G^T as (16, in, out)."""
    g = torch.tensor(_G, dtype=weight.dtype, device=weight.device)
    kernel = torch.kron(g, g) @ weight.permute(2, 3, 1, 0).reshape(9, -1)
    return kernel.view(16, weight.shape[1], weight.shape[0])


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """(B, in, H, W) with even sides and the :func:`transform` of a weight -> (B, out, H, W), channels last."""
    images, inputs, height, width = x.shape
    rows, columns, outputs = height // 2, width // 2, kernel.shape[-1]
    padded = x.new_empty(images, height + 2, width + 2, inputs)
    padded[:, :: height + 1] = 0  # the first and the last row
    padded[:, :, :: width + 1] = 0
    padded[:, 1:-1, 1:-1] = x.permute(0, 2, 3, 1)
    out = padded.new_empty(images, rows, 2, columns, 2, outputs)
    for part, band in _pieces(images, rows, 16 * columns * (inputs + outputs)):
        _convolve(padded[part, 2 * band.start : 2 * band.stop + 2], kernel, bias, out[part, band])
    return out.view(images, height, width, outputs).permute(0, 3, 1, 2)


def _pieces(images: int, rows: int, row_size: int) -> Iterator[tuple[slice, slice]]:
    """Yield pieces of as many whole images as fit, or bands of rows of one image."""
    fitting = max(PIECE // row_size, 1)
    band, count = min(fitting, rows), max(fitting // rows, 1)
    for image in range(0, images, count):
        for row in range(0, rows, band):
            yield slice(image, min(image + count, images)), slice(row, min(row + band, rows))


def _convolve(padded: Tensor, kernel: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Convolve a padded piece (B, H + 2, W + 2, in) into ``out`` (B, H / 2, 2, W / 2, 2, out)."""
    images, rows, _, columns, _, outputs = out.shape
    inputs = padded.shape[-1]
    half = padded.new_empty(4, images, rows, 2 * columns + 2, inputs)
    _spread(padded, 1, half)
    tiles = padded.new_empty(4, 4, images, rows, columns, inputs)
    _spread(half, 3, tiles.transpose(0, 1))
    products = torch.bmm(tiles.view(16, -1, inputs), kernel).view(4, 4, images, rows, columns, outputs)
    if bias is not None:
        products[1, 1] += bias  # A^T . A adds it to each of the 2x2
    halved = padded.new_empty(2, 4, images, rows, columns, outputs)
    _gather(products, halved)
    for row, part in enumerate(halved):
        _gather(part, out[:, :, row].movedim(3, 0))


def _spread(x: Tensor, dim: int, out: Tensor) -> None:
    """Apply B^T along ``dim``, in tiles of 4 that overlap by 2; its rows are ``out[0]`` to ``out[3]``."""
    d0, d1, d2, d3 = x.unfold(dim, 4, 2).unbind(-1)
    torch.sub(d0, d2, out=out[0])
    torch.add(d1, d2, out=out[1])
    torch.sub(d2, d1, out=out[2])
    torch.sub(d1, d3, out=out[3])


def _gather(m: Tensor, out: Tensor) -> None:
    """Apply A^T along the first axis, from length 4 in ``m`` to length 2 in ``out``."""
    m0, m1, m2, m3 = m
    torch.add(m1, m2, out=out[0]).add_(m0)
    torch.sub(m1, m2, out=out[1]).sub_(m3)
