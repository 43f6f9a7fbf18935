"""Dequantizers: the noise stays in the cell of its integer, and the reported density is its density.

For u of density q on the unit cube E[h(u) / q(u)] is the integral of h over it: 1, 1/2 and 1/3 for h = 1, u_i, u_i^2.
"""

import torch
from torch import Tensor
from scoresde_core import FileError
from scoresde_run import Dequantizer
from .candidate import Candidate, first_accepted, kept
from .expect import agree, is_like, is_zero, refusal

SHAPES = ((1, 1, 2), (1, 2, 2), (1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 32, 32))
ROWS, DRAWS = 6, 4000


@kept
def _shape(candidate: Candidate) -> tuple[int, ...]:
    def refused(shape: tuple[int, ...]) -> str | None:
        noise = torch.zeros(2, *shape)
        return refusal(candidate.component.dequantize, _images(shape, 2), noise.clone, also=FileError)

    return first_accepted(SHAPES, refused)


def _images(shape: tuple[int, ...], rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (rows, *shape), dtype=torch.uint8, generator=generator)
    images[0], images[-1] = 0, 255
    return images


def _dequantized(candidate: Candidate, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return u, like the noise, and log q (B,)."""
    dequantizer: Dequantizer = candidate.component
    kept = images.clone()
    values, log_q = dequantizer.dequantize(images, noise.clone)
    assert torch.equal(images, kept), "dequantize changed the images in place"
    assert values.is_floating_point(), f"dequantize gives {values.dtype}, expected floats"
    is_like("what dequantize gives", values, images.shape, values.dtype)
    is_like("log q", log_q, images.shape[:1], log_q.dtype)
    return values.double() - images.double(), log_q.double()


@torch.no_grad()
def stays_in_the_cell(candidate: Candidate) -> None:
    """``images + u`` has u in [0, 1): rounding down gives the images."""
    shape = _shape(candidate)
    for dtype in (torch.float32, torch.float64):
        for scale in (1.0, 4.0):
            u, _ = _dequantized(candidate, _images(shape, ROWS), scale * torch.randn(ROWS, *shape, dtype=dtype))
            lowest, highest = float(u.min()), float(u.max())
            assert 0 <= lowest <= highest < 1, f"u lies between {lowest:.6g} and {highest:.6g}, expected in [0, 1)"


@torch.no_grad()
def tells_its_density(candidate: Candidate) -> None:
    """E[h(u) / q(u)] is the integral of h over the unit cube, for h = 1, u and u^2, within 4 standard errors."""
    shape = _shape(candidate)
    images = _images(shape, 1).expand(DRAWS, *shape)
    u, log_q = _dequantized(candidate, images.contiguous(), torch.randn(DRAWS, *shape))
    weight = (-log_q).exp()
    first = u.flatten(1)[:, 0]
    for name, h, integral in (("1", 1, 1), ("u", first, 1 / 2), ("u^2", first.square(), 1 / 3)):
        is_zero(weight * h - integral, f"{name} / q, averaged over u of density q, from {integral:.3g},")


@torch.no_grad()
def treats_every_row_by_itself(candidate: Candidate) -> None:
    """An image's noise and density do not depend on the batch, and follow the given noise."""
    shape = _shape(candidate)
    images, noise = _images(shape, ROWS), torch.randn(ROWS, *shape)
    u, log_q = _dequantized(candidate, images, noise)
    rows = [_dequantized(candidate, images[k : k + 1], noise[k : k + 1]) for k in range(ROWS)]
    alone, log_alone = (torch.cat(column) for column in zip(*rows, strict=True))
    agree(alone, u, 1e-3, "u of an image alone and in a batch differs by")
    agree(log_alone, log_q, 1e-3 * (1 + float(log_q.abs().max())), "log q of an image alone and in a batch differs by")
    other, _ = _dequantized(candidate, images, torch.randn(ROWS, *shape))
    assert not torch.equal(u, other), "other noise gives the same u"
