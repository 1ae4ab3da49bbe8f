"""The grid of an image in the patient: its shape and the exact map from voxel index to world millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

_LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Shape and voxel-to-world map of a 3D grid.

    Index order is ``(i, j, k)``: column, row, slice. A voxel's centre has integer indices; the voxel covers
    ``[i - 0.5, i + 0.5)``. The world frame is DICOM's LPS in millimetres (PS3.3 C.7.6.2.1.1); ``affine_ras`` is the
    same map for NIfTI and MONAI.

    Args:
        shape: voxels along i, j and k, each at least 1.
        affine_lps: 4 x 4 matrix from ``(i, j, k, 1)`` to LPS millimetres, invertible, last row ``0 0 0 1``.

    Raises:
        ValueError: a field is not what is described above.
    """

    shape: tuple[int, int, int]
    affine_lps: FloatArray

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"Geometry.shape is {self.shape!r}; expected three positive sizes (i, j, k).")
        affine = np.array(self.affine_lps, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise ValueError(
                f"Geometry.affine_lps has shape {affine.shape} and must be a finite 4 x 4 matrix: {affine.tolist()}."
            )
        if not np.array_equal(affine[3], [0.0, 0.0, 0.0, 1.0]):
            raise ValueError(f"Geometry.affine_lps has last row {affine[3].tolist()}; expected [0, 0, 0, 1].")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise ValueError(
                "Geometry.affine_lps is not invertible: two voxel axes are parallel, or a spacing is zero "
                f"({affine[:3, :3].tolist()})."
            )
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine_lps", affine)

    @classmethod
    def from_parts(
        cls,
        shape: Sequence[int],
        spacing_mm: Sequence[float],
        origin_lps_mm: Sequence[float] = (0.0, 0.0, 0.0),
        direction_lps: ArrayLike | None = None,
    ) -> Geometry:
        """Build from spacing (mm), the centre of voxel (0, 0, 0) and direction cosines (columns: i, j, k axes)."""
        affine = np.eye(4)
        direction = np.eye(3) if direction_lps is None else np.asarray(direction_lps, dtype=np.float64).reshape(3, 3)
        affine[:3, :3] = direction * np.asarray(spacing_mm, dtype=np.float64)
        affine[:3, 3] = origin_lps_mm
        return cls((int(shape[0]), int(shape[1]), int(shape[2])), affine)

    @classmethod
    def from_ras(cls, shape: Sequence[int], affine_ras: ArrayLike) -> Geometry:
        """Build from a RAS+ affine, as NIfTI and MONAI hold it."""
        affine = _LPS_RAS @ np.asarray(affine_ras, dtype=np.float64)
        return cls((int(shape[0]), int(shape[1]), int(shape[2])), affine)

    @property
    def affine_ras(self) -> FloatArray:
        """4 x 4 map from voxel index to RAS+ millimetres."""
        return np.asarray(_LPS_RAS @ self.affine_lps)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Length of one step along i, j and k, in mm."""
        steps = np.linalg.norm(self.affine_lps[:3, :3], axis=0)
        return float(steps[0]), float(steps[1]), float(steps[2])

    @property
    def direction_lps(self) -> FloatArray:
        """3 x 3 unit vectors of the i, j and k axes in LPS, as columns. Not orthogonal when the grid is sheared."""
        return np.asarray(self.affine_lps[:3, :3] / np.asarray(self.spacing_mm))

    @property
    def origin_lps_mm(self) -> tuple[float, float, float]:
        """Centre of voxel (0, 0, 0) in LPS mm."""
        x, y, z = self.affine_lps[:3, 3]
        return float(x), float(y), float(z)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm³, shear included."""
        return float(abs(np.linalg.det(self.affine_lps[:3, :3])))

    def is_orthogonal(self, tolerance: float = 1e-4) -> bool:
        """Whether the three axes are at right angles, to ``tolerance`` in cosine."""
        cosines = self.direction_lps.T @ self.direction_lps
        return bool(np.abs(cosines - np.eye(3)).max() <= tolerance)

    def index_to_lps_mm(self, points_index: ArrayLike) -> FloatArray:
        """Map points ``(..., 3)`` in (continuous) voxel indices to LPS mm."""
        points = np.asarray(points_index, dtype=np.float64)
        return points @ self.affine_lps[:3, :3].T + self.affine_lps[:3, 3]

    def lps_mm_to_index(self, points_lps_mm: ArrayLike) -> FloatArray:
        """Map points ``(..., 3)`` in LPS mm to continuous voxel indices."""
        points = np.asarray(points_lps_mm, dtype=np.float64)
        offsets = (points - self.affine_lps[:3, 3]).reshape(-1, 3)
        return np.asarray(np.linalg.solve(self.affine_lps[:3, :3], offsets.T).T.reshape(points.shape))

    def box_index_to_lps_mm(self, box_index: ArrayLike) -> FloatArray:
        """Bounding box in LPS mm of a half-open box ``(..., 6)`` in index space.

        Both are ``(low_0, low_1, low_2, high_0, high_1, high_2)``. Exact where the axes run along the patient's; on an
        oblique grid it is the smallest LPS-aligned box that holds the eight corners.
        """
        box = np.asarray(box_index, dtype=np.float64)
        corners = _box_corners(box)
        world = self.index_to_lps_mm(corners)
        return np.concatenate([world.min(axis=-2), world.max(axis=-2)], axis=-1)

    def box_index_to(self, other: Geometry, box_index: ArrayLike) -> FloatArray:
        """Carry half-open boxes ``(..., 6)`` from this grid's index space to that of ``other``, through world mm.

        Exact where the axes of both grids agree up to order and sign; else the smallest aligned box in ``other``.
        """
        corners = _box_corners(np.asarray(box_index, dtype=np.float64))
        moved = other.lps_mm_to_index(self.index_to_lps_mm(corners))
        return np.concatenate([moved.min(axis=-2), moved.max(axis=-2)], axis=-1)

    def index_map_to(self, other: Geometry) -> FloatArray:
        """4 x 4 map from this grid's voxel index to the continuous index of ``other`` at the same world point."""
        return np.asarray(np.linalg.solve(other.affine_lps, self.affine_lps), dtype=np.float64)

    def almost_equal(self, other: Geometry, tolerance_mm: float = 1e-3) -> bool:
        """Whether both have one shape and no voxel centre is more than ``tolerance_mm`` apart."""
        if self.shape != other.shape:
            return False
        last = np.asarray(self.shape, dtype=np.float64) - 1
        corners = _box_corners(np.concatenate([np.zeros(3), last]))
        return bool(np.abs(self.index_to_lps_mm(corners) - other.index_to_lps_mm(corners)).max() <= tolerance_mm)


def _box_corners(box: FloatArray) -> FloatArray:
    """The eight corners ``(..., 8, 3)`` of boxes ``(..., 6)``. A half-open bound is the face itself in index space."""
    if box.shape[-1] != 6:
        raise ValueError(f"box_index has last dimension {box.shape[-1]}; expected 6 (three lows, then three highs).")
    low, high = box[..., :3], box[..., 3:]
    pick = np.array([[(n >> axis) & 1 for axis in range(3)] for n in range(8)], dtype=np.float64)
    return low[..., None, :] * (1 - pick) + high[..., None, :] * pick
