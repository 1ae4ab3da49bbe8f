"""The plainest detector of nodules there is, to measure others against: a threshold inside the lung field."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mtnet.structures import Volume

NODULE_ABOVE_HU = -400
AIR_BELOW_HU = -500
COARSE_MM = 2.5


def lung_field(volume: Volume, *, close_mm: float = 12.0) -> NDArray[np.bool_]:
    """The lungs with what lies in them, by a rule: air inside the body, closed over notches.

    Voxels under -500 HU that are not connected with the border of the slices, in components of at least 5 % of the
    largest, closed by a ball so that vessels and most of a nodule at the pleura come in.

    Args:
        volume: CT in HU, ``(1, i, j, k)``.
        close_mm: radius of the ball.

    Returns:
        ``(i, j, k)`` bool; empty where there is no air inside.
    """
    spacing = np.asarray(volume.geometry.spacing_mm)
    step = np.maximum(np.round(COARSE_MM / spacing), 1).astype(int)
    array = volume.array[0]
    air = array[:: step[0], :: step[1], :: step[2]] < AIR_BELOW_HU
    labels, _ = ndimage.label(air)
    sizes = np.bincount(labels.ravel())
    outside = np.unique(np.concatenate([labels[side].ravel() for side in (0, -1)]))
    outside = np.union1d(outside, np.unique(np.concatenate([labels[:, side].ravel() for side in (0, -1)])))
    sizes[outside] = 0
    sizes[0] = 0
    field = np.zeros(array.shape, dtype=bool)
    if sizes.max() == 0:
        return field
    lungs = np.isin(labels, np.flatnonzero(sizes >= max(0.05 * sizes.max(), 1)))
    coarse_mm = spacing * step
    pad = [(int(np.ceil(close_mm / mm)) + 1,) * 2 for mm in coarse_mm]
    lungs = np.pad(lungs, pad)
    grown = ndimage.distance_transform_edt(~lungs, sampling=coarse_mm) <= close_mm
    closed = ndimage.distance_transform_edt(grown, sampling=coarse_mm) > close_mm
    closed = closed[tuple(slice(p[0], -p[1]) for p in pad)]
    for axis in range(3):
        nearest = np.minimum(np.round(np.arange(array.shape[axis]) / step[axis]).astype(int), closed.shape[axis] - 1)
        closed = np.take(closed, nearest, axis=axis)
    return np.asarray(closed, dtype=bool)


def threshold_baseline(
    volume: Volume,
    field: NDArray[np.bool_] | None = None,
    *,
    above_hu: float = NODULE_ABOVE_HU,
    open_mm: float = 2.0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes around the dense components inside the lung field, scored by roundness and size.

    Args:
        volume: CT in HU, ``(1, i, j, k)``.
        field: ``(i, j, k)`` where to look; by default ``lung_field(volume)``.
        above_hu: a voxel over this is dense.
        open_mm: radius of the ball that dense tissue is opened by, which cuts thin vessels off; 0 leaves it whole.

    Returns:
        ``box_index`` ``(n, 6)`` (half-open, continuous index) and scores ``(n,)`` in 0..1, best first. A component
        counts when its bounding box is 4 to 60 mm long and its equivalent sphere at least 4 mm wide; its score is the
        share of the sphere around its longest side that it fills, times a factor that rises with its size up to 10 mm.
    """
    inside = lung_field(volume) if field is None else field
    spacing = np.asarray(volume.geometry.spacing_mm)
    dense = (volume.array[0] > above_hu) & inside
    if open_mm > 0:
        reach = np.ceil(open_mm / spacing).astype(int)
        offsets = np.meshgrid(*(np.arange(-r, r + 1) * mm for r, mm in zip(reach, spacing, strict=True)), indexing="ij")
        dense = ndimage.binary_opening(dense, np.sqrt(sum(o**2 for o in offsets)) <= open_mm)
    labels, count = ndimage.label(dense)
    boxes, scores = [], []
    sizes = np.bincount(labels.ravel(), minlength=count + 1) * volume.geometry.voxel_volume_mm3
    for number, where in enumerate(ndimage.find_objects(labels), start=1):
        if where is None:
            continue
        low = np.array([s.start for s in where]) - 0.5
        high = np.array([s.stop for s in where]) - 0.5
        longest = float(((high - low) * spacing).max())
        diameter = (6 * sizes[number] / np.pi) ** (1 / 3)
        if not 4 <= longest <= 60 or diameter < 4:
            continue
        round_share = min(float(diameter / longest) ** 3, 1.0)
        boxes.append(np.concatenate([low, high]))
        scores.append(round_share * min(float(diameter) / 10, 1.0))
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 6)[order], np.asarray(scores, dtype=np.float64)[order]
