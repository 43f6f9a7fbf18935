r"""Score models: the interface of networks and exact targets to samplers, losses and likelihoods.

At a level (t, alpha, sigma), with x = alpha x_0 + sigma eps, three views of one quantity (Efron 2011; Song et al.
2021, arXiv:2011.13456; Karras et al. 2022, arXiv:2206.00364):

    score    = grad log p_t(x)
    noise    = E[eps | x] = -sigma score
    denoised = E[x_0 | x] = (x + sigma^2 score) / alpha          (Tweedie)

Every evaluation is counted: ``calls`` is their number, ``rows`` the number of samples that they evaluated. The reported
NFE is ``rows`` over samples, so a sample that needs no further evaluation costs none.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any, Self

import torch
from torch import Tensor
from .contract import Contract, derived
from .errors import UsageError, near_misses
from .frame import Frame
from .sde import SDE, Level
from .shapes import NUMBER, expand, solve

NO_SIGNAL = (
    "{} gives no denoised state where alpha = 0, because its score says nothing of the data there: use a network whose "
    "parameterisation is denoised, v, flow or edm, or a process with a smaller t_max"
)
_EVALUATE = "samplers ask for a score, noise or denoised state as their formula needs it; override evaluate"


class ScoreModel(Contract):
    """Gives ``score``, ``noise`` and ``denoised`` at a noise level; counts evaluations in ``calls`` and ``rows``.

    It belongs to one process ``sde`` and to events of one ``shape``, which evaluation at given levels does not need.
    """

    sde: SDE
    shape: tuple[int, ...]
    calls: int = 0
    continuous: bool = True
    """Whether it was made for all levels, and so varies smoothly between them."""
    rows: int = 0
    known: Mapping[str, Any] = {}
    """What it knows of each sample, by name: tensors with one row a sample, or one row for all."""
    _whole: ScoreModel | None = None

    @abstractmethod
    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        """The score at ``x`` (B, ...), uncounted; implement this, call :meth:`score`."""

    @property
    def takes(self) -> Mapping[str, int | tuple[int, ...]]:
        """What it can know of each sample: names, each with a number of classes or the shape of one row."""
        return {}

    def given(self, **known: Tensor) -> Self:
        """The model that knows ``known`` of each sample, such as ``class`` (n,) or ``y`` (n, *shape), and its process.

        A tensor has one row a sample, or one row for all; a name that neither takes is a :class:`UsageError`.
        """
        needs = self.sde.needs if hasattr(self, "sde") else ()
        for name in known:
            if name not in (usable := [*self.takes, *needs]):
                words = near_misses(name, usable) or (f" It takes {', '.join(usable)}." if usable else "")
                raise UsageError(f"the model takes nothing called {name!r}.{words or ' It takes nothing.'}")
        bound = self.part(known={**self.known, **{name: known[name] for name in known if name in self.takes}})
        if own := {name: known[name] for name in known if name in needs}:
            bound.sde = self.sde.given(**own)
        return bound

    def unconditional(self) -> ScoreModel:
        """The model that knows nothing of its samples, but what its process needs."""
        return self.part(known={})

    def select(self, index: Tensor) -> ScoreModel:
        """The model of the samples ``index`` (N,) among its samples; this model counts its evaluations too.

        Use it to evaluate some of the samples: a batch, particles, samples that have not arrived. A model with data of
        each sample outside of ``known`` overrides it with :meth:`part`. ``ValueError`` if there are too few rows.
        """
        rows = {name: v for name, v in self.known.items() if isinstance(v, Tensor) and v.ndim and len(v) > 1}
        own = {"sde": self.sde.rows(index)} if hasattr(self, "sde") and self.sde._known else {}
        if not rows:
            return self.part(**own) if own else self
        last = int(index.max()) if index.device.type == "cpu" else 0  # on a GPU the host would wait
        for name, value in rows.items():
            if last >= len(value):
                few = f"{name!r} has {len(value)} rows, too few for sample {last}"
                raise ValueError(f"{few}: give one row per sample, or one row for all")
        return self.part(known={**self.known, **{name: v[index.to(v.device)] for name, v in rows.items()}}, **own)

    @derived("every evaluation is counted there; override evaluate")
    def score(self, x: Tensor, level: Level) -> Tensor:
        """grad log p_t(x), like ``x``; one function evaluation."""
        self._count(x)
        return self.evaluate(x, level)

    def _count(self, x: Tensor) -> None:
        counted: ScoreModel | None = self
        while counted is not None:
            counted.calls, counted.rows, counted = counted.calls + 1, counted.rows + len(x), counted._whole

    def part(self, **known: Any) -> Self:
        """A copy with changed attributes, whose evaluations this model counts too."""
        part = copy(self)
        for name, value in {"_whole": self, **known, "calls": 0, "rows": 0}.items():
            setattr(part, name, value)
        return part

    def counted_by(self, whole: ScoreModel) -> Self:
        """A copy whose evaluations ``whole`` counts, in place of this model."""
        return self.part(_whole=whole)

    @derived(_EVALUATE)
    def noise(self, x: Tensor, level: Level) -> Tensor:
        """E[eps | x_t = x], like ``x``; one function evaluation."""
        return self.score(x, level) * -level.sigma

    @derived(_EVALUATE)
    def denoised(self, x: Tensor, level: Level) -> Tensor:
        """E[x_0 | x_t = x], like ``x``; one function evaluation."""
        if isinstance(level.alpha, NUMBER) and level.alpha == 0:
            self._count(x)
            return self.evaluate_denoised(x, level)
        return solve(level.alpha, x + self.score(x, level) * level.sigma**2)  # type: ignore[no-any-return]

    def evaluate_denoised(self, x: Tensor, level: Level) -> Tensor:
        """E[x_0 | x_t = x] at a level without signal (alpha = 0), uncounted; there Tweedie's formula is 0 / 0."""
        raise UsageError(NO_SIGNAL.format(type(self).__name__))

    def informed(self, count: int, seed: int, first: int) -> ScoreModel:
        """The model with what its process needs of samples ``first .. first + count``, else a ``UsageError``."""
        if reason := self.sde.lacks():
            raise UsageError(reason)
        for name, value in self.known.items():
            if isinstance(value, Tensor) and value.ndim and len(value) not in (1, count):
                raise UsageError(f"{name!r} has {len(value)} rows for {count} samples: give one row a sample, or one")
        return self

    def framed(self) -> ScoreModel:
        """The model in the frame of its process, where samplers, losses and likelihoods work; itself without one."""
        return self if self.sde.frame is None else FramedScore(self)

    def evaluate_framed(self, c: Tensor, level: Level, frame: Frame) -> Tensor:
        """The score at a state ``c`` in a frame of the process, in that frame, uncounted."""
        return frame.turn(self.evaluate(frame.leave(c, level.t), level))


class ExactScore(ScoreModel):
    """The exact score of a target, or of anything with ``score(x, level)``, under a process if one is given.

    Under a process that knows y it is that of the law given y: the target must say how y comes about (``given``).
    Of a target that knows its components it can be told the ``class``, the component of each sample; -1 is any.
    """

    def __init__(self, target: Any, sde: SDE | None = None) -> None:
        self.target = target
        for name, value in {"sde": sde, "shape": getattr(target, "shape", None)}.items():
            if value is not None:
                setattr(self, name, value)

    @property
    def takes(self) -> Mapping[str, int | tuple[int, ...]]:
        return {"class": len(self.target.modes())} if "class" in getattr(self.target, "knows", ()) else {}

    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        if not hasattr(self, "sde"):
            return self.target.score(x, level, **self._classes)  # type: ignore[no-any-return]
        frame = self.sde.frame
        if frame is None:
            return self.sde.score_of(self.target, x, level, **self._classes)
        return frame.turn_back(self.evaluate_framed(frame.enter(x, level.t), level, frame))

    def evaluate_framed(self, c: Tensor, level: Level, frame: Frame) -> Tensor:
        given = self.target if frame.y is None else self.target.given(frame.turn(frame.y))
        return self.sde.score_of(given, c, level, **self._classes)

    @property
    def _classes(self) -> dict[str, Any]:
        return {"classes": self.known["class"]} if "class" in self.known else {}

    def informed(self, count: int, seed: int, first: int) -> ScoreModel:
        """With the observations that the target draws, unless the process has its own."""
        if self.sde.lacks() is None or not hasattr(self.target, "known"):
            return super().informed(count, seed, first)
        known = self.target.known(first + count, seed)
        return self.part(sde=self.sde.given(**{name: value[first:] for name, value in known.items()}))

    def evaluate_denoised(self, x: Tensor, level: Level) -> Tensor:
        if self.known:  # the mean of each row's component: by Tweedie at the nearest level with signal
            near = self.sde.float_level(self.sde.t_signal)
            return (x + self.evaluate(x, near) * near.sigma**2) / near.alpha
        mean: Tensor = self.target.moments()[0]
        return mean.to(x).reshape(1, *x.shape[1:]).expand_as(x)


class WrappedScore(ScoreModel):
    """Base of a score model made from another, with the same process and events."""

    def __init__(self, model: ScoreModel) -> None:
        self.model, self.continuous = model, model.continuous
        for name in ("sde", "shape"):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))

    def evaluate_denoised(self, x: Tensor, level: Level) -> Tensor:
        """That of the model, moved by the change of the score at the nearest level with signal."""
        near = self.sde.float_level(self.sde.t_signal)
        change = self.evaluate(x, near) - self.model.evaluate(x, near)
        return self.model.evaluate_denoised(x, level) + change * (near.sigma**2 / near.alpha)


class FramedScore(WrappedScore):
    """A model in the frame of its process; :meth:`select` selects what the process knows of each sample as well."""

    def __init__(self, model: ScoreModel) -> None:
        super().__init__(model)
        frame = self.sde.frame
        assert frame is not None
        self.frame, self.events = frame, self.shape
        self._near: tuple[Any, Frame] = (None, frame)
        self.shape, self._whole = self.sde.state_shape(model.shape), model

    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        if self._near[0] != (place := (x.device, x.dtype)):
            self._near = place, self.frame.to(x)
        return self.model.evaluate_framed(x, level, self._near[1])

    def evaluate_denoised(self, x: Tensor, level: Level) -> Tensor:
        return self.frame.lift(self.model.evaluate_denoised(self.frame.leave(x, level.t), level))

    @property
    def takes(self) -> Mapping[str, int | tuple[int, ...]]:
        return self.model.takes

    def given(self, **known: Tensor) -> Self:
        return self.part(model=self.model.given(**known))

    def unconditional(self) -> ScoreModel:
        return self.part(model=self.model.unconditional())

    def select(self, index: Tensor) -> ScoreModel:
        model = self.model.select(index)
        return self.part(model=model, sde=model.sde, frame=model.sde.frame, _near=(None, model.sde.frame))


def in_frame(model: ScoreModel, x: Tensor) -> tuple[ScoreModel, Tensor]:
    """A model and clean events ``x`` in the frame of the process, where losses are written."""
    frame = model.sde.frame
    return (model, x) if frame is None else (model.framed(), frame.lift(x))


def in_batches(model: ScoreModel, x: Tensor, size: int | None) -> Iterator[tuple[int, ScoreModel, Tensor]]:
    """Batches of ``size`` (None: all) of ``x`` (n, ...): the index of the first event, the model, the events."""
    for start in range(0, len(x), size or len(x)):
        part = x[start : start + (size or len(x))]
        whole = len(part) == len(x)
        yield start, model if whole else model.select(torch.arange(start, start + len(part))), part


def level_of(sde: SDE, t: Tensor, x: Tensor) -> Level:
    """The level at one time per row, ``t`` (B,), in shapes that broadcast against ``x`` (B, ...).

    Times stay float64, so that labels are exact to the last index; alpha and sigma are rounded to the dtype of ``x``.
    """
    return spread(sde, sde.level(t), x)


def spread(sde: SDE, level: Level, x: Tensor) -> Level:
    """A level of one value per row, in shapes that broadcast against ``x``; alpha and sigma in the dtype of ``x``."""
    alpha, sigma = (sde.row_coefficient(value, x) for value in (level.alpha, level.sigma))
    return Level(expand(torch.as_tensor(level.t), x), alpha, sigma)
