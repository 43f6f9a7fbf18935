"""Restored images against the event behind y, where the law of the events is not known."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor
from scoresde_core import Better, UsageError, param
from scoresde_run import Evidence
from .posterior import Given, PosteriorMetric

_WINDOW, _ALEXNET = 11, 31  # the least sides of images for SSIM and for LPIPS


@attrs.frozen
class Restoration(PosteriorMetric):
    """PSNR (10 log10 4 / mean square) of the samples and of their mean, and SSIM of the samples, of images on [-1, 1].

    SSIM has a Gaussian window of 11 pixels, deviation 1.5, k = 0.01 and 0.03 (Wang et al. 2004,
    doi:10.1109/TIP.2003.819861), without padding. The samples of a posterior have a lower PSNR than its mean.
    """

    metrics: ClassVar[Mapping[str, tuple[Better, str]]] = {
        "psnr": ("higher", "dB"), "psnr_of_mean": ("higher", "dB"), "ssim": ("higher", ""), "lpips": ("lower", ""),
    }  # fmt: skip
    exact: ClassVar[bool] = False

    lpips: bool = param(False, "also LPIPS (Zhang et al. 2018), by the package lpips and its AlexNet")

    def prepare(self) -> None:
        if self.lpips and find_spec("lpips") is None:
            raise UsageError("restoration[lpips=true] needs the package lpips: pip install lpips, or leave it out")

    def skip(self, evidence: Evidence) -> str | None:
        shape = tuple(evidence.samples.shape[1:])
        images = evidence.units is None or evidence.units.levels is not None
        name, side = ("restoration[lpips=true]", _ALEXNET) if self.lpips else ("restoration", _WINDOW)
        if len(shape) != 3 or not images or min(shape[1:]) < side:
            return f"{name} needs images of {side} x {side} pixels or more, not events {list(shape)}"
        return super().skip(evidence)

    def measure(self, x: Tensor, one: Given, evidence: Evidence) -> Sequence[Any]:
        images = x.reshape(-1, *one.event.shape)
        found = [psnr(images, one.event), psnr(images.mean(0, keepdim=True), one.event), ssim(images, one.event).mean()]
        if self.lpips:
            coloured = (part.float().cpu().expand(len(x), 3, -1, -1) for part in (images, one.event))
            found.append(_lpips()(*coloured).mean())
        return found


def psnr(x: Tensor, truth: Tensor) -> Tensor:
    """The mean over ``x`` (N, C, H, W) of 10 log10 (4 / mean square difference to ``truth``), in dB."""
    return (10 * torch.log10(4 / (x - truth).square().flatten(1).mean(1))).mean()


def ssim(x: Tensor, truth: Tensor) -> Tensor:
    """The structural similarity (N,) of ``x`` (N, C, H, W) on [-1, 1] to ``truth`` (C, H, W)."""
    line = (-0.5 * ((torch.arange(_WINDOW).to(x) - _WINDOW // 2) / 1.5).square()).softmax(0)
    window = torch.outer(line, line).expand(x.shape[1], 1, _WINDOW, _WINDOW)

    def local(image: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(image, window, groups=x.shape[1])

    y = truth.unsqueeze(0).expand_as(x)
    a, b = local(x), local(y)
    variances, covariance = local(x * x) - a * a + local(y * y) - b * b, local(x * y) - a * b
    c1, c2 = 0.02**2, 0.06**2  # (k L)^2 with L = 2
    likeness = (2 * a * b + c1) * (2 * covariance + c2) / ((a * a + b * b + c1) * (variances + c2))
    return likeness.flatten(1).mean(1)


@lru_cache(maxsize=1)
def _lpips() -> Any:
    return import_module("lpips").LPIPS(net="alex", verbose=False).eval()
