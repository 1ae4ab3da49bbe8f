"""How much lung an image holds and where it ends, measured on the coarse grid of the region rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

GAS_BELOW_HU = -940.0
"""Median inside a pocket of plain gas (bowel, sinuses, the air of a phantom); lung has vessels and walls, with severe
emphysema down to about -930 HU (our choice)."""
REACH_SHARE = 0.02
"""Of the lung's cells on either side that do not count for its width and depth."""
NARROW = 1.0
"""Two lungs are about one and a half times as wide as deep, one lung about 0.7 times."""


@dataclass(frozen=True, slots=True)
class Lungs:
    """Aerated lung in an image.

    Args:
        volume_ml: of it, vessels of the size of a cell left out.
        largest_area_cm2: of the axial slice that holds the most.
        share_at_head, share_at_feet: area in the first or last axial slice of the image over the largest one; 0 where
            the lungs end before the image does.
        area_at_sides_cm2: where lung touches the other four sides of the image.
        width_over_depth: of both lungs together, left to right over front to back.
    """

    volume_ml: float = 0.0
    largest_area_cm2: float = 0.0
    share_at_head: float = 0.0
    share_at_feet: float = 0.0
    area_at_sides_cm2: float = 0.0
    width_over_depth: float = 0.0


def measure_lungs(
    hu: NDArray[np.float32],
    air: NDArray[np.bool_],
    cell_mm: tuple[float, ...],
    *,
    slice_axis: int,
    side_axis: int,
    head_last: bool,
) -> Lungs:
    """Measure the pockets of air that are lung.

    A pocket counts where it is wider than about three cells and its inside is no plain gas: that leaves out bowel,
    sinuses, the pharynx and the air of a phantom, and keeps the windpipe, which joins the lungs.

    Args:
        hu: mean of each cell, ``(i, j, k)``.
        air: cells of air inside the body.
        cell_mm: edges of a cell.
        slice_axis, side_axis: index axes along head-foot and left-right.
        head_last: whether the index along ``slice_axis`` grows to the head.
    """
    lung = _lung_pockets(hu, air, slice_axis)
    if not lung.any():
        return Lungs()
    across = tuple(axis for axis in range(3) if axis != slice_axis)
    depth_axis = next(axis for axis in across if axis != side_axis)
    areas = lung.sum(axis=across) * _face_cm2(cell_mm, slice_axis)
    largest = float(areas.max())
    ends = (float(areas[0]) / largest, float(areas[-1]) / largest)
    sides = sum(
        int(np.count_nonzero(lung.take(end, axis))) * _face_cm2(cell_mm, axis) for axis in across for end in (0, -1)
    )
    return Lungs(
        volume_ml=float(np.count_nonzero(lung)) * float(np.prod(cell_mm)) / 1000,
        largest_area_cm2=largest,
        share_at_head=ends[head_last],
        share_at_feet=ends[not head_last],
        area_at_sides_cm2=float(sides),
        width_over_depth=_reach_mm(lung, side_axis, cell_mm) / _reach_mm(lung, depth_axis, cell_mm),
    )


def _lung_pockets(hu: NDArray[np.float32], air: NDArray[np.bool_], slice_axis: int) -> NDArray[np.bool_]:
    from scipy import ndimage

    pockets, count = ndimage.label(air)
    if not count:
        return air
    cross: Any = ndimage.generate_binary_structure(3, 1)
    for step in (0, 2):
        cross[tuple(step if axis == slice_axis else 1 for axis in range(3))] = False
    inside = ndimage.binary_erosion(air, cross, border_value=1)
    numbers = np.arange(1, count + 1)
    cells = np.bincount(pockets[inside], minlength=count + 1)[1:]
    wide = numbers[cells > 0]
    if not len(wide):
        return np.zeros_like(air)
    middle = np.asarray(ndimage.median(hu, np.where(inside, pockets, 0), wide))
    return np.asarray(np.isin(pockets, wide[middle > GAS_BELOW_HU]))


def _face_cm2(cell_mm: tuple[float, ...], axis: int) -> float:
    return float(np.prod([mm for n, mm in enumerate(cell_mm) if n != axis])) / 100


def _reach_mm(lung: NDArray[np.bool_], axis: int, cell_mm: tuple[float, ...]) -> float:
    """Length along an axis that holds all but the outermost cells."""
    profile = np.cumsum(lung.sum(axis=tuple(n for n in range(3) if n != axis)))
    first, last = np.searchsorted(profile, (REACH_SHARE * profile[-1], (1 - REACH_SHARE) * profile[-1]))
    return float(last - first + 1) * cell_mm[axis]
