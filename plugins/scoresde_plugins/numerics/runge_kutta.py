r"""Explicit Runge-Kutta methods for dy/dt = v(t, y), with fixed steps and with steps chosen by an embedded pair.

A method is given by the rows a of its Butcher tableau, the last of which is the solution:

    k_0 = v(t, y),   k_i = v(t + c_i h, y + h sum_j a_ij k_j),   c_i = sum_j a_ij,   y_next = y + h sum_j a_sj k_j

A pair has a second solution of lower order from the same slopes. Their difference e estimates the error; a step of a
pair of order p is accepted if the ratio below is at most 1 (Hairer, Norsett & Wanner 1993, Section II.4):

    ratio = rms(e / (atol + rtol max(|y|, |y_next|))),   h_next = h min(10, max(0.2, 0.9 ratio^(-1/p)))

The pairs' coefficients, the rule and the first step are those of torchdiffeq, and the results agree to rounding. In
torchdiffeq times are tensors on the device, and every step waits for them. Here times are floats, fixed steps never
wait for the device, and a step of a pair waits once, for its ratio. (``adaptive_heun`` starts each step with the slope
at the solution; torchdiffeq uses the one at Euler's point.)
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TypeVar

import attrs
import torch
from torch import Tensor

State = TypeVar("State", Tensor, tuple[Tensor, ...])
Parts = tuple[Tensor, ...]
Velocity = Callable[[float, Parts], Parts]
Rows = tuple[tuple[float, ...], ...]

FIXED: dict[str, Rows] = {
    "euler": ((1,),),
    "midpoint": ((1 / 2,), (0, 1)),
    "heun2": ((1,), (1 / 2, 1 / 2)),
    "heun3": ((1 / 3,), (0, 2 / 3), (1 / 4, 0, 3 / 4)),
    "rk4": ((1 / 3,), (-1 / 3, 1), (1, -1, 1), (1 / 8, 3 / 8, 3 / 8, 1 / 8)),
}
"""Methods of order 1, 2, 2, 3 and 4 (the last is Kutta's 3/8 rule)."""

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun")


@attrs.frozen
class Pair:
    """An embedded pair; ``error`` has the weights of all slopes, the slope at the solution last.

    That slope is also the first of the next step.
    """

    rows: Rows
    error: tuple[float, ...]
    order: int


@lru_cache
def pair(method: str) -> Pair:
    """Return the pair of torchdiffeq's ``method``."""
    from torchdiffeq._impl.odeint import SOLVERS

    solver = SOLVERS[method]
    rows = [tuple(row.tolist()) for row in solver.tableau.beta]
    solution, error = solver.tableau.c_sol.tolist(), solver.tableau.c_error.tolist()
    if (*rows[-1], 0.0) != tuple(solution):  # adaptive_heun: the solution is not among the points of its slopes
        rows.append(tuple(solution))
        error.append(0.0)
    return Pair(tuple(rows), tuple(error), solver.order)


def integrate(velocity: Callable[[float, State], State], state: State, times: Sequence[float], rows: Rows) -> State:
    """Return the state at the last of ``times``, from ``state`` at the first, with one step between neighbours."""
    along, parts = _in_parts(velocity, state)
    for start, end in pairwise(times):
        parts, _ = _step(along, parts, along(start, parts), start, end, rows)
    return _like(parts, state)


def adapt(
    velocity: Callable[[float, State], State], state: State, start: float, end: float, pair: Pair, rtol: float,
    atol: float,
) -> State:  # fmt: skip
    """Return the state at ``end``, from ``state`` at ``start``, by steps of ``pair``; the last one lands on ``end``.

    For several tensors the largest ratio counts. ArithmeticError if the step size vanishes, as where values are NaN.
    """
    along, parts = _in_parts(velocity, state)
    t, slope = start, along(start, parts)
    size = _first_step(along, parts, slope, start, end, pair.order, rtol, atol)
    while t != end:
        if not size > 10 * math.ulp(t):  # also true for NaN
            raise ArithmeticError(f"the step size vanished at t = {t:.6g}")
        arrival = end if size >= abs(end - t) else t + math.copysign(size, end - start)
        ahead, slopes = _step(along, parts, slope, t, arrival, pair.rows)
        slopes.append(along(arrival, ahead))
        scales = [atol + rtol * torch.maximum(a.abs(), b.abs()) for a, b in zip(parts, ahead, strict=True)]
        step = abs(arrival - t)
        zero = tuple(torch.zeros_like(part) for part in parts)
        ratio = step * _norm(_advance(zero, slopes, pair.error, 1.0), scales)
        if ratio <= 1:
            t, parts, slope = arrival, ahead, slopes[-1]
        size = step * _growth(ratio, pair.order)
    return _like(parts, state)


def _in_parts(velocity: Callable[[float, State], State], state: State) -> tuple[Velocity, Parts]:
    if isinstance(state, tuple):
        return velocity, state
    return lambda t, parts: (velocity(t, parts[0]),), (state,)


def _like(parts: Parts, state: State) -> State:
    return parts if isinstance(state, tuple) else parts[0]


def _step(
    velocity: Velocity, state: Parts, slope: Parts, start: float, end: float, rows: Rows
) -> tuple[Parts, list[Parts]]:
    """Return the solution of one step whose first slope is ``slope``, and all its slopes."""
    slopes, step = [slope], end - start
    for row in rows[:-1]:
        # Rounding must not go past the end, where the velocity may be undefined.
        t = end if math.isclose(sum(row), 1) else start + sum(row) * step
        slopes.append(velocity(t, _advance(state, slopes, row, step)))
    return _advance(state, slopes, rows[-1], step), slopes


def _advance(state: Parts, slopes: list[Parts], weights: tuple[float, ...], step: float) -> Parts:
    """Return ``state`` + ``step`` times the weighted sum of ``slopes``."""
    parts = []
    for index, part in enumerate(state):
        terms = [(slope[index], step * weight) for slope, weight in zip(slopes, weights, strict=True) if weight]
        total = torch.add(part, terms[0][0], alpha=terms[0][1])
        for slope, weight in terms[1:]:
            total.add_(slope, alpha=weight)
        parts.append(total)
    return tuple(parts)


def _first_step(
    velocity: Velocity, state: Parts, slope: Parts, start: float, end: float, order: int, rtol: float, atol: float
) -> float:
    """Return a step whose error is about a hundredth of the tolerance, from the slope and its change (Section II.4)."""
    scales = [atol + rtol * part.abs() for part in state]
    d0, d1 = _norm(state, scales), _norm(slope, scales)
    h0 = 0.01 * d0 / d1 if d0 >= 1e-5 and 1e-5 <= d1 < math.inf else 1e-6
    h0 = min(h0, abs(end - start))  # beyond the end the velocity may be undefined
    step = math.copysign(h0, end - start)
    moved = velocity(end if h0 == abs(end - start) else start + step, _advance(state, [slope], (1.0,), step))
    d2 = _norm([b - a for a, b in zip(slope, moved, strict=True)], scales) / h0
    steepest = max(d1, d2)
    h1 = max(1e-6, 1e-3 * h0) if steepest <= 1e-15 else math.pow(0.01 / steepest, 1 / order)
    return min(100 * h0, h1)


def _norm(parts: Sequence[Tensor], scales: Sequence[Tensor]) -> float:
    """Return the largest root mean square of a part in units of its scale; waits once for the device."""
    squares = [(part / scale).square_().mean() for part, scale in zip(parts, scales, strict=True)]
    return math.sqrt(torch.stack(squares).max().item())


def _growth(ratio: float, order: int) -> float:
    """Return the next step size over this one for an error ratio; a fifth if the ratio is not finite."""
    if ratio == 0 or not math.isfinite(ratio):
        return 0.2 if ratio else 10.0
    return min(10.0, max(0.9 * math.pow(ratio, -1 / order), 1.0 if ratio < 1 else 0.2))
