"""Measured values against known ones: error, bias and agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.evaluation.bootstrap import FloatArray, Metric, mean_of

Record = Mapping[str, Any]
LIMITS = 1.96
"""Standard deviations from the bias to a limit of agreement (Bland and Altman 1986)."""


def record_of(truth: float, found: float, unit: str = "") -> dict[str, Any]:
    """One sample's record."""
    return {"truth": float(truth), "found": float(found), "unit": unit}


def pairs(records: Sequence[Record | None]) -> tuple[NDArray[np.intp], FloatArray]:
    """Rows of the samples whose value is known, and ``(n, 2)`` known and found values."""
    rows = np.array([row for row, record in enumerate(records) if record is not None], dtype=np.intp)
    both = np.array([[r["truth"], r["found"]] for r in records if r is not None], dtype=np.float64)
    return rows, both.reshape(-1, 2)


def metrics(records: Sequence[Record | None]) -> dict[str, Metric]:
    """``mae``, ``rmse``, ``bias`` (found less known), ``loa_low`` and ``loa_high`` (95 % limits of agreement), ``icc``
    (absolute agreement), ``pearson``; None stands for a sample without the value."""
    rows, both = pairs(records)
    if not len(rows):
        return {}
    unit = next(record["unit"] for record in records if record is not None)
    error = both[:, 1] - both[:, 0]

    def limit(sign: float) -> Metric:
        return Metric(rows, lambda weights: limit_of_agreement(error, weights, sign), unit, "neither")

    squared = mean_of(error**2, rows)
    return {
        "mae": mean_of(np.abs(error), rows, unit=unit, better="lower"),
        "rmse": Metric(rows, lambda weights: float(np.sqrt(squared.value(weights))), unit, "lower"),
        "bias": mean_of(error, rows, unit=unit, better="neither"),
        "loa_low": limit(-1.0),
        "loa_high": limit(1.0),
        "icc": Metric(rows, lambda weights: intraclass_correlation(both, weights)),
        "pearson": Metric(rows, lambda weights: pearson(both, weights)),
    }


def limit_of_agreement(error: FloatArray, weights: FloatArray, sign: float) -> float:
    """Bias plus or minus 1.96 sample standard deviations; nan for fewer than two samples."""
    total = weights.sum()
    if total < 2:
        return float("nan")
    bias = weights @ error / total
    deviation = np.sqrt(weights @ (error - bias) ** 2 / (total - 1))
    return float(bias + sign * LIMITS * deviation)


def intraclass_correlation(values: FloatArray, weights: FloatArray) -> float:
    """ICC(2,1): two-way random effects, absolute agreement, single measurement (Shrout and Fleiss 1979).

    Args:
        values: ``(n, raters)``.
        weights: ``(n,)`` how often each row counts.
    """
    n, raters = weights.sum(), values.shape[1]
    if n < 2:
        return float("nan")
    mean = weights @ values.mean(axis=1) / n
    columns = weights @ values / n
    between = raters * (weights @ (values.mean(axis=1) - mean) ** 2)
    raters_sum = n * ((columns - mean) ** 2).sum()
    total = weights @ ((values - mean) ** 2).sum(axis=1)
    rows_mean = between / (n - 1)
    raters_mean = raters_sum / (raters - 1)
    error_mean = max(total - between - raters_sum, 0.0) / ((n - 1) * (raters - 1))
    below = rows_mean + (raters - 1) * error_mean + raters * (raters_mean - error_mean) / n
    return float((rows_mean - error_mean) / below) if below > 0 else float("nan")


def pearson(values: FloatArray, weights: FloatArray) -> float:
    """Correlation of two columns; nan where one of them does not vary."""
    total = weights.sum()
    if total < 2:
        return float("nan")
    centred = values - weights @ values / total
    spread = np.sqrt(weights @ centred**2)
    return float(weights @ centred.prod(axis=1) / spread.prod()) if spread.all() else float("nan")
