"""The axes of a sweep: their names, the kinds of their values, and their defaults.

Imports no torch, so that usage errors are reported at once.
"""

import re
from collections.abc import Mapping, Sequence

from scoresde_core import UsageError

COMPONENT_AXES: Mapping[str, str] = {axis: f"{axis}s" for axis in (
    "target", "sde", "sampler", "predictor", "corrector", "grid", "guidance", "condition",
)} | {"method": "conditions"}  # fmt: skip
"""Axes whose values are components, and the kinds of those components."""
SAMPLER_AXES = ("predictor", "corrector", "grid", "steps")
"""Axes that set a parameter of the sampler; without effect on samplers that lack it."""
LEARNED_AXES: Mapping[str, str] = {"checkpoint": "checkpoints", "network": "presets"}
"""Axes that replace a target's exact score and define their own SDE, and the kinds of their values."""
CHOICES: Mapping[str, tuple[str, ...]] = {
    "dtype": ("float32", "float64"),
    "precision": ("float32", "bfloat16", "float16"),
    "compile": ("none", "default", "max-autotune-no-cudagraphs"),
}
"""Axes whose values are fixed words. Modes of torch.compile that replay CUDA graphs are left out: a replay overwrites
the previous output, which multistep methods keep."""

_AXES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "target": (("mnist_mfa",), "exact distribution to sample from, or to compare a checkpoint with"),
    "checkpoint": ((), "trained model, by folder or name; replaces the exact score and --sde"),
    "network": ((), "network with its own weights, such as module[...], or a preset with random ones, for speed only"),
    "sde": (("ve", "vp", "subvp"), "forward process"),
    "known": ((), "what is known of all samples of a cell: class=3, class=[0,3] for two cells"),
    "guidance": ((), "away from another score: cfg[scale=2], autoguidance[...]"),
    "condition": ((), "problem whose posterior is sampled: linear[operator=mask,noise=0.3], inpaint, colorize"),
    "method": ((), "how, under --condition: exact, mmps, dps[scale=0.1], repaint, ... (default there: replacement)"),
    "sampler": (("pc",), "sampling loop: pc, ode, ..."),
    "predictor": (("reverse_diffusion",), "reverse-time step"),
    "corrector": (("none",), "MCMC steps at each noise level"),
    "grid": ((), "times of the steps"),
    "steps": (("25", "50", "100"), "number of predictor steps"),
    "seed": (("0",), "seed of the noise and of the exact samples"),
    "dtype": (("float32",), "dtype of the state: float32 or float64"),
    "precision": (("float32",), "autocast dtype of the network: float32, bfloat16 or float16; the state keeps --dtype"),
    "compile": (("none",), "torch.compile mode of the network: none, default or max-autotune-no-cudagraphs"),
    "evaluator": (
        ("nll_gap", "sliced_wasserstein", "mode_weights", "moments", "energy_distance"),
        "metrics; not swept, every cell computes all of them",
    ),
}
"""Every axis, with its default and its help."""
DEFAULTS = {axis: default for axis, (default, _) in _AXES.items()}
HELP = {axis: text for axis, (_, text) in _AXES.items()}
UNNAMED: Mapping[str, str] = {"grid": "the predictor's own", "known": "nothing"}
"""How help describes an axis without a default."""
POSTERIOR = ("posterior_moments", "posterior_coverage", "posterior_distance", "residual", "restoration")
"""The evaluators by default under a condition."""
SAMPLES, OBSERVATIONS = 1024, 8
LIMITS = {"steps": (1, 10**9), "seed": (0, 2**63 - 1)}
"""Axes whose values are integers, with the least and the largest value."""
MOST_CELLS = 100_000  # cells of one command, whose plan takes minutes


def numbers(axis: str, values: Sequence[str | int]) -> tuple[int, ...]:
    """Return the integers of ``steps`` or ``seed``, given with blanks or commas between them, without repetition."""
    found = []
    least, most = LIMITS[axis]
    for word in map(str.strip, ",".join(map(str, values)).split(",")):
        if not re.fullmatch("[0-9]+", word) or int(word[:30]) < least:
            raise UsageError(f"--{axis} must be integers of at least {least}, got {word!r}")
        if len(word) > 30 or int(word) > most:
            raise UsageError(f"--{axis} must be at most {most}, got {word[:30]}")
        found.append(int(word))
    return tuple(dict.fromkeys(found))


def words(axis: str, values: Sequence[str]) -> list[str]:
    """Return the values of an axis of :data:`CHOICES`, checked, without repetition."""
    found = [word.strip() for word in ",".join(values).split(",")]
    for word in found:
        if word not in CHOICES[axis]:
            raise UsageError(f"--{axis} must be {' or '.join(CHOICES[axis])}, got {word!r}")
    return list(dict.fromkeys(found))
