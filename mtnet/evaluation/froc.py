"""Sensitivity against false boxes an image: FROC and its mean at seven rates, CPM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtnet.evaluation.bootstrap import FloatArray
from mtnet.evaluation.detection_counts import ScanCounts
from mtnet.evaluation.ranking import Ranking

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False boxes an image at which LUNA16 asks for the sensitivity (Setio et al. 2017)."""


@dataclass(frozen=True, slots=True, eq=False)
class Froc:
    """Hits and false boxes of all images, sorted once and then weighed as often as need be.

    Args:
        ranking: of hits (positive) and false boxes.
        image: ``(n,)`` of each.
        wanted: ``(images,)`` lesions to be found in each.
    """

    ranking: Ranking
    image: NDArray[np.intp]
    wanted: FloatArray

    @classmethod
    def of(cls, scans: Sequence[ScanCounts]) -> Froc:
        """From the counts of each image; an image without lesions counts too."""
        scores, positive, image = [np.zeros(0)], [np.zeros(0, dtype=np.bool_)], [np.zeros(0, dtype=np.intp)]
        for number, scan in enumerate(scans):
            hits = scan.hit_scores[np.isfinite(scan.hit_scores)]
            count = len(hits) + len(scan.false_scores)
            scores.append(np.concatenate([hits, scan.false_scores]))
            positive.append(np.arange(count) < len(hits))
            image.append(np.full(count, number, dtype=np.intp))
        wanted = np.array([scan.hit_scores.size for scan in scans], dtype=np.float64)
        return cls(Ranking.of(np.concatenate(scores), np.concatenate(positive)), np.concatenate(image), wanted)

    def curve(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """False boxes an image and sensitivity, at each score and above (``ranking.score``); nan without lesions."""
        true, false = self.ranking.counts(weights[self.image])
        total = float(weights @ self.wanted)
        return false / max(weights.sum(), 1e-300), true / total if total else np.full(len(true), np.nan)

    def sensitivity(self, weights: FloatArray, rate: float) -> float:
        """The highest sensitivity with at most ``rate`` false boxes an image; nan without lesions."""
        if not weights @ self.wanted:
            return float("nan")
        false, sensitivity = self.curve(weights)
        within = sensitivity[false <= rate]
        return float(within[-1]) if within.size else 0.0

    def cpm(self, weights: FloatArray) -> float:
        """Competition performance metric: the mean sensitivity at the seven ``RATES``."""
        return float(np.mean([self.sensitivity(weights, rate) for rate in RATES]))

    def score_at(self, rate: float) -> tuple[float, float, float] | None:
        """The lowest score with at most ``rate`` false boxes an image, sensitivity and rate there; None where none."""
        false, sensitivity = self.curve(np.ones(len(self.wanted)))
        within = np.flatnonzero(false <= rate)
        if not within.size:
            return None
        last = within[-1]
        return float(self.ranking.score[last]), float(sensitivity[last]), float(false[last])
