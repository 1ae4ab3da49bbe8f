"""Hits and false boxes of a lesion detector, counted over scans by the rules of LUNA16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

UNKNOWN_DIAMETER_MM = 10.0


@dataclass(frozen=True, slots=True)
class ScanCounts:
    """One scan after matching.

    Args:
        hit_scores: for each wanted lesion the highest score of a box that hits it, or ``-inf``.
        false_scores: scores of the boxes that hit nothing.
    """

    hit_scores: FloatArray
    false_scores: FloatArray


def match_scan(
    found_lps_mm: ArrayLike, scores: ArrayLike, lesion_lps_mm: ArrayLike, diameter_mm: ArrayLike, wanted: ArrayLike
) -> ScanCounts:
    """Match found centres with lesions (Setio et al. 2017, Medical Image Analysis 42: evaluation of LUNA16).

    A box hits a lesion if its centre lies less than half the lesion's diameter from the lesion's centre. Of several on
    one lesion the highest score counts and the others are neither hit nor false. A box on a lesion that is not wanted
    (too small to be asked for) counts as neither.

    Args:
        found_lps_mm: ``(N, 3)`` centres of the boxes.
        scores: ``(N,)``.
        lesion_lps_mm: ``(M, 3)`` centres of all lesions.
        diameter_mm: ``(M,)``; below 0 it is unknown, and 10 mm are taken, as LUNA16 does.
        wanted: ``(M,)`` bool, the lesions that are to be found.
    """
    found = np.asarray(found_lps_mm, dtype=np.float64).reshape(-1, 3)
    score = np.asarray(scores, dtype=np.float64)
    lesions = np.asarray(lesion_lps_mm, dtype=np.float64).reshape(-1, 3)
    diameter = np.asarray(diameter_mm, dtype=np.float64)
    radius = np.where(diameter < 0, UNKNOWN_DIAMETER_MM, diameter) / 2
    hits = np.linalg.norm(found[:, None] - lesions[None], axis=2) < radius
    return count_hits(hits, score, wanted)


def count_hits(hits: ArrayLike, scores: ArrayLike, wanted: ArrayLike) -> ScanCounts:
    """The counts of one scan or image from what hits what, by the rules of ``match_scan``.

    Args:
        hits: ``(N, M)`` bool, whether a box hits a lesion.
        scores: ``(N,)`` of the boxes.
        wanted: ``(M,)`` bool, the lesions that are to be found.
    """
    asked = np.asarray(wanted, dtype=bool).reshape(-1)
    score = np.asarray(scores, dtype=np.float64)
    hits = np.asarray(hits, dtype=bool).reshape(len(score), len(asked))
    best = np.where(hits, score[:, None], -np.inf).max(axis=0, initial=-np.inf)
    return ScanCounts(best[asked], score[~hits.any(axis=1)])


def sensitivity_at(scans: Sequence[ScanCounts], threshold: float) -> tuple[float, float]:
    """Share of wanted lesions hit, and false boxes a scan, among boxes of at least ``threshold``.

    Raises:
        ValueError: no scan holds a wanted lesion.
    """
    hits = np.concatenate([scan.hit_scores for scan in scans])
    if hits.size == 0:
        raise ValueError("No scan holds a lesion that is to be found; there is no sensitivity.")
    false = sum(int((scan.false_scores >= threshold).sum()) for scan in scans)
    return float((hits >= threshold).mean()), false / len(scans)


def best_sensitivity(scans: Sequence[ScanCounts], false_a_scan: float) -> tuple[float, float]:
    """The highest sensitivity with at most ``false_a_scan`` false boxes a scan, and the threshold that gives it."""
    hits = np.concatenate([scan.hit_scores for scan in scans])
    best = (0.0, float("inf"))
    for threshold in np.unique(hits[np.isfinite(hits)])[::-1]:
        sensitivity, false = sensitivity_at(scans, float(threshold))
        if false <= false_a_scan:
            best = (sensitivity, float(threshold))
    return best
