"""A number that is computed over samples, and its interval by drawing groups of them again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

DRAWS = 1000
SEED = 20_260_101
LEVEL = 0.95
_USABLE = 0.9
"""Share of draws in which a metric must be defined, or it has no interval."""


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One number over samples.

    Args:
        rows: ``(n,)`` the samples that count for it, by their place among all that were scored.
        value: of how often each of these counts, ``(n,)``; nan where it is not defined. Twice the weight of a sample is
            the sample standing there twice.
        unit: of the value; empty for shares.
        better: whether a higher or a lower value is better, or neither.
    """

    rows: NDArray[np.intp]
    value: Callable[[FloatArray], float]
    unit: str = ""
    better: str = "higher"


@dataclass(frozen=True, slots=True)
class Score:
    """A metric's value as it is told.

    Args:
        value: None where it is not defined (no positive sample, say).
        ci95: 95 % interval over groups; None where there is one group only, or the metric was often not defined.
        n: samples that count.
        groups: that they come from.
        unit: of value and interval; empty for shares.
        better: ``higher``, ``lower`` or ``neither``.
    """

    value: float | None
    ci95: tuple[float, float] | None
    n: int
    groups: int
    unit: str = ""
    better: str = "higher"


def every(count: int) -> NDArray[np.intp]:
    """The rows of a metric for which all samples count."""
    return np.arange(count, dtype=np.intp)


def mean_of(values: ArrayLike, rows: ArrayLike, **about: str) -> Metric:
    """The mean of one number a sample, ``(n,)`` like ``rows``; ``about``: unit and better."""
    numbers = np.asarray(values, dtype=np.float64)

    def value(weights: FloatArray) -> float:
        total = weights.sum()
        return float(weights @ numbers / total) if total else float("nan")

    return Metric(np.asarray(rows, dtype=np.intp), value, **about)


def ratio_of(above: ArrayLike, below: ArrayLike, rows: ArrayLike, **about: str) -> Metric:
    """The sum of one number a sample by that of another, both ``(n,)`` like ``rows``; nan by zero."""
    top, bottom = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)

    def value(weights: FloatArray) -> float:
        total = float(weights @ bottom)
        return float(weights @ top) / total if total else float("nan")

    return Metric(np.asarray(rows, dtype=np.intp), value, **about)


def score(metric: Metric, groups: Sequence[str], draws: int = DRAWS) -> Score:
    """Value and interval of a metric.

    The interval is the percentile bootstrap over groups (Efron and Tibshirani 1993, chapter 13): groups, not samples,
    are drawn with replacement, as many as there are, for samples of one group are alike. The draws depend on the number
    of groups alone, so that two networks on one set of samples have the same.

    Args:
        metric: what to compute.
        groups: group of every sample that was scored.
        draws: how often groups are drawn.
    """
    own = [groups[row] for row in metric.rows]
    value = metric.value(np.ones(len(own))) if own else float("nan")
    told = value if np.isfinite(value) else None
    interval = None if told is None else interval_of(np.array([metric.value(w) for w in group_draws(own, draws)]))
    return Score(told, interval, len(own), len(set(own)), metric.unit, metric.better)


def group_draws(groups: Sequence[str], draws: int = DRAWS) -> Iterator[FloatArray]:
    """How often each sample ``(n,)`` counts in each draw of groups; none where there are fewer than two groups."""
    names, of = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    if len(names) < 2:
        return
    source, share = np.random.default_rng(SEED), np.full(len(names), 1 / len(names))
    for _ in range(draws):
        yield source.multinomial(len(names), share)[of].astype(np.float64)


def interval_of(values: FloatArray) -> tuple[float, float] | None:
    """The middle 95 % of the values that are defined; None where too few are."""
    defined = values[np.isfinite(values)]
    if not values.size or defined.size < _USABLE * values.size:
        return None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def difference(first: Metric, second: Metric, groups: Sequence[str], draws: int = DRAWS) -> Score:
    """The second value minus the first, with its paired interval: both are computed on the same draws.

    Raises:
        ValueError: other samples count for one than for the other.
    """
    if not np.array_equal(first.rows, second.rows):
        raise ValueError("The two metrics count other samples; a paired difference needs the same.")
    own = [groups[row] for row in first.rows]
    once = np.ones(len(own))
    value = second.value(once) - first.value(once) if own else float("nan")
    told = value if np.isfinite(value) else None
    drawn = np.array([second.value(w) - first.value(w) for w in group_draws(own, draws)])
    interval = None if told is None else interval_of(drawn)
    return Score(told, interval, len(own), len(set(own)), first.unit, first.better)
