r"""The Brownian path ahead of every sample, as far as rejected attempts have revealed it.

A rejected attempt has seen the increment W of the path over its step. To draw a new one in its place would favour
increments that are accepted, and bias the samples at any tolerance. Instead the increment of the shorter step that
follows comes from the Brownian bridge given W, and the rest of W is used before anything new is drawn (rejection
sampling with memory: Rackauckas & Nie 2017, doi:10.3934/dcdsb.2017133). For an increment V over a length L, and h <= L,

    W(h) | V ~ N(h V / L, h (1 - h / L) I)

The known path is a list of segments (length, increment), nearest first. A step never crosses the end of a segment.
"""

import torch
from torch import Tensor
from scoresde_core.shapes import expand

SEGMENTS = 4
"""Segments kept per sample; beyond this many, after as many rejections in a row, the two farthest are merged."""


class Path:
    """The known segments of a batch of samples; the rest of a segment shorter than ``shortest`` is dropped."""

    def __init__(self, x: Tensor, shortest: float) -> None:
        self.lengths = torch.zeros(len(x), SEGMENTS, dtype=torch.float64, device=x.device)
        self.increments = x.new_zeros(len(x), SEGMENTS, *x.shape[1:])
        self.shortest = shortest

    def propose(self, rows: Tensor, h: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return steps of at most ``h`` (R,) and the path's increments over them (R, ...), from normal ``z``."""
        length = self.lengths[rows, 0]
        known = length > 0
        h = torch.where(known, torch.minimum(h, length), h)
        share = torch.where(known, h / length.clamp_min(self.shortest), 0.0)
        std = (h * (1 - share)).sqrt()
        bridge = expand(share.to(z.dtype), z) * self.increments[rows, 0]
        return h, bridge.add_(expand(std.to(z.dtype), z) * z)

    def walk(self, rows: Tensor, h: Tensor, increment: Tensor) -> None:
        """Remove accepted steps from the nearest segment."""
        lengths, increments = self.lengths[rows], self.increments[rows]
        lengths[:, 0] -= h
        increments[:, 0] -= increment
        over = lengths[:, 0] <= self.shortest
        lengths[over] = torch.cat([lengths[over, 1:], torch.zeros_like(lengths[over, :1])], 1)
        increments[over] = torch.cat([increments[over, 1:], torch.zeros_like(increments[over, :1])], 1)
        self.lengths[rows], self.increments[rows] = lengths, increments

    def reveal(self, rows: Tensor, h: Tensor, increment: Tensor) -> None:
        """Store the increments of rejected steps."""
        lengths, increments = self.lengths[rows], self.increments[rows]
        rest = lengths[:, 0] - h
        new, inside = lengths[:, 0] == 0, rest > self.shortest
        lengths[new, 0], increments[new, 0] = h[new], increment[new]
        lengths[inside] = _push(lengths[inside], h[inside], rest[inside])
        ahead = increments[inside, 0] - increment[inside]
        increments[inside] = _push(increments[inside], increment[inside], ahead)
        self.lengths[rows], self.increments[rows] = lengths, increments


def _push(segments: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Split the nearest of the segments (R, SEGMENTS, ...) in two, and merge the last two."""
    last = segments[:, -2:].sum(1)
    return torch.cat([torch.stack([first, second], 1), segments[:, 1:-2], last.unsqueeze(1)], 1)
