"""Student-t functions against scipy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offbench.analysis.student_t import t_cdf, t_quantile

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("df", [0.7, 1, 1.5, 2, 3, 4.3, 9, 30, 250.5, 1e4, 99_999, 1e5, 1e8])
def test_quantile_and_distribution_equal_scipy(df: float) -> None:
    for p in (1e-6, 0.005, 0.025, 0.2, 0.4999, 0.5, 0.7, 0.975, 0.9999):
        assert t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=2e-8, abs=1e-12)
    for t in (-60.0, -2.5, -0.01, 0.0, 0.3, 1.96, 40.0):
        assert t_cdf(t, df) == pytest.approx(stats.t.cdf(t, df), rel=1e-7, abs=1e-10)


@given(st.floats(0.001, 0.999), st.floats(0.5, 1e6))
def test_quantile_inverts_distribution(p: float, df: float) -> None:
    assert t_cdf(t_quantile(p, df), df) == pytest.approx(p, abs=1e-9)


def test_limits_and_bad_input() -> None:
    assert t_quantile(0.975, math.inf) == pytest.approx(1.959963984540054)
    for p, df in ((0.0, 3), (1.0, 3), (0.5, 0), (0.5, math.nan)):
        with pytest.raises(ValueError):
            t_quantile(p, df)
