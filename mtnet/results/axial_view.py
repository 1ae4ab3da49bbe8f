"""A volume as a radiologist looks at it: axial slices, the patient's right on the left, front up, whatever the grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.structures import Geometry

# A direction is named by every patient axis that takes at least this share of it (cosine): "A", or "AR" when oblique.
_NAMED_COSINE = 0.35


@dataclass(frozen=True, slots=True, eq=False)
class AxialView:
    """A grid with its axes put in the order right to left, front to back, bottom to top, without interpolation.

    Args:
        order: for each view axis (x, y, z) the voxel axis that lies nearest to it.
        flips: for each view axis whether it runs against that voxel axis.
        shape: voxels along x, y, z.
        spacing_mm: along x, y, z.
        directions_lps: 3 x 3, columns are the view axes in LPS.
    """

    geometry: Geometry
    order: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    directions_lps: NDArray[np.float64]

    @classmethod
    def of(cls, geometry: Geometry) -> AxialView:
        """The view of a grid; on an oblique grid the voxel axes nearest to the patient's are taken."""
        from itertools import permutations

        directions = geometry.direction_lps
        order = max(permutations(range(3)), key=lambda p: sum(abs(directions[axis, p[axis]]) for axis in range(3)))
        flips = [bool(directions[axis, order[axis]] < 0) for axis in range(3)]
        signs = np.where(flips, -1.0, 1.0)
        return cls(
            geometry,
            (order[0], order[1], order[2]),
            (flips[0], flips[1], flips[2]),
            (geometry.shape[order[0]], geometry.shape[order[1]], geometry.shape[order[2]]),
            (geometry.spacing_mm[order[0]], geometry.spacing_mm[order[1]], geometry.spacing_mm[order[2]]),
            directions[:, list(order)] * signs,
        )

    def array(self, values: NDArray[Any]) -> NDArray[Any]:
        """``(i, j, k)`` values as a view ``(x, y, z)``."""
        turned = np.transpose(values, self.order)
        x, y, z = (slice(None, None, -1) if flip else slice(None) for flip in self.flips)
        return turned[x, y, z]

    def box(self, box_index: tuple[float, ...]) -> NDArray[np.float64]:
        """A half-open box in voxel indices as one in view indices: low x, y, z, high x, y, z."""
        box = np.asarray(box_index, dtype=np.float64).reshape(2, 3)[:, list(self.order)]
        turned = np.where(self.flips, np.array(self.shape) - 1 - box, box)
        return np.concatenate([turned.min(axis=0), turned.max(axis=0)])

    def centre_lps_mm(self, z: int) -> NDArray[np.float64]:
        """LPS mm of the centre of slice ``z``."""
        view = np.array([(self.shape[0] - 1) / 2, (self.shape[1] - 1) / 2, z])
        turned = np.where(self.flips, np.array(self.shape) - 1 - view, view)
        index = np.zeros(3)
        index[list(self.order)] = turned
        return self.geometry.index_to_lps_mm(index)

    def source_slice(self, z: int) -> int:
        """The voxel index, along its own axis, of slice ``z``."""
        return self.shape[2] - 1 - z if self.flips[2] else z

    def letters(self) -> dict[str, str]:
        """What the sides of a slice show: ``left``, ``right``, ``top``, ``bottom`` to letters of R, L, A, P, H, F."""
        x, y = self.directions_lps[:, 0], self.directions_lps[:, 1]
        return {"left": _side(-x), "right": _side(x), "top": _side(-y), "bottom": _side(y)}


def _side(direction: NDArray[np.float64]) -> str:
    """Letters of a direction in LPS, the largest part first (PS3.3 C.7.6.1.1.1, Patient Orientation)."""
    names = [("R", "L"), ("A", "P"), ("F", "H")]
    axes = sorted(range(3), key=lambda axis: -abs(direction[axis]))
    return "".join(names[axis][int(direction[axis] > 0)] for axis in axes if abs(direction[axis]) >= _NAMED_COSINE)
