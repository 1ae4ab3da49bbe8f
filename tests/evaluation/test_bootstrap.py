"""Values and intervals over groups."""

from __future__ import annotations

import numpy as np
import pytest

from mtnet.evaluation.bootstrap import Metric, difference, every, group_draws, interval_of, mean_of, ratio_of, score


def test_a_draw_takes_whole_groups_and_as_many_as_there_are() -> None:
    groups = ["a", "a", "b", "c", "c", "c"]
    for weights in group_draws(groups, 50):
        assert weights[0] == weights[1] and weights[3] == weights[4] == weights[5]
        assert weights[[0, 2, 3]].sum() == 3


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    told = score(mean_of(values, every(400)), [str(n) for n in range(400)], draws=2000)
    error = values.std(ddof=1) / 20
    assert told.value == pytest.approx(values.mean())
    assert told.ci95 == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.05 * 4 * error
    )
    assert (told.n, told.groups) == (400, 400)


def test_samples_of_one_group_widen_the_interval() -> None:
    means = np.random.default_rng(1).normal(0.0, 1.0, 30)
    values = np.repeat(means, 10)
    apart = score(mean_of(values, every(300)), [str(n) for n in range(300)]).ci95
    together = score(mean_of(values, every(300)), [str(n // 10) for n in range(300)]).ci95
    assert apart is not None and together is not None
    assert together[1] - together[0] > 2.5 * (apart[1] - apart[0])


def test_one_group_has_a_value_and_no_interval() -> None:
    told = score(mean_of([1.0, 2.0], every(2)), ["a", "a"])
    assert (told.value, told.ci95, told.n, told.groups) == (1.5, None, 2, 1)


def test_nothing_counted_has_no_value() -> None:
    told = score(mean_of([], every(0)), ["a", "b"])
    assert (told.value, told.ci95, told.n, told.groups) == (None, None, 0, 0)


def test_a_metric_that_draws_often_leave_undefined_has_no_interval() -> None:
    assert interval_of(np.array([1.0] * 80 + [np.nan] * 20)) is None
    assert interval_of(np.array([1.0] * 95 + [np.nan] * 5)) == (1.0, 1.0)


def test_a_constant_difference_has_an_interval_of_no_width_when_it_is_paired() -> None:
    values = np.random.default_rng(2).normal(0.0, 5.0, 60)
    groups = [str(n) for n in range(60)]
    told = difference(mean_of(values, every(60)), mean_of(values + 0.25, every(60)), groups)
    assert told.value == pytest.approx(0.25) and told.ci95 == pytest.approx((0.25, 0.25))


def test_a_difference_of_other_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="count other samples"):
        difference(mean_of([1.0], np.array([0])), mean_of([1.0], np.array([1])), ["a", "b"])


def test_a_ratio_by_nothing_is_not_defined() -> None:
    assert score(ratio_of([0.0], [0.0], every(1)), ["a"]).value is None


def test_intervals_are_the_same_every_time() -> None:
    metric = Metric(every(3), lambda w: float(w @ [1.0, 2.0, 6.0] / w.sum()))
    assert score(metric, ["a", "b", "c"]) == score(metric, ["a", "b", "c"])
