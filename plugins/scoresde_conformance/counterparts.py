"""What a component is combined with: its variants and the SDEs. Failures name both."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from scoresde_core import SDE, Sampler, sample
from .candidate import Candidate
from .exact import ConstantRateSDE, GrowingSDE, Mixture, StraightSDE, Watched
from .expect import agree

FEW = 6
"""Steps where only bookkeeping is checked."""


def sdes(candidate: Candidate, *, shipped: bool = True) -> list[tuple[str, SDE]]:
    """Return the suite's own SDEs (variance-preserving, exploding, without signal at the end), then the registry's."""
    return [
        ("the suite's own sde", ConstantRateSDE()),
        ("the suite's own growing sde", GrowingSDE()),
        ("the suite's own straight sde", StraightSDE()),
        *((f"sde {name}", sde) for name, sde in candidate.partners("sdes", shipped=shipped) if _is_plain(sde)),
    ]


def _is_plain(sde: SDE) -> bool:
    """Whether it has one alpha and sigma, and needs to know nothing of its events."""
    return sde.form == "scalar" and not sde.needs


def pairs(
    candidate: Candidate, skip: Callable[[Any, SDE], str | None] | None = None, *, crossed: bool = False
) -> Iterator[tuple[Any, SDE]]:
    """Yield every variant of the component with the first SDE, and the component itself with every SDE.

    Combinations refused by its own ``skip``, or another, are left out. ``crossed`` checks combine every variant with
    every SDE at the full level. The quick level omits the SDEs that ship with scoresde, unless the component refuses
    all others, so that it does not take longer with every new SDE.
    """
    served = False
    for v, (variant, component) in enumerate(candidate.variants()):
        for s, (label, sde) in enumerate(sdes(candidate, shipped=candidate.full)):
            if not v or not s or (crossed and candidate.full):
                candidate.trying = f"{variant} under {label}"
                if (skip(component, sde) if skip else component.skip(sde)) is None:
                    served = True
                    yield component, sde
    if not served and not candidate.full:
        for label, sde in sdes(candidate):
            candidate.trying = f"{candidate.name} under {label}"
            if (skip(candidate.component, sde) if skip else candidate.component.skip(sde)) is None:
                yield candidate.component, sde
    candidate.trying = ""


def served(candidate: Candidate) -> Iterator[SDE]:
    """Yield the SDEs of :func:`pairs` that the component itself accepts."""
    return (sde for component, sde in pairs(candidate) if component is candidate.component)


def splits_alike(sampler: Sampler, sde: SDE) -> None:
    """12 samples at once equal those in batches of 5, to the rounding of different kernels."""
    sampler = sampler.decoupled()
    whole, parts = (samples_of(sampler, sde, (3,), 12, batch_size=size) for size in (None, 5))
    most = 1e-5 * max(1.0, float(whole.abs().max()))
    agree(parts, whole, most, "samples drawn in batches of 5 differ from the same samples drawn at once by")


def samples_of(sampler: Sampler, sde: SDE, shape: tuple[int, ...], n: int, **options: Any) -> Tensor:
    """Return ``n`` samples of the suite's mixture."""
    return sample(Watched(Mixture(event=shape), sde), sampler, n, **options).x
