"""What a component is combined with: its variants and the SDEs. Failures name both."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from scoresde_core import SDE, Sampler, sample
from .candidate import Candidate
from .exact import ConstantRateSDE, GrowingSDE, Mixture, StraightSDE, Watched
from .expect import agree

FEW = 6  # steps where only bookkeeping is checked


def sdes(candidate: Candidate, *, shipped: bool = True) -> list[tuple[str, SDE]]:
    """Return the suite's own SDEs (variance-preserving, exploding, without signal at the end), then the registry's."""
    shared = candidate.partners("sdes", shipped=shipped)
    return [
        ("the suite's own sde", ConstantRateSDE()),
        ("the suite's own growing sde", GrowingSDE()),
        ("the suite's own straight sde", StraightSDE()),
        *((f"sde {name}", sde) for name, sde in shared if sde.form == "scalar" and not sde.needs),
    ]


def pairs(
    candidate: Candidate, skip: Callable[[Any, SDE], str | None] | None = None, *, crossed: bool = False
) -> Iterator[tuple[Any, SDE]]:
    """Yield every variant of the component with the first SDE, and the component itself with every SDE.

    Combinations refused by its own ``skip``, or another, are left out. ``crossed`` checks combine all at full level.
    The quick level omits the SDEs that ship with scoresde, whose number grows, unless the component refuses all others.
    """
    refusal, served = skip or (lambda component, sde: component.skip(sde)), False
    for shipped in (True,) if candidate.full else (False, True):
        for v, (variant, component) in enumerate(candidate.variants()):
            for s, (label, sde) in enumerate(sdes(candidate, shipped=shipped)):
                candidate.trying = f"{variant} under {label}"
                if (not v or not s or (crossed and candidate.full)) and refusal(component, sde) is None:
                    served = True
                    yield component, sde
        if served:
            break
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
