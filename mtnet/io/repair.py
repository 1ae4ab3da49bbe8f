"""Uneven and sheared stacks brought onto an even, rectangular grid, every slice taken from where it truly lies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtnet.io.positions import SlicePositions
from mtnet.structures.geometry import Geometry

FloatArray = NDArray[np.float64]
Slice = NDArray[np.float32]

_NEGLIGIBLE_PIXELS = 0.01
_NEGLIGIBLE_WEIGHT = 1e-3
_FINEST_SHARE_OF_MEDIAN = 0.25


def needs_repair(positions: SlicePositions, pixel_mm: tuple[float, float]) -> bool:
    """Whether the slices are no even, rectangular grid. ``pixel_mm`` is along i and j."""
    return positions.spacing in ("missing", "variable") or positions.is_sheared(min(pixel_mm))


def repaired_grid(positions: SlicePositions, plane: tuple[int, int], pixel_mm: tuple[float, float]) -> Geometry:
    """The grid that a stack is repaired onto: along its rows, columns and normal, from its first to its last slice.

    Along k the step is that of the even grid that slices are missing from, or, where gaps vary, close to the smallest
    of them, though not under a quarter of the median. In the plane the pixels stay as they are; a sheared stack's grid
    is widened by whole pixels until it holds every slice.

    Args:
        positions: where the slices lie.
        plane: pixels along i and j of one slice.
        pixel_mm: their size along i and j.
    """
    shifts = _shifts_pixels(positions, pixel_mm)
    low = np.floor(shifts.min(axis=0) + _NEGLIGIBLE_PIXELS)
    extra = np.ceil(shifts.max(axis=0) - _NEGLIGIBLE_PIXELS) - low
    length = float(positions.offsets_mm[-1])
    step = positions.step_mm
    if positions.spacing == "variable":
        gaps = positions.gaps_mm
        step = max(float(gaps.min()), _FINEST_SHARE_OF_MEDIAN * float(np.median(gaps)))
    steps = max(int(np.ceil(length / step - _NEGLIGIBLE_PIXELS)), 1)
    if positions.spacing != "variable":
        steps = max(round(length / step), 1)
    axes = np.stack([positions.row_lps, positions.column_lps, positions.normal_lps], axis=1)
    spacing = np.array([*pixel_mm, length / steps])
    origin = positions.positions_lps_mm[0] + axes[:, :2] @ (low * spacing[:2])
    shape = (plane[0] + int(extra[0]), plane[1] + int(extra[1]), steps + 1)
    return Geometry.from_parts(shape, spacing.tolist(), origin.tolist(), axes)


def resample(
    slices: NDArray[np.generic],
    positions: SlicePositions,
    pixel_mm: tuple[float, float],
    grid: Geometry,
    fill: float,
) -> Slice:
    """Interpolate a stack linearly onto ``grid``, which ``repaired_grid`` made for it.

    Each slice is moved in its plane by what it is shifted against the normal through the first one; between the two
    slices around a place, values are weighted by true distance along the normal. A voxel that needs a value from
    outside a slice becomes ``fill``.

    Args:
        slices: ``(k, j, i)``, in the order of ``positions``.
        positions: where they lie.
        pixel_mm: along i and j.
        grid: the target.
        fill: value outside the slices.

    Returns:
        ``(k, j, i)`` float32 on ``grid``.
    """
    shifts = _shifts_pixels(positions, pixel_mm)
    low = np.floor(shifts.min(axis=0) + _NEGLIGIBLE_PIXELS)
    columns, rows, count = grid.shape
    result = np.empty((count, rows, columns), dtype=np.float32)
    moved: dict[int, Slice] = {}

    def slice_on_grid(index: int) -> Slice:
        if index not in moved:
            for old in [key for key in moved if key < index - 1]:
                del moved[old]
            plane = slices[index].astype(np.float32)
            plane = _moved(plane, 1, low[0] - shifts[index, 0], columns)
            moved[index] = _moved(plane, 0, low[1] - shifts[index, 1], rows)
        return moved[index]

    offsets = positions.offsets_mm
    for k in range(count):
        place = k * grid.spacing_mm[2]
        below = int(np.clip(np.searchsorted(offsets, place, side="right") - 1, 0, len(offsets) - 2))
        weight = float(np.clip((place - offsets[below]) / (offsets[below + 1] - offsets[below]), 0.0, 1.0))
        if weight <= _NEGLIGIBLE_WEIGHT:
            result[k] = slice_on_grid(below)
        elif weight >= 1 - _NEGLIGIBLE_WEIGHT:
            result[k] = slice_on_grid(below + 1)
        else:
            result[k] = (1 - weight) * slice_on_grid(below) + weight * slice_on_grid(below + 1)
        np.nan_to_num(result[k], copy=False, nan=fill)
    return result


def _shifts_pixels(positions: SlicePositions, pixel_mm: tuple[float, float]) -> FloatArray:
    """``(n, 2)``: how far each slice lies sideways of the first one's normal, in pixels along i and j."""
    if not positions.is_sheared(min(pixel_mm)):
        return np.zeros((len(positions.offsets_mm), 2))
    sideways = positions.positions_lps_mm - positions.positions_lps_mm[0]
    shifts: FloatArray = sideways @ np.stack([positions.row_lps, positions.column_lps], axis=1) / np.asarray(pixel_mm)
    # A shift along one axis alone must not blur the other by its rounding.
    shifts[:, np.abs(shifts).max(axis=0) < _NEGLIGIBLE_PIXELS] = 0
    return shifts


def _moved(plane: Slice, axis: int, start: float, count: int) -> Slice:
    """Samples of ``plane`` at ``start, start + 1, ...`` along ``axis``, linear, NaN outside its pixel centres."""
    size = plane.shape[axis]
    places = np.arange(count) + start
    if start == 0 and count == size:
        return plane
    below = np.clip(np.floor(places + _NEGLIGIBLE_WEIGHT), 0, max(size - 2, 0)).astype(np.intp)
    above = np.minimum(below + 1, size - 1)
    weight = np.clip(places - below, 0.0, 1.0).astype(np.float32)
    weight = weight[:, None] if axis == 0 else weight[None, :]
    result: Slice = np.take(plane, below, axis=axis) * (1 - weight) + np.take(plane, above, axis=axis) * weight
    outside = (places < -_NEGLIGIBLE_WEIGHT) | (places > size - 1 + _NEGLIGIBLE_WEIGHT)
    if axis == 0:
        result[outside, :] = np.nan
    else:
        result[:, outside] = np.nan
    return result
