"""Physical spacing of ultrasound images, from their calibrated regions (PS3.3 C.8.5.5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_TWO_DIMENSIONAL = 1  # RegionSpatialFormat
_TISSUE = 1  # RegionDataType: B-mode
_CENTIMETRE = 3  # PhysicalUnitsXDirection
_MM_PER_CM = 10.0
_HIGH_PRIORITY = 0x01  # RegionFlags
# Some writers give the column after the last one as Max.
_EDGE_TOLERANCE = 1


@dataclass(frozen=True, slots=True)
class UltrasoundRegion:
    """One calibrated region of an ultrasound image.

    Args:
        box_index: ``(low_i, low_j, high_i, high_j)``, half-open in continuous pixel indices, clipped to the image.
        spatial_format: RegionSpatialFormat (0018,6012): 1 is 2D; others are M-mode, spectra, waves, graphics.
        data_type: RegionDataType (0018,6014): 1 is tissue (B-mode), 2 colour flow...
        high_priority: whether it covers regions of low priority that it overlaps (RegionFlags (0018,6016), bit 0).
        spacing_mm: length of one pixel along i and j; ``None`` unless the region is 2D, both units are cm, and both
            deltas are numbers other than 0. A negative delta turns the physical axis, not the length.
    """

    box_index: tuple[float, float, float, float]
    spatial_format: int | None
    data_type: int | None
    high_priority: bool
    spacing_mm: tuple[float, float] | None

    @property
    def area(self) -> float:
        """In pixels."""
        return (self.box_index[2] - self.box_index[0]) * (self.box_index[3] - self.box_index[1])


def regions(dataset: Dataset) -> tuple[UltrasoundRegion, ...]:
    """The regions of SequenceOfUltrasoundRegions (0018,6011), in its order.

    A region that reaches out of the image is none of this image: such files were scaled down or cut after the scanner
    wrote them, and so the region's spacing is not theirs either. It is left out, like one whose corners are no numbers.
    """
    columns, rows = _whole(dataset, "Columns"), _whole(dataset, "Rows")
    if not columns or not rows:
        return ()
    found = []
    for item in dataset.get("SequenceOfUltrasoundRegions") or ():
        box = _box(item, columns, rows)
        if box is not None:
            flags = _whole(item, "RegionFlags") or 0
            found.append(
                UltrasoundRegion(
                    box_index=box,
                    spatial_format=_whole(item, "RegionSpatialFormat"),
                    data_type=_whole(item, "RegionDataType"),
                    high_priority=bool(flags & _HIGH_PRIORITY),
                    spacing_mm=_spacing_mm(item),
                )
            )
    return tuple(found)


def spacing_mm_at(
    found: Sequence[UltrasoundRegion], box_index: Sequence[float], tolerance: float = 0.5
) -> tuple[float, float] | None:
    """Spacing along i and j in a box ``(low_i, low_j, high_i, high_j)``; ``None`` where nothing tells it.

    The box must lie within one region, to ``tolerance`` pixels: over two regions there is no one length of a pixel.
    Where regions overlap, high priority goes first, then the smaller one.
    """
    low_i, low_j, high_i, high_j = box_index
    around = [
        region
        for region in found
        if region.box_index[0] - tolerance <= low_i
        and region.box_index[1] - tolerance <= low_j
        and high_i <= region.box_index[2] + tolerance
        and high_j <= region.box_index[3] + tolerance
    ]
    around.sort(key=lambda region: (not region.high_priority, region.area))
    return around[0].spacing_mm if around else None


def main_region(found: Sequence[UltrasoundRegion]) -> UltrasoundRegion | None:
    """The calibrated 2D region that stands for the image: B-mode before other data, then the largest."""
    calibrated = [region for region in found if region.spacing_mm is not None]
    return max(calibrated, key=lambda region: (region.data_type == _TISSUE, region.area), default=None)


def _box(item: Dataset, columns: int, rows: int) -> tuple[float, float, float, float] | None:
    names = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")
    left, top, right, bottom = (_whole(item, name) for name in names)
    if left is None or top is None or right is None or bottom is None:
        return None
    outside = right >= columns + _EDGE_TOLERANCE or bottom >= rows + _EDGE_TOLERANCE
    if outside or not (0 <= left <= right and 0 <= top <= bottom and left < columns and top < rows):
        return None
    return left - 0.5, top - 0.5, min(right, columns - 1) + 0.5, min(bottom, rows - 1) + 0.5


def _spacing_mm(item: Dataset) -> tuple[float, float] | None:
    units = _whole(item, "PhysicalUnitsXDirection"), _whole(item, "PhysicalUnitsYDirection")
    if _whole(item, "RegionSpatialFormat") != _TWO_DIMENSIONAL or units != (_CENTIMETRE, _CENTIMETRE):
        return None
    across, down = _number(item, "PhysicalDeltaX"), _number(item, "PhysicalDeltaY")
    if not across or not down:
        return None
    return abs(across) * _MM_PER_CM, abs(down) * _MM_PER_CM


def _number(dataset: Dataset, keyword: str) -> float | None:
    """A finite number, or ``None``: pydicom raises errors of many kinds for values that make no sense."""
    try:
        number = float(dataset.get(keyword))
    except Exception:
        return None
    return number if math.isfinite(number) else None


def _whole(dataset: Dataset, keyword: str) -> int | None:
    number = _number(dataset, keyword)
    return None if number is None else int(number)
