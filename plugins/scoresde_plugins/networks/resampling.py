"""Halving and doubling of images: FIR filters, means and nearest neighbours, alone or joined to a convolution.

A FIR filter with taps k (here the binomial [1, 3, 3, 1]) removes the frequencies that the coarser grid cannot represent
(Zhang 2019, arXiv:1904.11486; StyleGAN2, Karras et al. 2020, arXiv:1912.04958; NCSN++, Song et al. 2021,
arXiv:2011.13456, Appendix H). With K = k k^T / (sum k)^2, zeros outside the image, n = len(k), p = n - 2:

    down:       y = (K * pad(x; ceil(p/2), floor(p/2)))[::2, ::2]
    up:         y = 4 K * pad(zeros inserted between the pixels of x; ceil(p/2) + 1, floor(p/2))
    conv_down:  y = conv(w, stride 2)(K * pad(x; ceil(n/2), floor(n/2)))
    conv_up:    y = 4 K * pad(conv(w)(zeros inserted between the pixels of x); ceil(n/2) - 1, floor(n/2) - 1)

The factor 4 compensates for the inserted zeros. K is the same for each channel, so ``down`` is one depthwise
convolution of stride 2 and ``up`` its transpose: neither the zeros nor the discarded pixels are computed. Taps are
convolved as written (mirrored before PyTorch's cross-correlation), which matters for kernels that are not symmetric.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import conv


def fir_kernel(taps: Sequence[float], gain: float = 1.0) -> Tensor:
    """Return the filter K, times ``gain``, float32 (n, n)."""
    line = torch.tensor(taps, dtype=torch.float64)
    square = torch.outer(line, line)
    return (square * (gain / square.sum())).float()


class FIR(nn.Module):
    """Base class of the filters: a kernel that follows the module's device and dtype and is not in checkpoints."""

    kernel: Tensor

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.register_buffer("kernel", kernel[None, None], persistent=False)

    def depthwise(self, channels: int) -> Tensor:
        """Return the kernel as the weight of a convolution with one group per channel."""
        return self.kernel.expand(channels, -1, -1, -1)


class Blur(FIR):
    """Filters and keeps every ``stride``-th pixel: (B, C, H, W) -> (B, C, H', W')."""

    def __init__(self, taps: Sequence[float], pad: tuple[int, int], stride: int = 1, gain: float = 1.0) -> None:
        super().__init__(fir_kernel(taps, gain).flip(0, 1))
        self.pad, self.stride = pad, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W')."""
        before, after = self.pad
        if before != after:
            # Only taps of odd length pad unevenly.
            x, before = F.pad(x, (before, after, before, after)), 0
        channels = x.shape[1]
        return F.conv2d(x, self.depthwise(channels), stride=self.stride, padding=before, groups=channels)


class FIRDown(Blur):
    """``down``: (B, C, 2H, 2W) -> (B, C, H, W)."""

    def __init__(self, taps: Sequence[float]) -> None:
        spare = len(taps) - 2
        super().__init__(taps, ((spare + 1) // 2, spare // 2), stride=2)


class FIRUp(FIR):
    """``up``: (B, C, H, W) -> (B, C, 2H, 2W)."""

    def __init__(self, taps: Sequence[float]) -> None:
        super().__init__(fir_kernel(taps, gain=4.0))
        self.cut, self.odd = (len(taps) - 2) // 2, len(taps) % 2 == 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        _, channels, height, width = x.shape
        # The full transpose has 2(H - 1) + n rows; the image is the 2H of them that start at floor(p/2).
        y = F.conv_transpose2d(x, self.depthwise(channels), stride=2, padding=self.cut, groups=channels)
        return y[:, :, : 2 * height, : 2 * width] if self.odd else y


class MeanDown(nn.Module):
    """The mean of each 2x2 square."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 2H, 2W) -> (B, C, H, W)."""
        return F.avg_pool2d(x, 2)


class NearestUp(nn.Module):
    """Each pixel four times."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class ConvDown(nn.Module):
    """A 3x3 convolution of stride 2, padded at the far edges as TensorFlow's 'SAME' pads an even size."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.Conv_0 = conv(in_channels, out_channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, 2H, 2W) -> (B, out, H, W)."""
        return self.Conv_0(F.pad(x, (0, 1, 0, 1)))  # type: ignore[no-any-return]


class ConvUp(nn.Module):
    """Nearest neighbours, then a 3x3 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.Conv_0 = conv(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, 2H, 2W)."""
        return self.Conv_0(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


class FIRConvDown(nn.Module):
    """``conv_down``: the filter, then a 3x3 convolution of stride 2."""

    def __init__(self, in_channels: int, out_channels: int, taps: Sequence[float]) -> None:
        super().__init__()
        self.blur = Blur(taps, ((len(taps) + 1) // 2, len(taps) // 2))
        self.Conv2d_0 = conv(in_channels, out_channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, 2H, 2W) -> (B, out, H, W)."""
        return self.Conv2d_0(self.blur(x))  # type: ignore[no-any-return]


class FIRConvUp(nn.Module):
    """``conv_up``: a 3x3 convolution of the zero-inserted image, then the filter, then the bias."""

    def __init__(self, in_channels: int, out_channels: int, taps: Sequence[float]) -> None:
        super().__init__()
        spare = len(taps) - 4
        self.blur = Blur(taps, ((spare + 1) // 2 + 1, spare // 2 + 1), gain=4.0)
        self.Conv2d_0 = conv(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, 2H, 2W)."""
        # Convolving an image with inserted zeros is a transposed convolution with the mirrored weight.
        weight = self.Conv2d_0.weight.flip(2, 3).transpose(0, 1)
        y = self.blur(F.conv_transpose2d(x, weight, stride=2))
        return y + self.Conv2d_0.bias[:, None, None]  # type: ignore[index,no-any-return]
