"""The stationary distribution of Langevin correctors at one noise level of Gaussian data, against closed forms."""

import math

import attrs
import pytest
import torch
from scoresde_core import ExactScore, Schedule, UsageError, create
from scoresde_plugins.song2021.correctors import LangevinCorrector

STD = 0.5
SDE = create("sdes", "vp[chain=exact]")
STEP = attrs.evolve(Schedule(SDE, torch.tensor([0.3, 0.29], dtype=torch.float64))[0], discrete_drift=0.0)
VARIANCE = (STEP.now.alpha * STD) ** 2 + STEP.now.sigma**2


class Gaussian:
    """N(0, 0.5^2 I)."""

    def score(self, x, level):
        return -x / VARIANCE


def spread(corrector, dimensions, batches, steps, std):
    """Standard deviations, in units of ``std``, of (batches, rows, D) from N(0, std^2), after ``steps`` of it each."""
    generator, model = torch.Generator().manual_seed(1), ExactScore(Gaussian())
    x = std * torch.randn(*batches, dimensions, dtype=torch.float64, generator=generator)
    step = torch.vmap(lambda state, z: corrector.correct(state, STEP, model, lambda: z)[0])
    for _ in range(steps):
        x = step(x, torch.randn(x.shape, dtype=x.dtype, generator=generator))
    return float(x.square().mean().sqrt()) / std


@pytest.mark.parametrize("dimensions", [2, 8])
@pytest.mark.parametrize("name", ["langevin[norm=level,snr=0.3]", "langevin[norm=batch,snr=0.3]", "ald[snr=0.3]"])
def test_the_law_is_that_of_steps_of_a_fixed_size(name, dimensions):
    """x' = x - h x / v + sqrt(2 h) z has the variance v / (1 - h / 2v); step sizes vary little in large batches."""
    size = 2 * (0.3 * STEP.now.sigma) ** 2
    if "batch" in name:  # mean |z| / mean |x| times the variance: the ratio of the two standard deviations
        size = _solve(lambda h: 2 * 0.3**2 * VARIANCE**2 / _stationary(h), size)
    numbers = 40_000
    found = spread(create("correctors", name), dimensions, (1, numbers // dimensions), 30, math.sqrt(_stationary(size)))
    assert abs(found - 1) < 4 / math.sqrt(2 * numbers)
    plain = math.sqrt(_stationary(size) / VARIANCE)
    assert plain - 1 > 8 / math.sqrt(2 * numbers), "the test tells the bias of the step from none"


def _stationary(size):
    return VARIANCE / (1 - size / (2 * VARIANCE))


def _solve(next_size, size):
    for _ in range(50):
        size = next_size(size)
    return size


@pytest.mark.parametrize(("rows", "dimensions"), [(8, 2), (4, 8), (2, 8)])
def test_norms_of_a_small_batch_widen_the_law_by_as_much_as_they_say(rows, dimensions):
    """By about 2 / (B D) of the standard deviation, however small the steps, as the caveat and the docs say."""
    corrector = LangevinCorrector(snr=0.1)
    excess = spread(corrector, dimensions, (6000 // (rows * dimensions), rows), 250, math.sqrt(VARIANCE)) - 1
    assert excess == pytest.approx(2 / (rows * dimensions), rel=0.3)
    assert f"{100 * 2 / (rows * dimensions):.0f} % too large" in corrector.caveat((dimensions,), rows)


def test_norms_of_one_sample_are_refused():
    with pytest.raises(ValueError, match="norm"):
        LangevinCorrector(norm="sample")
    with pytest.raises(UsageError, match="norm must be 'batch' or 'level', got 'sample'"):
        create("correctors", "langevin[norm=sample]")


def test_steps_that_follow_the_level_are_those_of_ald():
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    level, ald = (
        create("correctors", name).correct(x, STEP, ExactScore(Gaussian()), lambda: x.flip(0))
        for name in ("langevin[norm=level,n_steps=3]", "ald[n_steps=3]")
    )
    for found, expected in zip(level, ald, strict=True):
        torch.testing.assert_close(found, expected)


class TestCaveat:
    """The warnings about batches that are too small for their norms."""

    SMALL, LARGE = ((2,), 8), ((2,), 100)

    def test_goes_from_the_corrector_to_what_it_is_part_of(self):
        sampler = create("samplers", "pc[corrector=langevin]")
        assert "in batches of 8 events of 2 numbers" in sampler.caveat(*self.SMALL)
        assert "take batches of 100 or more" in sampler.caveat(*self.SMALL)
        assert sampler.caveat(*self.LARGE) is sampler.caveat((3, 32, 32), 1) is None

    @pytest.mark.parametrize("name", ["pc", "pc[corrector=ald]", "pc[corrector=langevin[norm=level]]", "ode"])
    def test_is_silent_where_no_norm_is_taken(self, name):
        assert create("samplers", name).caveat((1,), 1) is None

    def test_decoupled_there_is_none(self):
        assert create("samplers", "pc[corrector=langevin]").decoupled().caveat((1,), 1) is None
