"""Estimates: a number with its standard error and the degrees of freedom of that error."""

import math

import attrs


@attrs.frozen
class Estimate:
    """A number, its standard error (0 for a closed form, nan if unknown) and the error's degrees of freedom."""

    value: float
    stderr: float = 0.0
    df: float = math.inf

    @property
    def known(self) -> bool:
        """Whether the value and its error are finite."""
        return math.isfinite(self.value) and math.isfinite(self.stderr)
