"""Measured values: errors and agreement, by published examples and formulas written out."""

from __future__ import annotations

import numpy as np
import pytest

from mtnet.evaluation import regression


def values(truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    records = [regression.record_of(t, f, "mm") for t, f in zip(truth, found, strict=True)]
    return {name: metric.value(np.ones(len(metric.rows))) for name, metric in regression.metrics(records).items()}


def test_the_intraclass_correlation_is_that_of_shrout_and_fleiss() -> None:
    """Six targets, four judges (Psychological Bulletin 86, 1979, table 2): ICC(2,1) is 0.29."""
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
    assert regression.intraclass_correlation(ratings, np.ones(6)) == pytest.approx(0.2898, abs=1e-4)


def test_errors_and_limits_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(9, 4, 80)
    found = truth * 0.9 + rng.normal(1.0, 1.0, 80)
    error = found - truth
    told = values(truth, found)
    assert told["mae"] == pytest.approx(np.abs(error).mean())
    assert told["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
    assert told["bias"] == pytest.approx(error.mean())
    assert told["loa_low"] == pytest.approx(error.mean() - 1.96 * error.std(ddof=1))
    assert told["loa_high"] == pytest.approx(error.mean() + 1.96 * error.std(ddof=1))
    assert told["pearson"] == pytest.approx(np.corrcoef(truth, found)[0, 1])


def test_a_constant_shift_lowers_agreement_and_leaves_correlation() -> None:
    truth = np.arange(10.0)
    told = values(truth, truth + 3)
    assert told["pearson"] == pytest.approx(1.0) and told["icc"] < 0.7


def test_a_weight_of_two_is_a_sample_twice() -> None:
    rng = np.random.default_rng(1)
    truth, found = rng.normal(0, 1, (2, 20))
    times = rng.integers(0, 3, 20)
    records = [regression.record_of(t, f) for t, f in zip(truth, found, strict=True)]
    repeated = values(np.repeat(truth, times), np.repeat(found, times))
    for name, metric in regression.metrics(records).items():
        assert metric.value(times.astype(float)) == pytest.approx(repeated[name]), name


def test_one_sample_has_an_error_and_no_agreement() -> None:
    told = values(np.array([4.0]), np.array([5.0]))
    assert told["mae"] == 1.0 and np.isnan(told["icc"]) and np.isnan(told["loa_low"])
    assert regression.metrics([None]) == {}
