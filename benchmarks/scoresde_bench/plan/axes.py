"""The axes of a sweep: their names, what they hold, and their values where nobody says otherwise.

Nothing here imports torch, so that a mistyped number is answered at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scoresde_core.errors import UsageError

COMPONENT_AXES: Mapping[str, str] = {
    "target": "targets",
    "sde": "sdes",
    "sampler": "samplers",
    "predictor": "predictors",
    "corrector": "correctors",
    "grid": "grids",
}
"""Axes whose values are components, and the kinds of these."""
SAMPLER_AXES = ("predictor", "corrector", "grid", "steps")
"""Axes that are parameters of a sampler, and have no effect on one that lacks them."""
LEARNED_AXES: Mapping[str, str] = {"checkpoint": "checkpoints", "network": "presets"}
"""Axes that bring their own SDE, and stand in place of a target's exact score; the kinds of their names."""
CHOICES: Mapping[str, tuple[str, ...]] = {
    "dtype": ("float32", "float64"),
    "precision": ("float32", "bfloat16", "float16"),
    "compile": ("none", "default", "max-autotune-no-cudagraphs"),
}
"""Axes whose values are words. Modes of torch.compile that replay CUDA graphs are none of them: a replay overwrites the
output before it, which multistep methods keep."""

DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "target": ("mnist_mfa",),
    "checkpoint": (),
    "network": (),
    "sde": ("ve", "vp", "subvp"),
    "sampler": ("pc",),
    "predictor": ("reverse_diffusion",),
    "corrector": ("none",),
    "grid": (),
    "steps": ("25", "50", "100"),
    "seed": ("0",),
    "dtype": ("float32",),
    "precision": ("float32",),
    "compile": ("none",),
    "evaluator": ("nll_gap", "sliced_wasserstein", "mode_weights", "moments", "energy_distance"),
}
UNNAMED: Mapping[str, str] = {"grid": "the one that the predictor names"}
"""What stands for an axis without a default."""
HELP: Mapping[str, str] = {
    "target": "exact distribution to sample from, or to judge a checkpoint by",
    "checkpoint": "a learned model, by folder or name, in place of a target's exact score and of --sde",
    "network": "preset with random weights, to measure speed alone",
    "sde": "forward process",
    "sampler": "loop: pc, ode, ...",
    "predictor": "reverse-time step",
    "corrector": "MCMC at each noise level",
    "grid": "where the steps lie in time",
    "steps": "number of predictor steps",
    "seed": "seed of the noise and of the exact sets",
    "dtype": "float32 or float64: of the state",
    "precision": "what a network computes in (autocast): float32, bfloat16 or float16; the state keeps its dtype",
    "compile": "torch.compile of a network, by its mode: none, default or max-autotune-no-cudagraphs",
    "evaluator": "metrics (not swept: all are computed)",
}
SAMPLES = 1024
NUMBERS = ("steps", "seed")
"""Axes whose values are integers from the moment that a block holds them."""


def numbers(axis: str, values: Sequence[str | int]) -> tuple[int, ...]:
    """The integers of ``steps`` or ``seed``, typed with blanks or commas between them, without repetition."""
    found = []
    least = 1 if axis == "steps" else 0
    for word in ",".join(map(str, values)).split(","):
        if not word.strip().lstrip("-").isdigit() or int(word) < least:
            raise UsageError(f"--{axis} takes whole numbers from {least}, got {word.strip()!r}")
        found.append(int(word))
    return tuple(dict.fromkeys(found))


def words(axis: str, values: Sequence[str]) -> list[str]:
    """The values of an axis of :data:`CHOICES`, checked, without repetition."""
    found = [word.strip() for word in ",".join(values).split(",")]
    for word in found:
        if word not in CHOICES[axis]:
            raise UsageError(f"--{axis} must be {' or '.join(CHOICES[axis])}, got {word!r}")
    return list(dict.fromkeys(found))
