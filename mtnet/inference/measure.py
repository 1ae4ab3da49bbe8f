"""What a lesion's mask measures in the patient: volume, centroid and in-slice diameters, on any grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtnet.structures.geometry import FloatArray, Geometry

_TIE_MM = 1e-6


@dataclass(frozen=True, slots=True)
class Measures:
    """Size and place of one mask; the same words as in ``Lesion``."""

    voxels: int
    volume_mm3: float
    centroid_lps_mm: tuple[float, float, float]
    longest_axial_diameter_mm: float
    short_axial_diameter_mm: float


def measure_mask(mask: NDArray[np.bool_], offset_index: tuple[int, int, int], geometry: Geometry) -> Measures:
    """Measure one mask.

    Volume is the number of voxels times the volume of one; the centroid is the mean of voxel centres. Diameters follow
    the reading of a bidimensional measurement (WHO handbook 1979, RECIST 1.1): in the slice (a plane of constant k) in
    which it is longest, the longest distance between two points of the lesion's outline, and the longest chord at a
    right angle to it. The outline is the convex hull of voxel corners, so a voxel's faces count: a single voxel of
    1 mm has a longest diameter of 1.41 mm, and a disc reads up to a pixel's diagonal more than between pixel centres.

    Args:
        mask: ``(i, j, k)`` crop that holds the whole lesion.
        offset_index: voxel index of the crop's first voxel on ``geometry``.
        geometry: grid that the crop was cut from.

    Raises:
        ValueError: the mask is empty.
    """
    points = np.argwhere(mask)
    if not len(points):
        raise ValueError("The mask has no voxel; only a lesion that owns mask voxels can be measured.")
    centroid = geometry.index_to_lps_mm(points.mean(axis=0) + np.asarray(offset_index))
    to_mm = _plane_to_mm(geometry)
    diameters = [_slice_diameters(mask[:, :, k], to_mm) for k in np.unique(points[:, 2])]
    longest = max(long for long, _ in diameters)
    short = max(short for long, short in diameters if long >= longest - _TIE_MM)
    return Measures(
        voxels=len(points),
        volume_mm3=len(points) * geometry.voxel_volume_mm3,
        centroid_lps_mm=(float(centroid[0]), float(centroid[1]), float(centroid[2])),
        longest_axial_diameter_mm=longest,
        short_axial_diameter_mm=short,
    )


def _plane_to_mm(geometry: Geometry) -> FloatArray:
    """2 x 2 map from steps along (i, j) to mm in the slice plane, right also where i and j are not at right angles."""
    steps = geometry.affine_lps[:3, :2]
    return np.asarray(np.linalg.cholesky(steps.T @ steps).T)


def _slice_diameters(mask: NDArray[np.bool_], to_mm: FloatArray) -> tuple[float, float]:
    """Longest diameter and the longest chord perpendicular to it, of one non-empty slice ``(i, j)``, in mm."""
    hull = _convex_hull(_outline_corners(mask) @ to_mm.T)
    pairs = hull[:, None, :] - hull[None, :, :]
    length = np.sqrt((pairs**2).sum(axis=-1))
    longest = float(length.max())
    ends = np.argwhere(np.triu(length >= longest - _TIE_MM, 1))
    # Of equally long diameters the one with the longest perpendicular, so that a mirrored lesion measures the same.
    short = max(_longest_perpendicular_chord(hull, hull[b] - hull[a]) for a, b in ends)
    return longest, short


def _outline_corners(mask: NDArray[np.bool_]) -> FloatArray:
    """Corners ``(N, 2)`` in continuous index that have the same convex hull as all voxels of ``mask``."""
    rows = np.flatnonzero(mask.any(axis=1))
    first = mask[rows].argmax(axis=1)
    last = mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    corners = [(i, j) for i in (rows - 0.5, rows + 0.5) for j in (first - 0.5, last + 0.5)]
    return np.concatenate([np.stack(pair, axis=1) for pair in corners])


def _convex_hull(points: FloatArray) -> FloatArray:
    """Corners of the convex hull of 2D points, anticlockwise (Andrew's monotone chain, 1979)."""
    ordered = np.unique(points, axis=0)

    def half(chain_points: FloatArray) -> list[FloatArray]:
        chain: list[FloatArray] = []
        for point in chain_points:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0:
                chain.pop()
            chain.append(point)
        return chain[:-1]

    return np.asarray(half(ordered) + half(ordered[::-1]))


def _turn(a: FloatArray, b: FloatArray, c: FloatArray) -> float:
    """Twice the signed area of the triangle: positive where the way from a over b to c turns left."""
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def _longest_perpendicular_chord(hull: FloatArray, direction: FloatArray) -> float:
    """Longest chord of a convex polygon at a right angle to its longest diameter, which runs along ``direction``."""
    along = direction / np.linalg.norm(direction)
    x = hull @ along
    y = hull @ np.array([-along[1], along[0]])
    # The ends of a longest diameter are the only corners at the extremes of x, so two chains join them.
    start, end = int(x.argmin()), int(x.argmax())
    order = np.roll(np.arange(len(x)), -start)
    cut = int(np.flatnonzero(order == end)[0])
    lower = order[: cut + 1]
    upper = np.append(order[cut:], start)[::-1]
    # The width between two chains is concave and linear between corners: its maximum lies at a corner.
    width = np.interp(x, x[upper], y[upper]) - np.interp(x, x[lower], y[lower])
    return float(width.max())
