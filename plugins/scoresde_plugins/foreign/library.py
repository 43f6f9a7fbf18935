"""What samplers of other libraries share: versions, the orders that they claim, and noise that is keyed as ours is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from importlib.resources import files
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from scoresde_core import Noise
from scoresde_core.noise import key
from scoresde_run.machine import document


def installed(library: str) -> str:
    """The installed version of a distribution; "none" if there is none."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "none"


def missing(library: str) -> str | None:
    """Why a library cannot be used, or None."""
    return f"{library} is not installed: pip install {library}" if installed(library) == "none" else None


@cache
def _orders() -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = document.load(files(__package__).joinpath("orders.yaml").read_text("utf-8"))
    return found


def claimed(library: str, chosen: str) -> Any:
    """A default: the order that a sampler claims, or None: that of ``orders.yaml`` by the parameter ``chosen``."""

    def order(sampler: Any) -> int | None:
        usual = _orders()[library].get(getattr(sampler, chosen))
        return usual and int(sampler.options.get("solver_order", sampler.options.get("order", usual)))

    return attrs.Factory(order, takes_self=True)


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
        if func not in (torch.randn, torch.randn_like) or known.get("generator") is not None:
            return func(*args, **known)
        like = args[0] if args else known.get("size")
        shape = like.shape if isinstance(like, Tensor) else like if isinstance(like, tuple | list) else args
        if tuple(shape) != (self.noise.count, *self.noise.shape):
            return func(*args, **known)
        return self.draw().to(known.get("dtype") or self.noise.dtype)
