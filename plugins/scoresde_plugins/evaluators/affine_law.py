"""The exact law of an affine sampler's output, computed without samples (Pierret & Galerne 2025, arXiv:2405.14250).

With an affine score every linear solver is an affine map of the standard normal numbers that it draws, for its start
and for its steps:

    x_end = b + A z_start + sum_k C_k z_k        =>        x_end ~ N(b, A A^T + sum_k C_k C_k^T)

The rows of one run give the map: the noise of row 0 is zero throughout, and each further row has a single 1, in one
coordinate of the start or of one draw. Whether the sampler is affine is tested: random rows, run separately, must end
where the map predicts.
"""

from collections.abc import Callable
from math import prod

import attrs
import torch
from torch import Tensor
from scoresde_core import Noise, Sampler, ScoreModel

LARGEST = 2**24
"""The largest number of entries that all rows may have together: 128 MiB in float64."""
_CHUNK = 2**20
_CHECKED = 4
"""Random rows that test the map."""

Start = Callable[[Tensor], Tensor]
"""An affine map from standard normal numbers (B, *shape) to latents at t = 1."""


@attrs.frozen
class GaussianLaw:
    """N(mean, covariance) over flattened events: (D,) and (D, D), float64."""

    mean: Tensor
    covariance: Tensor


class _Probe(Noise):
    """Noise for the rows ``start .. start + count``, each zero except for a single 1; draws are numbered by key."""

    def __init__(self, keys: dict[object, int], shape: tuple[int, ...], rows: range, like: Tensor) -> None:
        super().__init__(0, shape, len(rows), start=rows.start, device=like.device, dtype=like.dtype)
        self.keys = keys

    def unit(self, k: int) -> Tensor:
        """Return the noise of the start (k = -1) or of the k-th draw: row 1 + D (k + 1) + i has a 1 in coordinate i."""
        size = prod(self.shape)
        coordinate = torch.arange(self.count, device=self.device) + self.start - 1 - size * (k + 1)
        z = coordinate.unsqueeze(1) == torch.arange(size, device=self.device)
        return z.to(self.dtype).reshape(self.count, *self.shape)

    def draw(self, step: int | str, purpose: str, draw: int = 0) -> Tensor:
        """Return the noise of the draw with this key; draws are numbered in the order of their first use."""
        return self.unit(self.keys.setdefault((step, purpose, draw), len(self.keys)))


class _Recorded(Noise):
    """Random noise that records its draws."""

    def __init__(self, shape: tuple[int, ...], like: Tensor) -> None:
        super().__init__(0, shape, _CHECKED, device=like.device, dtype=like.dtype)
        self.given: dict[object, Tensor] = {}

    def draw(self, step: int | str, purpose: str, draw: int = 0) -> Tensor:
        z = super().draw(step, purpose, draw)
        self.given[step, purpose, draw] = z.clone()  # the caller may overwrite it
        return z


@attrs.frozen(eq=False)
class Affine:
    """A sampler with all that its samples depend on, in the frame; they start at ``start(z)``, with z like ``like``."""

    sampler: Sampler
    model: ScoreModel
    start: Start
    like: Tensor

    def law(self) -> GaussianLaw | str:
        """Return the law of the samples, or the reason why there is none.

        This takes 1 + D (K + 1) rows for K draws, and a few more for the test.
        """
        size, keys = prod(self.model.shape), dict[object, int]()
        found, rows = [], range(1 + size)
        while rows:
            probe = _Probe(keys, self.model.shape, rows, self.like)
            found.append(self._run(probe.unit(-1), probe))
            total = 1 + size * (1 + len(keys))
            if total * size > LARGEST:
                return f"{len(keys)} draws in {size} dimensions are too many: use fewer steps or dimensions"
            rows = range(rows.stop, min(total, rows.stop + max(1, _CHUNK // size)))
        ends = torch.cat(found)
        images = ends[1:] - ends[0]
        return self._deviation(ends[0], images, keys) or GaussianLaw(ends[0], images.T @ images)

    def _deviation(self, offset: Tensor, images: Tensor, keys: dict[object, int]) -> str | None:
        """Return the reason why the map is not the sampler's, or None; a map that is not finite is accepted."""
        noise = _Recorded(self.model.shape, self.like)
        z = noise.draw("start", "start")
        noise.given.clear()
        end = self._run(z, noise)
        if set(noise.given) != set(keys):
            return "its number of draws depends on the state"
        heard = [z, *(noise.given[key] for key in keys)]
        expected = offset + torch.cat([part.flatten(1) for part in heard], 1).double() @ images
        off, scale = float((end - expected).abs().max()), float(expected.abs().max())
        # Rounding errors are far below half of the digits, and effects of state-dependent steps far above.
        if off > torch.finfo(self.like.dtype).eps ** 0.5 * scale:
            return "it is not affine: its steps depend on the state, or its score is not linear"
        return None

    def _run(self, z: Tensor, noise: Noise) -> Tensor:
        """Return the final states (B, D) of the rows that start at ``z``."""
        x, frame = self.sampler.run(self.start(z), self.model, noise), self.model.sde.frame
        return (frame.drop(x) if frame else x).flatten(1).double()
