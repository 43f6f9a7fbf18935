"""Student's t, Welch's differences and Holm's families, against scipy and by repetition."""

import math

import numpy as np
import pytest
from scipy import stats
from scoresde_core.estimate import Estimate
from scoresde_run.results.certainty import difference, holm, mean, p_below, p_nonzero, quantile, tail


@pytest.mark.parametrize("df", [1, 2, 2.5, 4, 9, 49, 1000.5, math.inf])
def test_student_is_that_of_scipy(df):
    for t in (0.0, 1e-3, 0.3, 1.0, 1.96, 4.2, 37.0, 1e4):
        expected = 2 * (stats.norm.sf(t) if math.isinf(df) else stats.t.sf(t, df))
        assert tail(t, df) == pytest.approx(expected, rel=1e-10, abs=1e-300)
    for alpha in (0.5, 0.05, 1e-3):
        expected = stats.norm.isf(alpha / 2) if math.isinf(df) else stats.t.isf(alpha / 2, df)
        assert quantile(alpha, df) == pytest.approx(expected, rel=1e-9)


def test_difference_is_welchs():
    first, second = np.random.default_rng(0).normal(size=5), 3 * np.random.default_rng(1).normal(size=9) + 1
    expected = stats.ttest_ind(first, second, equal_var=False)
    found = difference(mean(list(first)), mean(list(second)))
    assert found.df == pytest.approx(expected.df, rel=1e-12)
    assert p_nonzero(found) == pytest.approx(expected.pvalue, rel=1e-10)


def test_a_closed_form_costs_no_freedom():
    found = difference(Estimate(3.0, 0.5, 4), Estimate(1.0))
    assert (found.value, found.stderr, found.df) == (2.0, 0.5, 4)
    assert (p_nonzero(Estimate(0.0)), p_nonzero(Estimate(1e-9))) == (1, 0)
    assert p_nonzero(Estimate(5.0, math.nan)) == 1  # nothing is known of its error


def test_below_is_one_sided():
    assert p_below(Estimate(1.0, 1.0, 7), 3.0) == pytest.approx(stats.t.sf(2.0, 7), rel=1e-10)
    assert p_below(Estimate(3.0, 1.0, 7), 1.0) == pytest.approx(stats.t.cdf(2.0, 7), rel=1e-10)


def test_holm_stops_at_the_first_that_fails():
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([0.02, 0.9]) == [True, False]
    assert holm([]) == []


def test_the_level_is_kept_with_few_pieces():
    """For equal distributions, means of 4 pieces differ significantly in 5 %; with a normal tail, in twice as many."""
    rng = np.random.default_rng(3)
    sets = rng.normal(size=(4000, 2, 4)).tolist()
    found = [difference(mean(a), mean(b)) for a, b in sets]
    share = sum(p_nonzero(one) < 0.05 for one in found) / len(found)
    normal = sum(abs(one.value) > 1.96 * one.stderr for one in found) / len(found)
    assert 0.03 <= share <= 0.06, share
    assert normal >= 0.08, normal
