"""How the slices of a stack lie in space: order, steps, gaps, shear, all from position and orientation tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mtnet.structures.study import Instance

FloatArray = NDArray[np.float64]
Spacing = Literal["single", "regular", "missing", "variable", "repeated"]

GAP_TOLERANCE_MM = 0.01
GAP_TOLERANCE_SHARE = 0.01
"""Two gaps are equal when they differ by at most the larger of the two: 0.01 mm, or 1 % of the step."""

DRIFT_TOLERANCE_PIXELS = 0.1
"""A stack is sheared when its slices drift sideways by more than this over its whole length."""


@dataclass(frozen=True, slots=True, eq=False)
class SlicePositions:
    """Where the slices of one stack lie.

    Args:
        order: index into the instances, by rising position along the normal.
        row_lps, column_lps, normal_lps: unit vectors (3,): along a row, down a column, and row x column.
        positions_lps_mm: ``(n, 3)`` centres of the first pixels, in that order.
        offsets_mm: ``(n,)`` distances along the normal from the first slice, rising.
        spacing: what the gaps are like.
        step_mm: distance along the normal from slice to slice: of the even grid where gaps are equal or whole
            multiples of it, the median gap where they vary, 0 for a single slice.
        missing: slices that the even grid lacks.
        drift_mm: sideways way (3,) from the first to the last slice.
        off_line_mm: how far a position leaves the straight line from the first to the last slice, sideways.
    """

    order: tuple[int, ...]
    row_lps: FloatArray
    column_lps: FloatArray
    normal_lps: FloatArray
    positions_lps_mm: FloatArray
    offsets_mm: FloatArray
    spacing: Spacing
    step_mm: float
    missing: int
    drift_mm: FloatArray
    off_line_mm: float

    @property
    def gaps_mm(self) -> FloatArray:
        """``(n - 1,)`` distances between neighbours along the normal."""
        return np.diff(self.offsets_mm)

    @property
    def shear_deg(self) -> float:
        """Angle between the stacking direction and the normal, in degrees."""
        length = float(self.offsets_mm[-1])
        return float(np.degrees(np.arctan2(np.linalg.norm(self.drift_mm), length))) if length > 0 else 0.0

    def is_sheared(self, pixel_mm: float) -> bool:
        """Whether the sideways drift counts, for pixels of ``pixel_mm``."""
        return bool(np.linalg.norm(self.drift_mm) > DRIFT_TOLERANCE_PIXELS * pixel_mm)


def measure_positions(instances: Sequence[Instance]) -> SlicePositions:
    """Measure the slices of one stack: instances with positions and one shared orientation.

    Raises:
        ValueError: there is no instance, or one has no position or orientation.
    """
    if not instances or any(i.position_lps_mm is None or i.orientation_lps is None for i in instances):
        raise ValueError("Slices without position or orientation cannot be measured.")
    cosines = np.asarray(instances[0].orientation_lps, dtype=np.float64)
    row = cosines[:3] / np.linalg.norm(cosines[:3])
    column = cosines[3:] - row * (cosines[3:] @ row)
    column /= np.linalg.norm(column)
    normal = np.cross(row, column)
    positions = np.asarray([instance.position_lps_mm for instance in instances], dtype=np.float64)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    positions = positions[order]
    offsets = along[order] - along[order[0]]
    spacing, step, missing = _judge_gaps(np.diff(offsets))
    sideways = positions - positions[0] - np.outer(offsets, normal)
    length = offsets[-1]
    line = np.outer(offsets / length, sideways[-1]) if length > 0 else np.zeros_like(sideways)
    return SlicePositions(
        order=tuple(int(index) for index in order),
        row_lps=row,
        column_lps=column,
        normal_lps=normal,
        positions_lps_mm=positions,
        offsets_mm=offsets,
        spacing=spacing,
        step_mm=step,
        missing=missing,
        drift_mm=sideways[-1],
        off_line_mm=float(np.linalg.norm(sideways - line, axis=1).max()),
    )


def tolerance_mm(step_mm: float) -> float:
    """How far a gap or a slice may be off an even grid of ``step_mm``."""
    return max(GAP_TOLERANCE_MM, GAP_TOLERANCE_SHARE * step_mm)


def _judge_gaps(gaps: FloatArray) -> tuple[Spacing, float, int]:
    """What the gaps are like, their step, and the number of slices missing from an even grid."""
    if gaps.size == 0:
        return "single", 0.0, 0
    if gaps.min() <= GAP_TOLERANCE_MM:
        larger = gaps[gaps > GAP_TOLERANCE_MM]
        return "repeated", float(np.median(larger)) if larger.size else 0.0, 0
    counts = np.rint(gaps / gaps.min())
    step = float(gaps.sum() / counts.sum())
    places = np.concatenate([[0.0], np.cumsum(counts)]) * step
    slices = np.concatenate([[0.0], np.cumsum(gaps)])
    allowed = tolerance_mm(step)
    # The gaps alone would let a small error add up over hundreds of slices: the places are held to it too.
    if np.abs(gaps - counts * step).max() > allowed or np.abs(slices - places).max() > allowed:
        return "variable", float(np.median(gaps)), 0
    missing = int(counts.sum()) - gaps.size
    if missing and np.median(counts) > 1:
        # Most gaps being multiples of one short one, it is the short one that is odd.
        return "variable", float(np.median(gaps)), 0
    return ("missing" if missing else "regular"), step, missing
