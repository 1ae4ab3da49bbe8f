"""Lesion masks on the planes of the source slices, found by position in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.results.mask_boxes import Region, mask_boxes
from mtnet.structures import Geometry, Instance

# Slices whose pixels are all this close to a voxel's centre, in voxels, lie on the grid of the findings.
_SAME_VOXEL = 0.05
# Two slices closer than this are one plane.
_SAME_PLANE_MM = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class LesionFrames:
    """Masks on source slices.

    Args:
        instances: the slices that hold a lesion, in order along their normal.
        frames: ``(n, rows, columns)`` uint16, one a slice: lesion number or 0.
        resampled: whether the masks had to be interpolated, because the slices don't lie on the grid of the findings.
        numbers: the lesions that have a pixel in some frame, rising.
    """

    instances: tuple[Instance, ...]
    frames: NDArray[np.uint16]
    resampled: bool
    numbers: tuple[int, ...]


def lesion_frames(
    lesion_map: NDArray[np.integer[Any]], geometry: Geometry, instances: Sequence[Instance]
) -> LesionFrames:
    """Cut lesion masks by the planes of source slices.

    Each pixel of a slice is carried through the patient to a voxel of the lesions' grid, so neither the order of the
    slices nor that of the axes matters. Where pixels don't fall on voxel centres (a repaired series), each lesion's
    mask is interpolated linearly and taken from one half.

    Args:
        lesion_map: ``(i, j, k)`` lesion numbers, 0 elsewhere.
        geometry: grid of ``lesion_map``.
        instances: single-frame source slices with position, orientation, spacing and size; a second slice at the same
            position is passed over.

    Raises:
        ValueError: a slice has no position, orientation, pixel spacing or size.
    """
    lesions = list(mask_boxes(lesion_map).items())
    resampled = False
    kept: list[Instance] = []
    frames: list[NDArray[np.uint16]] = []
    places: set[tuple[float, ...]] = set()
    for instance in instances:
        plane = slice_affine_lps(instance)
        place = tuple(np.rint(plane[:3, 3] / _SAME_PLANE_MM).tolist())
        if place in places:
            continue
        places.add(place)
        to_index = np.linalg.solve(geometry.affine_lps, plane).astype(np.float64)
        size = (int(instance.rows or 0), int(instance.columns or 0))
        resampled = resampled or not _on_voxels(to_index, size)
        frame = _cut(lesion_map, lesions, to_index, size)
        if frame is not None:
            kept.append(instance)
            frames.append(frame)
    stacked = np.stack(frames) if frames else np.zeros((0, 0, 0), dtype=np.uint16)
    numbers = tuple(int(n) for n in np.unique(stacked) if n)
    return LesionFrames(tuple(kept), stacked, resampled, numbers)


def slice_affine_lps(instance: Instance) -> NDArray[np.float64]:
    """4 x 4 map from (column, row, mm along the normal, 1) of a slice to LPS mm (PS3.3 C.7.6.2.1.1)."""
    missing = [
        name
        for name in ("position_lps_mm", "orientation_lps", "pixel_spacing_mm", "rows", "columns")
        if getattr(instance, name) is None
    ]
    if missing or not (instance.position_lps_mm and instance.orientation_lps and instance.pixel_spacing_mm):
        raise ValueError(f"{instance.where} has no {' and no '.join(missing)}; its plane in the patient is unknown.")
    along_row, along_column = np.array(instance.orientation_lps[:3]), np.array(instance.orientation_lps[3:])
    between_rows, between_columns = instance.pixel_spacing_mm
    affine = np.eye(4)
    affine[:3, 0] = along_row * between_columns
    affine[:3, 1] = along_column * between_rows
    affine[:3, 2] = np.cross(along_row, along_column)
    affine[:3, 3] = instance.position_lps_mm
    return affine


def _on_voxels(to_index: NDArray[np.float64], size: tuple[int, int]) -> bool:
    """Whether every pixel of a slice falls on a voxel's centre: whole steps from a whole start, to the far corner."""
    drift = np.abs(to_index[:3, :2] - np.rint(to_index[:3, :2])) @ [size[1], size[0]]
    start = np.abs(to_index[:3, 3] - np.rint(to_index[:3, 3]))
    return bool((drift + start).max() < _SAME_VOXEL)


def _cut(
    lesion_map: NDArray[np.integer[Any]],
    lesions: Sequence[tuple[int, Region]],
    to_index: NDArray[np.float64],
    size: tuple[int, int],
) -> NDArray[np.uint16] | None:
    """One frame ``(rows, columns)`` of lesion numbers, or None where no lesion meets the plane."""
    from scipy import ndimage

    frame: NDArray[np.uint16] | None = None
    from_index = np.linalg.inv(to_index)
    # Boxes grown by the voxel in which a mask fades out; their corners as column, row and mm in front of the plane.
    lows = np.array([[side.start - 1.0 for side in box] for _, box in lesions]).reshape(-1, 3)
    highs = np.array([[float(side.stop) for side in box] for _, box in lesions]).reshape(-1, 3)
    pick = np.array([[(n >> axis) & 1 for axis in range(3)] for n in range(8)], dtype=bool)
    corners = np.where(pick, highs[:, None], lows[:, None]) @ from_index[:3, :3].T + from_index[:3, 3]
    meets = (corners[..., 2].min(axis=1) <= 0) & (corners[..., 2].max(axis=1) >= 0)
    for n in np.flatnonzero(meets).tolist():
        (number, box), low, on_plane = lesions[n], lows[n], corners[n].T
        first = np.maximum(np.floor(on_plane[:2].min(axis=1)).astype(int), 0)
        last = np.minimum(np.ceil(on_plane[:2].max(axis=1)).astype(int), (size[1] - 1, size[0] - 1))
        if (first > last).any():
            continue
        columns, rows = np.meshgrid(np.arange(first[0], last[0] + 1), np.arange(first[1], last[1] + 1))
        points = np.stack([columns, rows, np.zeros_like(columns), np.ones_like(columns)]).reshape(4, -1)
        index = (to_index @ points)[:3] - low[:, None]
        crop = np.pad((lesion_map[box] == number).astype(np.float32), 1)
        inside = ndimage.map_coordinates(crop, index, order=1, mode="constant", cval=0.0) >= 0.5
        if inside.any():
            if frame is None:
                frame = np.zeros(size, dtype=np.uint16)
            window = frame[first[1] : last[1] + 1, first[0] : last[0] + 1]
            window[inside.reshape(columns.shape) & (window == 0)] = number
    return frame
