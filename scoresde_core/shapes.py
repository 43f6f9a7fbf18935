"""The one broadcasting rule: a value a row, against a batch of any rank."""

from torch import Tensor


def expand(value: Tensor, x: Tensor) -> Tensor:
    """``value`` (B,) or () reshaped to broadcast against ``x`` (B, ...)."""
    return value.reshape(value.shape + (1,) * (x.ndim - value.ndim)) if value.ndim else value
