"""Runge-Kutta methods: torchdiffeq's numbers, orders of convergence, and errors without a solution."""

import math

import pytest
import torch
from torchdiffeq import odeint
from scoresde_plugins.numerics.runge_kutta import ADAPTIVE, FIXED, adapt, integrate, pair

ORDERS = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}


class Counted:
    """dy/dt = (1 + t) sin(A y), counting evaluations; ``t`` may be a float or a tensor."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.matrix = 0.8 * torch.randn(6, 6, dtype=torch.float64, generator=generator)
        self.start = torch.randn(5, 6, dtype=torch.float64, generator=generator)
        self.calls = 0

    def __call__(self, t, y):
        self.calls += 1
        return torch.sin(y @ self.matrix.T) * (1 + float(t))


@pytest.mark.parametrize("ends", [(1.0, 0.01), (0.01, 1.0)])
@pytest.mark.parametrize("method", sorted(set(ADAPTIVE) - {"adaptive_heun"}))
def test_pairs_take_the_steps_of_torchdiffeq(method, ends):
    ours, theirs = Counted(), Counted()
    found = adapt(ours, ours.start, *ends, pair(method), 1e-6, 1e-6)
    times = torch.tensor(ends, dtype=torch.float64)
    expected = odeint(theirs, ours.start, times, method=method, rtol=1e-6, atol=1e-6, options={"step_t": times[1:]})[-1]
    assert (found - expected).abs().max() < 1e-12
    assert ours.calls == theirs.calls


@pytest.mark.parametrize("method", sorted(FIXED))
def test_fixed_steps_are_those_of_torchdiffeq(method):
    velocity, times = Counted(), torch.linspace(1, 0.01, 9, dtype=torch.float64) ** 2
    found = integrate(velocity, velocity.start, times.tolist(), FIXED[method])
    calls = velocity.calls
    grid = {"grid_constructor": lambda func, y0, t: times}
    expected = odeint(velocity, velocity.start, times[[0, -1]], method=method, options=grid)[-1]
    assert (found - expected).abs().max() < 1e-13
    assert calls == 8 * len(FIXED[method])


def oscillate(t, y):
    """dy/dt = 2 t (y_1, -y_0), whose solution turns by the angle t^2."""
    return 2 * t * torch.stack([y[1], -y[0]])


def turned(angle):
    return torch.tensor([math.sin(angle), math.cos(angle)], dtype=torch.float64)


@pytest.mark.parametrize("method", sorted(FIXED))
def test_fixed_steps_converge_at_their_order(method):
    errors = []
    for steps in (20, 40):
        times = torch.linspace(0, 2, steps + 1, dtype=torch.float64).tolist()
        errors.append((integrate(oscillate, turned(0), times, FIXED[method]) - turned(4)).norm())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(ORDERS[method], abs=0.3)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-7])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_pairs_keep_their_tolerance_and_land_on_the_end(method, tolerance):
    seen = []

    def velocity(t, y):
        seen.append(t)
        return oscillate(t, y)

    found = adapt(velocity, turned(0), 0.0, 2.0, pair(method), tolerance, tolerance)
    assert (found - turned(4)).norm() < 20 * tolerance
    assert seen[-1] == 2.0 == max(seen)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_errors_shrink_in_proportion_to_the_tolerance(method):
    """A step's error is O(h^p) at a tolerance: the global error of a pair falls about as its tolerance does."""
    errors = [
        float((adapt(oscillate, turned(0), 0.0, 2.0, pair(method), tolerance, tolerance) - turned(4)).norm())
        for tolerance in (1e-4, 1e-6)
    ]
    assert math.log10(errors[0] / errors[1]) == pytest.approx(2, abs=0.8)


@pytest.mark.parametrize("ends", [(1.0, 0.01), (0.01, 1.0)])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_slow_flow_is_asked_for_no_time_beyond_its_ends(method, ends):
    """The first step of a flow that hardly moves would be thousands long."""
    times = []

    def velocity(t, y):
        times.append(t)
        return 1e-6 * y

    found = adapt(velocity, turned(0), *ends, pair(method), 1e-5, 1e-5)
    assert (min(times), max(times)) == (0.01, 1.0)
    assert torch.allclose(found, turned(0) * math.exp(1e-6 * (ends[1] - ends[0])), rtol=1e-9)


def test_several_tensors_move_together():
    """A state of two tensors has the solutions of each alone, to within the tolerance, with its shapes."""
    first, second = torch.ones(3, dtype=torch.float64), torch.full((2, 2), 2.0, dtype=torch.float64)
    a, b = adapt(lambda t, y: (-y[0], y[1] * t), (first, second), 0.0, 1.0, pair("dopri5"), 1e-9, 1e-9)
    assert torch.allclose(a, first * math.exp(-1), rtol=1e-8)
    assert torch.allclose(b, second * math.exp(0.5), rtol=1e-8)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_end_the_run(value):
    with pytest.raises(ArithmeticError, match="vanished at t = 0"):
        adapt(lambda t, y: torch.full_like(y, value), turned(0), 0.0, 1.0, pair("dopri5"), 1e-5, 1e-5)


def test_a_singularity_ends_the_run():
    """dy/dt = y^2 from 1 is 1 / (1 - t), which has no value from t = 1 on."""
    with pytest.raises(ArithmeticError, match=r"vanished at t = (1|0\.9999)"):
        adapt(lambda t, y: y**2, torch.ones(1, dtype=torch.float64), 0.0, 2.0, pair("dopri5"), 1e-5, 1e-5)
