"""Curves of a score that ranks samples as positive or not: ROC, precision and recall, and points on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtnet.evaluation.bootstrap import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Samples in the order of falling score, sorted once and then weighed as often as need be.

    Args:
        order: ``(n,)`` places of the samples.
        positive: ``(n,)`` bool in that order.
        last: ``(m,)`` place in that order of the last sample of each run of equal scores.
        score: ``(m,)`` the scores, falling.
    """

    order: NDArray[np.intp]
    positive: NDArray[np.bool_]
    last: NDArray[np.intp]
    score: FloatArray

    @classmethod
    def of(cls, scores: ArrayLike, positive: ArrayLike) -> Ranking:
        """Sort ``scores`` ``(n,)`` with what is ``positive`` ``(n,)``."""
        values = np.asarray(scores, dtype=np.float64)
        order = np.argsort(-values, kind="stable")
        falling = values[order]
        last = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1) if len(falling) else order
        return cls(order, np.asarray(positive, dtype=np.bool_)[order], last.astype(np.intp), falling[last])

    def counts(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weight of the positive and of the other samples at each score and above, ``(m,)`` each."""
        own = weights[self.order]
        return np.cumsum(own * self.positive)[self.last], np.cumsum(own * ~self.positive)[self.last]

    def auroc(self, weights: FloatArray) -> float:
        """Area under the ROC curve, equal scores counting half; nan where one of the two kinds is missing."""
        true, false = self.counts(weights)
        if not len(true) or not true[-1] or not false[-1]:
            return float("nan")
        rise, width = np.concatenate([[0.0], true]), np.diff(false, prepend=0.0)
        return float(((rise[1:] + rise[:-1]) / 2 @ width) / (true[-1] * false[-1]))

    def average_precision(self, weights: FloatArray) -> float:
        """Precision averaged over the steps of recall, without interpolation; nan without a positive sample."""
        true, false = self.counts(weights)
        if not len(true) or not true[-1]:
            return float("nan")
        taken = true + false
        precision = np.divide(true, taken, out=np.zeros_like(true), where=taken > 0)
        return float(np.diff(true, prepend=0.0) @ precision / true[-1])

    def youden(self) -> tuple[float, float, float] | None:
        """Score, sensitivity and specificity where their sum is highest (Youden 1950); the higher score of equals.

        None where one of the two kinds is missing.
        """
        true, false = self.counts(np.ones(len(self.order)))
        if not len(true) or not true[-1] or not false[-1]:
            return None
        sensitivity, specificity = true / true[-1], 1 - false / false[-1]
        both = sensitivity + specificity
        best = int(np.flatnonzero(both >= both.max() - 1e-12)[0])
        return float(self.score[best]), float(sensitivity[best]), float(specificity[best])

    def at_sensitivity(self, wanted: float) -> tuple[float, float, float] | None:
        """The highest score that reaches a sensitivity, with sensitivity and specificity there; None as ``youden``."""
        true, false = self.counts(np.ones(len(self.order)))
        if not len(true) or not true[-1] or not false[-1]:
            return None
        sensitivity = true / true[-1]
        first = int(np.argmax(sensitivity >= wanted))
        return float(self.score[first]), float(sensitivity[first]), float(1 - false[first] / false[-1])
