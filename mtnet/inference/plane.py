"""Sizes of lesions on a 2D image: in mm where the image tells the size of a pixel, else in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtnet.inference.measure import measure_mask
from mtnet.io.ultrasound import UltrasoundRegion, spacing_mm_at
from mtnet.structures import Geometry

Pair = tuple[float, float]


@dataclass(frozen=True, slots=True)
class PlaneScale:
    """Which frame an image is, and how large its pixels are.

    Args:
        frame: its place in its clip, from 0; 0 for an image.
        spacing_mm: of the image as a whole along i and j; None where nothing tells it.
        regions: calibrated regions of an ultrasound image, which know better.
    """

    frame: int = 0
    spacing_mm: Pair | None = None
    regions: tuple[UltrasoundRegion, ...] = ()

    def spacing_mm_in(self, box_index: Sequence[float]) -> Pair | None:
        """Spacing in a box ``(low_i, low_j, high_i, high_j)``: over the edge of a calibrated region there is none."""
        return spacing_mm_at(self.regions, box_index) if self.regions else self.spacing_mm


@dataclass(frozen=True, slots=True)
class FlatSizes:
    """Diameters in mm, None where the pixel size is not known, and further sizes by keys that end in their unit."""

    longest_mm: float | None
    short_mm: float | None
    measures: dict[str, float]


def flat_sizes(mask: NDArray[np.bool_], offset_index: tuple[int, int, int], scale: PlaneScale) -> FlatSizes:
    """Measure one lesion's mask ``(i, j, 1)``, the smallest block that holds it, at ``offset_index`` of the image.

    The area is that of its pixels; diameters are those of ``measure_mask``. With a pixel size: ``area_mm2`` and
    diameters in mm; without: ``area_px``, ``longest_diameter_px`` and ``short_diameter_px``.
    """
    i, j, _ = offset_index
    box = (i - 0.5, j - 0.5, i + mask.shape[0] - 0.5, j + mask.shape[1] - 0.5)
    spacing = scale.spacing_mm_in(box)
    step_i, step_j = spacing or (1.0, 1.0)
    found = measure_mask(mask, (0, 0, 0), Geometry.from_parts(mask.shape, (step_i, step_j, 1.0)))
    longest, short = found.longest_axial_diameter_mm, found.short_axial_diameter_mm
    area = found.voxels * step_i * step_j
    if spacing is not None:
        return FlatSizes(longest, short, {"area_mm2": area})
    return FlatSizes(None, None, {"area_px": area, "longest_diameter_px": longest, "short_diameter_px": short})
