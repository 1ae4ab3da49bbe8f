"""From voxels of the target grid to places in the image grid: one small table an axis where the grids are aligned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtnet.structures import Geometry

ALIGNED_TOLERANCE_VOXELS = 1e-3
"""Grids count as aligned when treating them so moves no voxel centre by more than this, in image voxels."""

SNAP_TOLERANCE_VOXELS = 1e-5
"""Coordinates this near to whole numbers are whole: what is left of inverting an affine in float64."""

REACH_VOXELS = 0.5 + 1e-3
"""How far a target voxel's centre may lie beyond the outermost image voxel's centre and still have an answer: the
image ends half a voxel beyond, and resampled images are rounded to whole voxels."""


@dataclass(frozen=True, slots=True, eq=False)
class AxisTable:
    """Linear interpolation along one image axis, for the target voxels from ``first`` to ``first + len - 1``.

    ``lower``, ``upper`` and ``weight`` (of the upper one) are cells of a dense map; ``nearest`` is the image voxel that
    decides whether the target voxel lies in the region.
    """

    first: int
    lower: NDArray[np.int64]
    upper: NDArray[np.int64]
    weight: NDArray[np.float32]
    nearest: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lower)

    @property
    def copies(self) -> bool:
        """Whether each target voxel is one whole cell, so that nothing is interpolated."""
        return bool((self.weight == 0).all())

    @property
    def is_slice(self) -> bool:
        """Whether the target voxels are consecutive cells in order."""
        return self.copies and bool((np.diff(self.lower) == 1).all())


@dataclass(frozen=True, slots=True, eq=False)
class TargetMap:
    """Where the target grid lies in the image grid: ``image index = matrix @ target index + offset``.

    Args:
        shape: of the target.
        matrix: ``(D, D)``.
        offset: ``(D,)``.
        axes: for each target axis, the image axis that runs nearest along it.
        aligned: whether each target axis runs along its image axis exactly, in either direction.
    """

    shape: tuple[int, ...]
    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    axes: tuple[int, ...]
    aligned: bool

    @property
    def slab_axis(self) -> int:
        """Image axis nearest to the target's slice axis (its last one)."""
        return self.axes[-1]

    @classmethod
    def between(cls, grid: Geometry | None, target: Geometry | None, valid_shape: Sequence[int]) -> TargetMap:
        """The map from ``target`` to the image on ``grid``; to the valid image itself where ``target`` is None.

        Raises:
            ValueError: a 2D image whose grids have more than one voxel along k.
        """
        dims = len(valid_shape)
        if grid is None or target is None:
            return cls(tuple(valid_shape), np.eye(dims), np.zeros(dims), tuple(range(dims)), True)
        if any(n != 1 for n in target.shape[dims:]):
            raise ValueError(f"Plan.target has shape {target.shape}; a 2D image needs one with a single voxel along k.")
        full = target.index_map_to(grid)
        matrix, offset = full[:dims, :dims], full[:dims, 3]
        axes = _nearest_axes(grid, target, dims)
        extent = np.asarray(target.shape[:dims], dtype=np.float64) - 1
        along = np.zeros((dims, dims), dtype=bool)
        along[list(axes), range(dims)] = True
        strayed = float((np.abs(np.where(along, 0.0, matrix)) @ extent).max())
        return cls(target.shape[:dims], matrix, offset, axes, strayed <= ALIGNED_TOLERANCE_VOXELS)

    def interpolates(self, valid_shape: Sequence[int]) -> bool:
        """Whether stride-1 values have to be interpolated to reach the target."""
        return not self.aligned or not all(t.copies for t in self.tables(valid_shape, 1))

    def tables(self, valid_shape: Sequence[int], stride: int) -> tuple[AxisTable, ...]:
        """For each target axis of an aligned map, its table into a dense map of ``stride``."""
        return tuple(
            _table(
                self.matrix[image_axis, axis] * np.arange(self.shape[axis]) + self.offset[image_axis],
                valid_shape[image_axis],
                stride,
            )
            for axis, image_axis in enumerate(self.axes)
        )


def _nearest_axes(grid: Geometry, target: Geometry, dims: int) -> tuple[int, ...]:
    """One image axis for each target axis, each used once, nearest in direction; the slice axis chooses first."""
    cosines = np.abs(np.linalg.solve(grid.direction_lps, target.direction_lps))[:dims, :dims]
    axes = [-1] * dims
    for axis in reversed(range(dims)):
        free = [a for a in range(dims) if a not in axes]
        axes[axis] = max(free, key=lambda a: (cosines[a, axis], a == axis))
    return tuple(axes)


def _table(x: NDArray[np.float64], size: int, stride: int) -> AxisTable:
    """The table of target voxels at image coordinates ``x`` along an axis of ``size`` valid voxels."""
    whole = np.round(x)
    if np.abs(x - whole).max() <= SNAP_TOLERANCE_VOXELS:
        x = whole
    reached = np.nonzero(np.abs(x - np.clip(x, 0, size - 1)) <= REACH_VOXELS)[0]
    first = int(reached[0]) if len(reached) else 0
    x = np.clip(x[reached], 0, size - 1)
    lower, upper, weight = cells_about(x, size, stride)
    # Half way between two voxels rounding noise must not decide: it is the upper one.
    nearest = np.floor(x + 0.5 + SNAP_TOLERANCE_VOXELS).astype(np.int64).clip(0, size - 1)
    return AxisTable(first, lower, upper, weight, nearest)


def cells_about(
    x: NDArray[np.float64], size: int, stride: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Cells of a stride-``stride`` map on both sides of image coordinates ``x``, and the weight of the upper one.

    Beyond the centre of the outermost cell that holds a valid voxel, that cell's value goes on.
    """
    cells = -(-size // stride)
    u = np.clip((x + 0.5) / stride - 0.5, 0, cells - 1)
    lower = np.floor(u).astype(np.int64)
    return lower, np.minimum(lower + 1, cells - 1), (u - lower).astype(np.float32)
