"""What samplers of other libraries share: versions, the orders that they claim, and noise that is keyed as ours is."""

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from importlib.resources import files
from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import ge
from torch import Tensor
from torch.overrides import TorchFunctionMode
from scoresde_core import SDE, Noise, Sampler, ScoreModel, param
from scoresde_core.noise import key
from scoresde_core.plugins import one_line
from scoresde_run.machine import document


def installed(library: str) -> str:
    """The installed version of a distribution; "none" if there is none."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "none"


@cache
def _orders() -> dict[str, dict[str, Any]]:
    return document.load(files(__package__).joinpath("orders.yaml").read_text("utf-8"))  # type: ignore[no-any-return]


@attrs.frozen(kw_only=True)
class ForeignSampler(Sampler):
    """A sampler of the distribution ``library``, which the parameter ``chosen`` names.

    ``version`` is the installed one, ``claims`` the order that it claims, and ``evaluations`` how often it evaluates
    the model in a step, both of ``orders.yaml``, or None.
    """

    library: ClassVar[str]
    chosen: ClassVar[str]
    coarse: ClassVar[dict[str, Any]] = {"steps": 8}

    options: dict = param(attrs.Factory(dict), "its arguments, such as {order=3}")  # type: ignore[type-arg]
    steps: int = param(50, "number of steps", ge(1))
    version: str = attrs.field(init=False, default="none")
    claims: int | None = attrs.field(init=False, default=None)
    evaluations: int | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        known = _orders().get(self.library, {}).get(self._name)
        order, often = known if isinstance(known, list) else (known, known and 1)
        own = self.options.get("solver_order", self.options.get("order"))
        order = int(own) if order and own is not None else order
        object.__setattr__(self, "version", installed(self.library))
        object.__setattr__(self, "claims", order)
        object.__setattr__(self, "evaluations", often)

    @property
    def _name(self) -> str:
        return str(getattr(self, self.chosen))

    @abstractmethod
    def check(self, sde: SDE) -> None:
        """Raise, as the library does, if it has no such sampler or option, or has none for the process."""

    def skip(self, sde: SDE) -> str | None:
        if self.version == "none":
            return f"{self.library} is not installed: pip install 'scoresde[{self.library}]'"
        try:
            with warnings.catch_warnings(action="ignore"):  # of imports, which are not about our use
                self.check(sde)
        except Exception as error:  # of the library, which raises anything, on import too
            return f"{self._name} of {self.library} cannot run: {one_line(error)}"
        return None


def noise_ratios(sde: SDE) -> tuple[float, float]:
    """The largest and the smallest sigma / alpha of a process."""
    times = torch.tensor([sde.t_max, sde.t_min], dtype=torch.float64)
    high, low = (sde.sigma(times) / sde.alpha(times)).tolist()
    return high, low


def denoised_at(model: ScoreModel, x: Tensor, ratio: Tensor) -> Tensor:
    """E[x_0 | x_0 + ratio eps = x], like ``x``, for a ``ratio`` with one element; below t_min by the score there."""
    level = model.sde.level_at(float(model.sde.time_at(ratio.reshape(1).double().log().cpu())), x)
    found = model.denoised(x * level.alpha, level)
    return torch.lerp(x, found.to(x.dtype), min(1.0, float(ratio) * level.alpha / level.sigma) ** 2)


LAST = 999  # timestep of a table of betas


def betas_of(sde: SDE) -> Tensor:
    """Betas (1000,), float64, of a process at k / 999; the first, if it has no noise, half a step on."""
    times = torch.arange(LAST + 1, dtype=torch.float64) / LAST
    times[0] = first_time(sde)
    products = sde.alpha(times).square()
    return 1 - products / torch.cat([products.new_ones(1), products[:-1]])


def first_time(sde: SDE) -> float:
    """The time of timestep 0: half a step on, where a process has no noise at 0."""
    return 0.0 if float(sde.sigma(torch.zeros(1, dtype=torch.float64))) > 0 else 0.5 / LAST


@contextmanager
def keyed(noise: Noise) -> Iterator[None]:
    """Within it, torch's draws of the state's shape are the next ones of ``noise``; others have a seed from its key.

    Those with a generator of their own are left alone: a Brownian tree must give the same numbers again.
    """
    with torch.random.fork_rng(devices=[noise.device] if noise.device.type == "cuda" else []), _Keyed(noise):
        torch.manual_seed(key(noise.seed, noise.start, "foreign"))
        yield


class _Keyed(TorchFunctionMode):
    def __init__(self, noise: Noise) -> None:
        super().__init__()
        self.noise, self.draw = noise, noise.at("foreign", "noise")

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        known = kwargs or {}
        fills = func is Tensor.normal_ and len(args) == 1 and not {"mean", "std"} & known.keys()
        if not (fills or func in (torch.randn, torch.randn_like)) or known.get("generator") is not None:
            return func(*args, **known)
        like = args[0] if args else known.get("size")
        shape = like.shape if isinstance(like, Tensor) else like if isinstance(like, tuple | list) else args
        if tuple(shape) != (self.noise.count, *self.noise.shape):
            return func(*args, **known)
        return args[0].copy_(self.draw()) if fills else self.draw().to(known.get("dtype") or self.noise.dtype)
