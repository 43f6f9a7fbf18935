r"""Statistics of estimates: Student's t, Welch's differences, Holm's families.

An estimate is a value, its standard error s, and the error's degrees of freedom: one less than the independent pieces
that it was computed from. The difference of two independent estimates has

    s^2 = s_a^2 + s_b^2,        df = s^4 / (s_a^4 / df_a + s_b^4 / df_b)

(Welch 1947, doi:10.1093/biomet/34.1-2.28; Satterthwaite 1946, doi:10.2307/3002019), and t = difference / s follows
Student's distribution if the true difference is 0: with df = 4, |t| exceeds 2.8, not 2, once in twenty times. Of many
true hypotheses, Holm's procedure (Scand. J. Statist. 6, 1979) holds the chance of any false rejection to 5 % and needs
no independence. No torch here, and no scipy.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

from scoresde_core import Estimate

ALPHA = 0.05
"""The significance level, of one statement or of a family."""
_TERMS = 10_000


def mean(values: Sequence[float]) -> Estimate:
    """The mean of n independent values, its standard error, and n - 1 degrees of freedom."""
    n = len(values)
    middle = sum(values) / n
    if n < 2:
        return Estimate(middle, math.nan, 0)
    return Estimate(middle, math.hypot(*(value - middle for value in values)) / math.sqrt((n - 1) * n), n - 1)


def spread(parts: Iterable[Estimate]) -> tuple[float, float]:
    """The standard error of a sum of independent estimates, and its degrees of freedom by Welch and Satterthwaite."""
    known = [part for part in parts if part.stderr != 0]
    error = math.hypot(*(part.stderr for part in known))
    if not known or not math.isfinite(error):
        return error, math.inf
    if any(part.df <= 0 for part in known):
        return error, 0.0
    # Shares of the variance, whose squares neither overflow nor vanish.
    lost = sum((part.stderr / error) ** 4 / part.df for part in known)
    return error, 1 / lost if lost else math.inf


def difference(a: Estimate, b: Estimate) -> Estimate:
    """``a`` minus ``b``, which are independent; if they share random numbers, the error is too large."""
    return Estimate(a.value - b.value, *spread([a, b]))


def p_nonzero(found: Estimate) -> float:
    """The two-sided p-value of the hypothesis that the true value is 0; 1 if the error is unknown."""
    if not found.known:
        return 1.0
    if found.stderr == 0:
        return 0.0 if found.value else 1.0
    return tail(abs(found.value) / found.stderr, found.df)


def p_below(found: Estimate, margin: float) -> float:
    """The p-value of the hypothesis that the true value is ``margin`` or more; 1 if the error is unknown."""
    if not found.known:
        return 1.0
    if found.stderr == 0:
        return 0.0 if found.value < margin else 1.0
    half = tail(abs(margin - found.value) / found.stderr, found.df) / 2
    return half if found.value < margin else 1 - half


def holm(p_values: Sequence[float], alpha: float = ALPHA) -> list[bool]:
    """Which rejections hold at family-wise level ``alpha``: p_(1) <= alpha / m, p_(2) <= alpha / (m - 1), ..."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    holds = [False] * len(p_values)
    for rank, index in enumerate(order):
        if p_values[index] > alpha / (len(p_values) - rank):
            break
        holds[index] = True
    return holds


def tail(t: float, df: float) -> float:
    """The chance that |T| exceeds ``t``, for Student's T with ``df`` degrees of freedom; inf is the normal.

    It is the regularised incomplete beta function I_x(df / 2, 1 / 2) at x = df / (df + t^2).
    """
    if math.isnan(t) or df <= 0:
        return 1.0
    if math.isinf(df) or math.isinf(t):
        return math.erfc(t / math.sqrt(2))
    squared = t * t / df
    inside, outside = 1 / (1 + squared), squared / (1 + squared)
    if math.isinf(squared):
        inside, outside = 1 / t * df / t, 1.0
    return _beta(inside, outside, df / 2, 0.5)


@lru_cache(maxsize=1024)
def quantile(alpha: float, df: float) -> float:
    """The t that |T| exceeds with chance ``alpha``, for Student's T; inf without degrees of freedom."""
    if df <= 0:
        return math.inf
    low, high = 0.0, 1.0
    while tail(high, df) > alpha:
        low, high = high, 2 * high
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if tail(middle, df) > alpha else (low, middle)
    return high


def _beta(x: float, y: float, a: float, b: float) -> float:
    """I_x(a, b) with y = 1 - x, by the continued fraction where it converges fast (Abramowitz & Stegun 26.5.8)."""
    if x <= 0 or y <= 0:
        return float(y <= 0)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(y))
    if x <= (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(y, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """1 / (1 + d_1 / (1 + d_2 / (1 + ...))) of the incomplete beta function, from the front."""
    whole, above, below = 1.0, 1.0, 0.0
    for term in range(1, _TERMS):
        k = term // 2
        if term % 2:
            d = -(a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1))
        else:
            d = k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k))
        below, above = 1 / (1 + d * below), 1 + d / above
        whole *= above * below
        if abs(above * below - 1) < 1e-15:
            break
    return 1 / whole
