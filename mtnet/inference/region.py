"""Where in a CT the network has to look: a cheap rule on a coarse grid that errs on the side of looking.

Sizes in mm and thresholds in HU are our choices; the tests show what they keep on a real study and on drawn chests. The
coarse grid is laid symmetrically over the image, so flipping or permuting its axes changes no voxel of the answer.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtnet.inference.lungs import Lungs, measure_lungs
from mtnet.structures import Geometry, ReportLine

CELL_MM = 5.0
"""Edge of a coarse cell where the image is finer than that; thinner walls than a chest's may blur away."""
AIR_BELOW_HU = -500.0
"""Mean of a cell of air or aerated lung."""
OUTSIDE_BELOW_HU = -940.0
"""Median of air around a body; about -1000 HU there, in a lung down to about -930 HU with severe emphysema. So a lung
that is cut off by the field of view is not taken for the air around."""
SIGNIFICANT_SHARE = 0.01
"""Pockets of air that hold less than this share of the largest one are no lung."""
CLOSING_MM = 60.0
"""Radius of the closing that brings consolidations, masses and juxtapleural nodules into the lung field."""
MARGIN_MM = 10.0
DEEP_MM = 15.0
DEEP_MARGIN_MM = 35.0
"""What the closing filled farther than ``DEEP_MM`` from air is grown so much inside the body: a closing cuts a large
mass off where the chest wall behind it bulges. (With 10 mm alone up to 23 % of a box drawn around the mass of
Lung_Dx-A0001 stays outside, with this nothing, for 2 % more windows of 96 mm.)"""
ONE_SIDED_SHARE = 0.15
"""With less air than this share on one side of the body, that lung may be opaque as a whole, or removed."""
AIRY_SHARE = 0.15
"""With less air than this share of the body at the height of the air, the lungs may be opaque, or not in the image."""
SMALLEST_SHARE, LARGEST_SHARE = 0.05, 0.95
"""Of the image; a mask outside these is not trusted."""

Mask = NDArray[np.bool_]
Window = tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class RegionResult:
    """Where to look.

    Args:
        mask: ``(i, j, k)`` bool on the image grid, false in padding; all of the valid image where the rule failed.
        share: of the valid image's voxels that are in the mask.
        lines: ``region_failed`` where the mask was not trusted, ``region_widened`` where one lung seems opaque.
        lungs: what the rule measured of them; None where it does not look for lungs.
    """

    mask: Tensor
    share: float
    lines: tuple[ReportLine, ...] = ()
    lungs: Lungs | None = None


def lung_field(
    image: Tensor | NDArray[Any],
    geometry: Geometry,
    *,
    valid_shape: tuple[int, ...] | None = None,
    hu_window: Window | None = None,
) -> RegionResult:
    """The lungs of a CT with everything that may hide in or at them.

    Air that has no way to the image's sides within its axial slice, closed with a radius of 60 mm, together with its
    mirror image (what is opaque on one side is mostly air on the other), both inside the body; plus 10 mm, and 35 mm
    where the closing filled much. Where nearly all air lies on one side, the whole body at the height of the lungs;
    where there is little air at all, everything. Disease that is alike on both sides and leaves enough air is kept as
    far as the closing reaches.

    Args:
        image: ``(i, j, k)``, any orientation and spacing.
        geometry: its grid; tells the axial slices and the patient's sides.
        valid_shape: size before padding at the high ends; None where there is no padding.
        hu_window: the Hounsfield units that stand as 0 and 1 in the image; None where it holds Hounsfield units.

    Raises:
        ValueError: the image is not three-dimensional.
    """
    coarse = _Coarse(image, geometry, valid_shape, hu_window)
    body_mask = _largest(~_outside_air(coarse))
    lungs = _significant((coarse.hu < AIR_BELOW_HU) & body_mask)
    return replace(_field(coarse, body_mask, lungs), lungs=coarse.measured(lungs))


def find_lungs(image: Tensor | NDArray[Any], geometry: Geometry, hu_window: Window | None = None) -> Lungs:
    """What there is of lungs in a CT; arguments as ``lung_field``, which measures them too."""
    coarse = _Coarse(image, geometry, None, hu_window)
    body_mask = _largest(~_outside_air(coarse))
    return coarse.measured(_significant((coarse.hu < AIR_BELOW_HU) & body_mask))


def _field(coarse: _Coarse, body_mask: Mask, lungs: Mask) -> RegionResult:
    around = body_mask & _span(lungs, coarse.slice_axis)
    if lungs.sum() <= AIRY_SHARE * around.sum():
        return coarse.everything("There is hardly any air in the body")
    from_air_mm = _distance(lungs, coarse.cell_mm)
    closed = lungs | (_shrunk(from_air_mm <= CLOSING_MM, coarse.cell_mm, CLOSING_MM) & body_mask)
    deep = closed & (from_air_mm > DEEP_MM)
    lines: tuple[ReportLine, ...] = ()
    if _one_sided(lungs, around, coarse.side_axis):
        closed |= around
        message = "Nearly all air of the lungs lies on one side; the whole body at their height was looked at."
        lines = (ReportLine("region_widened", "note", message, "region"),)
    closed |= _mirrored(closed, body_mask, coarse.side_axis) & body_mask
    bulging = _grown(deep, coarse.cell_mm, DEEP_MARGIN_MM) & body_mask
    return coarse.result(_grown(closed, coarse.cell_mm, MARGIN_MM) | bulging, lines)


def body(
    image: Tensor | NDArray[Any],
    geometry: Geometry,
    *,
    valid_shape: tuple[int, ...] | None = None,
    hu_window: Window | None = None,
) -> RegionResult:
    """The largest body of a CT, holes filled, without clothes and table sheets; arguments as ``lung_field``."""
    coarse = _Coarse(image, geometry, valid_shape, hu_window)
    filled = ~_outside_air(coarse)
    reach = max(coarse.cell_mm)
    core = _largest(_shrunk(filled, coarse.cell_mm, reach))
    return coarse.result(_grown(core, coarse.cell_mm, 2 * reach) & filled, ())


def whole(
    image: Tensor | NDArray[Any],
    geometry: Geometry,
    *,
    valid_shape: tuple[int, ...] | None = None,
    hu_window: Window | None = None,
) -> RegionResult:
    """The whole valid image; arguments as ``lung_field``."""
    shape = tuple(image.shape)
    return RegionResult(_everything(shape, valid_shape or shape), 1.0)


_RULES = {"lung_field": lung_field, "body": body, "whole": whole}


@dataclass(frozen=True, slots=True)
class Region:
    """A rule by its name, for images as a preprocessing leaves them.

    Args:
        rule: ``lung_field``, ``body`` or ``whole``.
        hu_window: the Hounsfield units that the preprocessing maps to 0 and 1; None where it leaves them as they are.

    Raises:
        ValueError: no rule has this name.
    """

    rule: str = "lung_field"
    hu_window: Window | None = None

    def __post_init__(self) -> None:
        if self.rule not in _RULES:
            raise ValueError(f"Region.rule is {self.rule!r}; expected one of {', '.join(_RULES)}.")

    def of(
        self, image: Tensor | NDArray[Any], geometry: Geometry, valid_shape: tuple[int, ...] | None = None
    ) -> RegionResult:
        """Where to look in one image ``(i, j, k)``; arguments as ``lung_field``."""
        return _RULES[self.rule](image, geometry, valid_shape=valid_shape, hu_window=self.hu_window)


class _Coarse:
    """The valid image averaged over coarse cells, and the way back to its voxels."""

    def __init__(
        self,
        image: Tensor | NDArray[Any],
        geometry: Geometry,
        valid_shape: tuple[int, ...] | None,
        hu_window: Window | None,
    ) -> None:
        if image.ndim != 3:
            raise ValueError(f"The image has shape {tuple(image.shape)}; a region is found on a volume (i, j, k).")
        self.padded_shape = tuple(image.shape)
        self.shape = self.padded_shape if valid_shape is None else tuple(valid_shape)
        spacing = geometry.spacing_mm
        cells = [min(n, int(np.ceil(n * s / CELL_MM))) for n, s in zip(self.shape, spacing, strict=True)]
        self.cell_mm = tuple(n * s / m for n, s, m in zip(self.shape, spacing, cells, strict=True))
        self._bins = [_bins(n, m) for n, m in zip(self.shape, cells, strict=True)]
        low, high = hu_window or (0.0, 1.0)
        self.hu = self._means(image) * np.float32(high - low) + np.float32(low)
        self.slice_axis, self.side_axis = _patient_axes(geometry)
        self._head_last = bool(geometry.direction_lps[2, self.slice_axis] > 0)

    def _means(self, image: Tensor | NDArray[Any]) -> NDArray[np.float32]:
        """Mean of each cell, one plane of cells at a time, in the order of memory: no float copy of the volume."""
        # numpy sums: torch's small parallel ones crawl on a machine that is busy otherwise.
        values = image.cpu().numpy() if isinstance(image, Tensor) else image
        values = values[tuple(slice(n) for n in self.shape)]
        order = sorted(range(3), key=lambda axis: -abs(values.strides[axis]))
        bins = [self._bins[axis] for axis in order]
        size = (len(bins[1][0]), len(bins[2][0]))
        planes = []
        for low, high in zip(*bins[0], strict=True):
            total = torch.from_numpy(values.transpose(order)[low:high].sum(axis=0, dtype=np.float32))
            planes.append(
                torch.nn.functional.adaptive_avg_pool2d(total[None], size)[0].numpy() / np.float32(high - low)
            )
        cells: NDArray[np.float32] = np.stack(planes).transpose(np.argsort(order)).astype(np.float32, copy=False)
        return cells

    def measured(self, air: Mask) -> Lungs:
        """The lungs among pockets of air."""
        return measure_lungs(
            self.hu,
            air,
            self.cell_mm,
            slice_axis=self.slice_axis,
            side_axis=self.side_axis,
            head_last=self._head_last,
        )

    def result(self, cells: Mask, lines: tuple[ReportLine, ...]) -> RegionResult:
        """The cells as a mask of voxels, or the whole image where they cannot be right."""
        fine = cells
        for axis, (low, high) in enumerate(self._bins):
            voxels = np.arange(self.shape[axis])
            first = np.searchsorted(high, voxels, side="right")
            last = np.searchsorted(low, voxels, side="right") - 1
            # A voxel on the border of two cells belongs to both.
            fine = fine.take(first, axis) | fine.take(last, axis)
        share = float(np.count_nonzero(fine) / fine.size)
        if not SMALLEST_SHARE <= share <= LARGEST_SHARE:
            return self.everything(f"The region found takes up {share:.0%} of the image and is not trusted")
        mask = torch.from_numpy(fine)
        if self.shape != self.padded_shape:
            mask = torch.zeros(self.padded_shape, dtype=torch.bool)
            mask[tuple(slice(n) for n in self.shape)] = torch.from_numpy(fine)
        return RegionResult(mask, share, lines)

    def everything(self, reason: str) -> RegionResult:
        """The whole valid image, and a line that says why."""
        line = ReportLine("region_failed", "note", f"{reason}; the whole image was looked at.", "region")
        return RegionResult(_everything(self.padded_shape, self.shape), 1.0, (line,))


def _everything(shape: tuple[int, ...], valid_shape: tuple[int, ...]) -> Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[tuple(slice(n) for n in valid_shape)] = True
    return mask


def _bins(voxels: int, cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First voxel of each cell and the first beyond it, as torch's adaptive pooling has them: alike from both ends."""
    edges = np.arange(cells + 1) * voxels
    return edges[:-1] // cells, -(-edges[1:] // cells)


def _patient_axes(geometry: Geometry) -> tuple[int, int]:
    """The index axis nearest to the patient's long axis, and of the others the one nearest to left-right."""
    steepness = np.abs(geometry.direction_lps)
    pairs = itertools.permutations(range(3), 2)
    slice_axis, side_axis = max(pairs, key=lambda pair: float(steepness[2, pair[0]] + steepness[0, pair[1]]))
    return slice_axis, side_axis


def _outside_air(coarse: _Coarse) -> Mask:
    """Air that reaches a side of the image within its own axial slice and is as dark as air around a body.

    Slice by slice, because lungs are open to the first and last slice of a scan that does not hold all of them.
    """
    from scipy import ndimage

    in_slice = ndimage.generate_binary_structure(3, 1)
    for step in (0, 2):
        in_slice[tuple(step if axis == coarse.slice_axis else 1 for axis in range(3))] = False
    pockets, _ = ndimage.label(coarse.hu < AIR_BELOW_HU, in_slice)
    sides = [axis for axis in range(3) if axis != coarse.slice_axis]
    touching = np.unique(np.concatenate([pockets.take(end, axis).ravel() for axis in sides for end in (0, -1)]))
    touching = touching[touching > 0]
    if not len(touching):
        return np.zeros(coarse.hu.shape, dtype=np.bool_)
    darkness = np.asarray(ndimage.median(coarse.hu, pockets, touching))
    is_outside = np.zeros(int(pockets.max()) + 1, dtype=np.bool_)
    is_outside[touching[darkness < OUTSIDE_BELOW_HU]] = True
    sizes = np.bincount(pockets.ravel())
    along = np.moveaxis(pockets, coarse.slice_axis, 0)
    while True:
        # Foam, streaks and clothes brighten the air of some slices; it goes on from that of the next slice.
        known = is_outside[along]
        beside = np.maximum(
            np.bincount(along[1:][known[:-1]].ravel(), minlength=len(sizes)),
            np.bincount(along[:-1][known[1:]].ravel(), minlength=len(sizes)),
        )
        found = touching[(beside >= sizes / 2)[touching] & ~is_outside[touching]]
        if not len(found):
            return is_outside[pockets]
        is_outside[found] = True


def _sizes(mask: Mask) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]:
    """Components numbered from 1, and the cells of each (the background's as 0)."""
    from scipy import ndimage

    components, _ = ndimage.label(mask)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return components, sizes


def _largest(mask: Mask) -> Mask:
    components, sizes = _sizes(mask)
    return np.asarray((components == sizes.argmax()) & mask)


def _significant(mask: Mask) -> Mask:
    """The components that hold more than a small share of the largest one."""
    components, sizes = _sizes(mask)
    return np.asarray((sizes > SIGNIFICANT_SHARE * sizes.max())[components])


def _distance(mask: Mask, cell_mm: tuple[float, ...]) -> NDArray[np.float64]:
    """Distance in mm from each cell's centre to the nearest one in the mask; infinite where the mask is empty."""
    from scipy import ndimage

    if not mask.any():
        return np.full(mask.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=cell_mm))


def _grown(mask: Mask, cell_mm: tuple[float, ...], radius_mm: float) -> Mask:
    return _distance(mask, cell_mm) <= radius_mm


def _shrunk(mask: Mask, cell_mm: tuple[float, ...], radius_mm: float) -> Mask:
    """Erosion; what lies beyond the image counts as mask."""
    return _distance(~mask, cell_mm) > radius_mm


def _mirrored(mask: Mask, body_mask: Mask, side_axis: int) -> Mask:
    """The mask reflected left to right in the plane in which the body fits its own reflection best."""
    tissue = np.moveaxis(body_mask, side_axis, 0).reshape(mask.shape[side_axis], -1).astype(np.float32)
    places = np.arange(len(tissue))
    sums = np.add.outer(places, places)
    fit = np.bincount(sums.ravel(), weights=(tissue @ tissue.T).ravel())
    source, reflected = np.moveaxis(mask, side_axis, 0), np.zeros_like(mask)
    target = np.moveaxis(reflected, side_axis, 0)
    # All planes that fit equally well, so that the answer is the same from both ends.
    for total in np.flatnonzero(fit == fit.max()):
        partner = total - places
        held = (partner >= 0) & (partner < len(places))
        target[places[held]] |= source[partner[held]]
    return reflected


def _one_sided(lungs: Mask, around: Mask, side_axis: int) -> bool:
    """Whether nearly all air lies on one side of the middle of the body around it."""
    others = tuple(axis for axis in range(3) if axis != side_axis)
    air, tissue = lungs.sum(axis=others), around.sum(axis=others)
    places = np.arange(len(air))
    middle = float((places * tissue).sum() / tissue.sum())
    low_side = float((air * (places < middle)).sum() / air.sum())
    return min(low_side, 1 - low_side) < ONE_SIDED_SHARE


def _span(mask: Mask, axis: int) -> Mask:
    """The slices from the mask's first to its last, to be broadcast against the mask."""
    used = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
    span = np.zeros(mask.shape[axis], dtype=np.bool_)
    if len(used):
        span[used[0] : used[-1] + 1] = True
    return span.reshape([-1 if a == axis else 1 for a in range(3)])
