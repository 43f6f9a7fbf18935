r"""Bits per dimension of images, for a density of any range, and of floats.

A model of x = low + (high - low) (v + u) / 256, with integer values v and u from q(u | v) on [0, 1), bounds the
probability of v (Theis et al. 2016, arXiv:1511.01844; Ho et al. 2019, arXiv:1902.00275):

    -log P(v) <= E_q[-log p_x(x) - D log((high - low) / 256) + log q(u | v)]

In bits per dimension the middle term is log2(256 / (high - low)): 7 for data in [-1, 1], 8 for [0, 1]. For images of L
grey levels 256 becomes L. A dequantiser whose cells are centred on grey levels has x = low + (high - low) (v + u - 1/2)
/ 255 instead: any cells that fill the line serve, and these are right for models that saw the levels themselves.

The average over K draws of u inside the logarithm is a tighter bound, which reaches -log P(v) as K grows (Burda et al.
2016, arXiv:1509.00519). Its draws share the probes of a divergence: noise of its own in each log density would make
their average too large, and the bits too few.

:func:`bits_per_dim` computes this for any log density of images; :func:`measure` for a score model, on images or
floats, with function evaluations. The density is that of the data, whatever the model's shift and scale:
log p_data(x) = log p_model(encode(x)) - log |d data / d model|. In another unit bits differ by the unit's logarithm.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any

import attrs
import torch
from torch import Tensor
from scoresde_core import Noise, ScoreModel
from scoresde_run.data.dequantizer import Dequantizer
from scoresde_run.data.units import Units, stored_levels
from ..dequantizers.uniform import UniformDequantizer
from .likelihood import Density, LogDensities

LogProb = Callable[[Tensor, int], Tensor]
"""(events (n, ...) in the density's range, seed) -> log density or a lower bound on it, (n,) in nats."""


@attrs.frozen(eq=False)
class BitsPerDim:
    """``values`` (repeats, n), for every image and every draw of the dequantisation noise."""

    values: Tensor

    @property
    def per_image(self) -> Tensor:
        """Averages over the repeats, (n,)."""
        return self.values.mean(0)

    @property
    def mean(self) -> float:
        """The average over images and repeats."""
        return float(self.values.mean())

    @property
    def stderr(self) -> float:
        """The standard error of :attr:`mean` over images; NaN for a single image."""
        images = self.values.shape[1]
        return float(self.per_image.std()) / math.sqrt(images) if images > 1 else math.nan


@attrs.frozen
class Grey:
    """How stored images become events: range of the data, dequantisation, dtype, and the number of grey levels."""

    low: float = -1.0
    high: float = 1.0
    dequantizer: Dequantizer = UniformDequantizer()
    dtype: torch.dtype = torch.float32
    levels: int = 256

    @property
    def unit(self) -> float:
        """The width of a grey level's cell."""
        return (self.high - self.low) / (self.levels - self.dequantizer.centred)

    def passes(self, images: Tensor, repeats: int, seed: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield x and log q(u | v) - D log unit (n,), in nats, for each of ``repeats``."""
        if images.dtype != (torch.uint8 if self.levels <= 256 else torch.int32):
            how = "pass the stored values, without scaling or dequantisation"
            raise ValueError(f"images must be uint8 values 0 to 255, got {images.dtype}: {how}")
        if not self.high > self.low:
            raise ValueError(f"high must be above low, got the range {self.low} to {self.high}")
        if repeats < 1 or not len(images):
            raise ValueError(f"bits_per_dim needs at least one image and one repeat, got {len(images)} and {repeats}")
        start = self.low - self.unit / 2 * self.dequantizer.centred
        noise = Noise(seed, tuple(images.shape[1:]), len(images), start=first, device=images.device, dtype=self.dtype)
        for number in range(repeats):
            filled, log_q = self.dequantizer.dequantize(images, noise.at(number, "dequantization"))
            x = start + self.unit * filled.to(self.dtype)
            yield x, log_q.double() - images[0].numel() * math.log(self.unit)


@torch.no_grad()
def bits_per_dim(
    log_prob: LogProb, images: Tensor, *, repeats: int = 1, seed: int = 0, first: int = 0, **grey: Any
) -> BitsPerDim:
    """Return bits per dimension of uint8 ``images`` (n, C, H, W) under a model of data, with options of :class:`Grey`.

    Images of more than 256 ``levels`` are int32. Each of ``repeats`` passes has its own noise, keyed by ``seed`` and
    the images' indices, from ``first``.
    """
    passes = enumerate(Grey(**grey).passes(images, repeats, seed, first))
    values = [extra - log_prob(x, seed + number).double() for number, (x, extra) in passes]
    return BitsPerDim(torch.stack(values) / (images[0].numel() * math.log(2)))


@attrs.frozen(eq=False)
class Measurement:
    """Bits per dimension ``values`` and function evaluations ``nfe`` of every event, (repeats, n).

    ``stderr`` (repeats, n) is that of a bound; ``latent`` (n, ...) that of a flow, in the first repeat; ``truth``
    (repeats, n) the true bits of the same dequantised events, where known.
    """

    values: Tensor
    nfe: Tensor
    stderr: Tensor | None = None
    latent: Tensor | None = None
    truth: Tensor | None = None

    @property
    def bits(self) -> BitsPerDim:
        """The measured bits."""
        return BitsPerDim(self.values)

    @property
    def exact(self) -> BitsPerDim | None:
        """The true bits."""
        return None if self.truth is None else BitsPerDim(self.truth)

    @property
    def gap(self) -> BitsPerDim | None:
        """Bits above the truth, event by event; its standard error is far below those of the two."""
        return None if self.truth is None else BitsPerDim(self.values - self.truth)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are present, by name: ``Measurement(**tensors)`` is equal to this one."""
        return {name: value for name, value in attrs.asdict(self).items() if value is not None}


@torch.no_grad()
def measure(
    density: Density, model: ScoreModel, events: Tensor, *, repeats: int = 1, seed: int = 0, first: int = 0,
    exact: Callable[[Tensor], Tensor] | None = None, units: Units | None = None, draws: int = 1, **grey: Any,
) -> Measurement:  # fmt: skip
    """Return bits per dimension of stored ``events`` (n, ...) under ``model``, in the units of their data.

    ``units`` convert events to the model's scale; without them ``low`` and ``high`` are its range, and floats are on
    its scale. Repeats differ in dequantisation and in the density's random numbers, all keyed by ``seed`` and the
    index, from ``first``: :func:`join` of parts of a data set gives the result of the whole. For floats the bits are
    those of the density, without the log2(256 / (high - low)) of grey levels. Every repeat averages the probability
    over ``draws`` of dequantisation noise. ``exact`` is a log density of the data to compare with.
    """
    options, levels = Grey(**grey), stored_levels(events)
    volume = 0.0 if units is None else units.log_volume(tuple(events.shape[1:]))
    passes: Iterable[tuple[Tensor, Tensor | float]]
    if levels is None:
        passes = repeat((events if units is not None else events.to(options.dtype), 0.0), repeats)
    else:
        many = levels if levels == 256 or units is None else units.levels or levels
        options = attrs.evolve(options, levels=many)
        if model.sde.form == "scalar":  # the noise that the model sees at the time of the data, in grey levels
            at = model.sde.float_level(density.t_min)
            std = float(at.sigma / at.alpha) * math.exp(volume / events[0].numel()) / options.unit
            options = attrs.evolve(options, dequantizer=options.dequantizer.fitted(std))
        passes = options.passes(events, repeats * draws, seed, first)
    found: list[LogDensities] = []
    nats, truths = [], []
    for number, (x, extra) in enumerate(passes):
        seen = x if units is None else units.encode(x)
        found.append(density.measure(model, seen.to(options.dtype), seed + number // draws, first))
        nats.append(extra - (found[-1].log_prob.double() - volume))
        if exact is not None:
            truths.append(extra - exact(x).double())
    to_bits = events[0].numel() * math.log(2)

    def averaged(parts: list[Tensor]) -> Tensor:
        groups = torch.stack(parts).reshape(repeats, draws, -1)
        return (math.log(draws) - (-groups).logsumexp(1)) / to_bits

    errors = [part.stderr / to_bits for part in found if part.stderr is not None]
    stderr, truth = torch.stack(errors) if errors else None, averaged(truths) if truths else None
    nfe = torch.stack([part.nfe for part in found]).reshape(repeats, -1, len(events)).sum(1)
    return Measurement(averaged(nats), nfe, stderr, found[0].latent, truth)


def join(parts: Sequence[Measurement]) -> Measurement:
    """Join measurements of parts of a data set, in order, to that of the whole."""
    kept = [part.tensors for part in parts]
    return Measurement(
        **{name: torch.cat([part[name].cpu() for part in kept], 0 if name == "latent" else 1) for name in kept[0]}
    )
