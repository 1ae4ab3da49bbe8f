"""Drawing soft-edged shapes into a voxel grid: only the voxels around each are touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtnet.structures import Geometry

FloatArray = NDArray[np.float32]
Box3 = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """An LPS-aligned grid with open coordinate axes in mm, on which shapes are drawn as fractions of a voxel.

    ``x``, ``y``, ``z`` have shapes ``(i, 1, 1)``, ``(1, j, 1)``, ``(1, 1, k)``: arithmetic on them broadcasts to the
    grid, and on slices of them to a sub-box. A fraction is the part of the voxel inside the shape to first order: a
    ramp over one voxel across the surface (Max, "Optical models", and every anti-aliased rasteriser since).
    """

    geometry: Geometry
    x: FloatArray
    y: FloatArray
    z: FloatArray
    edge_mm: float

    @classmethod
    def of(cls, geometry: Geometry) -> Canvas:
        """The canvas of an LPS-aligned grid. Raises ``ValueError`` for a flipped or rotated one."""
        if not np.allclose(geometry.direction_lps, np.eye(3), atol=1e-6):
            raise ValueError(
                "Canvas.geometry has rotated or flipped axes; drawing needs index axes along LPS: resample, or reorder "
                "the axes first."
            )
        axes = [
            (np.arange(n) * step + start).astype(np.float32)
            for n, step, start in zip(geometry.shape, geometry.spacing_mm, geometry.origin_lps_mm, strict=True)
        ]
        edge = float(np.prod(geometry.spacing_mm) ** (1 / 3))
        return cls(geometry, axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :], edge)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along i, j, k."""
        return self.geometry.shape

    def box(self, low_mm: ArrayLike, high_mm: ArrayLike) -> Box3 | None:
        """Slices of the voxels whose centres lie in a box in mm, or None where that misses the grid."""
        origin, step = np.asarray(self.geometry.origin_lps_mm), np.asarray(self.geometry.spacing_mm)
        start = np.maximum(np.ceil((np.asarray(low_mm) - origin) / step), 0).astype(int)
        stop = np.minimum(np.floor((np.asarray(high_mm) - origin) / step) + 1, self.shape).astype(int)
        if (start >= stop).any():
            return None
        return slice(start[0], stop[0]), slice(start[1], stop[1]), slice(start[2], stop[2])

    def axes_in(self, box: Box3) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The coordinate axes of a sub-box."""
        return self.x[box[0]], self.y[:, box[1]], self.z[:, :, box[2]]

    def fraction(self, distance_mm: FloatArray) -> FloatArray:
        """Fraction of each voxel inside, from the signed distance of its centre (negative inside)."""
        fraction = distance_mm * np.float32(-1.0 / self.edge_mm)
        fraction += np.float32(0.5)
        return np.clip(fraction, 0, 1, out=fraction)

    def tubes(self, field: FloatArray, segments: NDArray[np.float64]) -> None:
        """Draw tapered round tubes into a field of fractions (in place, by maximum).

        Args:
            field: fractions ``(i, j, k)``.
            segments: ``(n, 8)`` rows of start xyz, end xyz, start radius, end radius, in mm.
        """
        edge, origin, step = self.edge_mm, self.geometry.origin_lps_mm, self.geometry.spacing_mm
        reach = np.maximum(segments[:, 6], segments[:, 7])[:, None] + edge
        low = (np.minimum(segments[:, :3], segments[:, 3:6]) - reach - origin) / step
        high = (np.maximum(segments[:, :3], segments[:, 3:6]) + reach - origin) / step
        starts = np.maximum(np.ceil(low), 0).astype(int)
        stops = np.minimum(np.floor(high) + 1, self.shape).astype(int)
        for row in np.flatnonzero((starts < stops).all(axis=1)):
            (i0, j0, k0), (i1, j1, k1) = starts[row].tolist(), stops[row].tolist()
            x0, y0, z0, x1, y1, z1, r0, r1 = segments[row].tolist()
            dx, dy, dz = x1 - x0, y1 - y0, z1 - z0
            length2 = max(dx * dx + dy * dy + dz * dz, 1e-9)
            qx, qy, qz = self.x[i0:i1] - x0, self.y[:, j0:j1] - y0, self.z[:, :, k0:k1] - z0
            along = qx * dx + qy * dy + qz * dz
            share = np.clip(along * (1 / length2), 0, 1)
            distance = qx * qx + qy * qy + qz * qz - share * (2 * along - share * length2)
            np.sqrt(np.maximum(distance, 0, out=distance), out=distance)
            distance -= r0 + (r1 - r0) * share
            thin = min(1.0, 2 * max(r0, r1) / edge)
            part = np.clip((0.5 - distance / edge) * thin, 0, 1)
            target = field[i0:i1, j0:j1, k0:k1]
            np.maximum(target, part, out=target)

    def ellipsoid(
        self, centre_mm: ArrayLike, radii_mm: ArrayLike, rotation: NDArray[np.float64] | None = None
    ) -> tuple[Box3, FloatArray] | None:
        """Sub-box and fractions of an ellipsoid; ``rotation`` has its axes as columns. None when off the grid."""
        centre, radii = np.asarray(centre_mm, dtype=np.float64), np.asarray(radii_mm, dtype=np.float64)
        turn = np.eye(3) if rotation is None else rotation
        reach = np.sqrt(((turn * radii) ** 2).sum(axis=1)) + self.edge_mm
        box = self.box(centre - reach, centre + reach)
        if box is None:
            return None
        return box, self.fraction(ellipsoid_distance(*self.axes_in(box), centre=centre, radii=radii, turn=turn))


def ellipsoid_distance(
    x: FloatArray, y: FloatArray, z: FloatArray, *, centre: ArrayLike, radii: ArrayLike, turn: NDArray[np.float64]
) -> FloatArray:
    """Signed distance in mm to an ellipsoid, exact on its surface and to first order near it (f / |grad f|)."""
    c, r = np.asarray(centre, dtype=np.float64), np.asarray(radii, dtype=np.float64)
    dx, dy, dz = x - np.float32(c[0]), y - np.float32(c[1]), z - np.float32(c[2])
    shape = np.broadcast_shapes(dx.shape, dy.shape, dz.shape)
    first, second = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    for axis in range(3):
        t = turn[:, axis]
        q = (dx * np.float32(t[0]) + dy * np.float32(t[1]) + dz * np.float32(t[2])) * np.float32(1 / r[axis])
        q *= q
        first += q
        second += q * np.float32(1 / r[axis] ** 2)
    level = np.sqrt(first)
    slope = np.sqrt(np.maximum(second, np.float32(1e-12)))
    return np.asarray(level * (level - np.float32(1)) / slope, dtype=np.float32)


def blend(image: FloatArray, fraction: FloatArray, value: FloatArray | float | np.floating[Any]) -> None:
    """Mix ``value`` into an image (or a view of it) by fraction, in place."""
    image += fraction * (value - image)


def smooth_maximum(a: FloatArray, b: FloatArray, radius_mm: float) -> FloatArray:
    """Maximum of two distances with the crease rounded to about ``radius_mm``."""
    difference = a - b
    difference *= difference
    difference += np.float32(radius_mm * radius_mm)
    np.sqrt(difference, out=difference)
    difference += a
    difference += b
    difference *= np.float32(0.5)
    return difference


def smooth_noise(
    rng: np.random.Generator, shape: Sequence[int], spacing_mm: Sequence[float], knot_mm: float
) -> FloatArray:
    """A random field of mean 0 and standard deviation about 1 that varies over ``knot_mm``: a cubic B-spline with
    normal coefficients."""
    weights = [_spline_weights(n, step / knot_mm) for n, step in zip(shape, spacing_mm, strict=True)]
    knots = rng.standard_normal([w.shape[1] for w in weights], dtype=np.float32)
    field = (weights[0] @ knots.reshape(knots.shape[0], -1)).reshape(shape[0], *knots.shape[1:])
    field = np.matmul(weights[1], field)
    field = field @ weights[2].T
    scale = np.prod([np.sqrt((w**2).sum(axis=1).mean()) for w in weights])
    return np.asarray(field / np.float32(scale), dtype=np.float32)


def _spline_weights(count: int, step_in_knots: float) -> FloatArray:
    """Cubic B-spline weights ``(count, knots)`` of samples at ``0, step, 2 step, ...``."""
    position = np.arange(count) * step_in_knots
    first = np.floor(position).astype(int)
    t = position - first
    basis = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    weights = np.zeros((count, first[-1] + 4), dtype=np.float32)
    for offset, values in enumerate(basis):
        weights[np.arange(count), first + offset] = values / 6
    return weights
