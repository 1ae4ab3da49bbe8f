"""A volume and its masks on a grid that fits into a page, and the NIfTI that the page holds of them."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.results.axial_view import AxialView
from mtnet.structures import Geometry

_CHUNK = 32
_LOW, _HIGH = slice(0, 3), slice(3, 6)


@dataclass(frozen=True, slots=True, eq=False)
class PageGrid:
    """A source grid put in the order left to right, back to front, bottom to top (RAS+), and made coarser.

    Nothing is turned by less than a quarter: on an oblique grid the axes stay the scanner's. On an axis that goes from
    ``n`` to ``m`` voxels, voxel ``q`` covers ``[q * n / m, (q + 1) * n / m)`` of the source's.

    Args:
        view: the source grid in view order.
        shape: voxels along x, y, z of the page.
    """

    view: AxialView
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, geometry: Geometry, most_voxels: int) -> PageGrid:
        """The finest grid of at most ``most_voxels`` whose voxels are as near to cubes as coarsening makes them."""
        view = AxialView.of(geometry)
        finest, coarsest = min(view.spacing_mm), max(view.spacing_mm) * max(view.shape)
        if _voxels(_coarsened(view, finest)) > most_voxels:
            for _ in range(60):
                middle = (finest + coarsest) / 2
                if _voxels(_coarsened(view, middle)) > most_voxels:
                    finest = middle
                else:
                    coarsest = middle
            return cls(view, _coarsened(view, coarsest))
        return cls(view, _coarsened(view, finest))

    @property
    def affine_ras(self) -> NDArray[np.float64]:
        """4 x 4 map from page voxel to RAS+ millimetres."""
        source = [self._source_lps_mm(corner) for corner in np.vstack([np.zeros(3), np.eye(3)])]
        affine = np.eye(4)
        affine[:3, 3] = source[0]
        affine[:3, :3] = np.array([point - source[0] for point in source[1:]]).T
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Along x, y, z of the page."""
        x, y, z = (s * n / m for s, n, m in zip(self.view.spacing_mm, self.view.shape, self.shape, strict=True))
        return x, y, z

    def turned(self, values: NDArray[Any]) -> NDArray[Any]:
        """``(i, j, k)`` values in the page's order, at the source's fineness; a view, no copy."""
        turned: NDArray[Any] = self.view.array(values)[::-1, ::-1]
        return turned

    def box(self, box_index: Sequence[float]) -> NDArray[np.float64]:
        """A half-open box in voxel indices as one in page voxels."""
        box = self.view.box(tuple(box_index))
        source, page = np.array(self.view.shape), np.array(self.shape)
        low, high = box[_LOW].copy(), box[_HIGH].copy()
        low[:2], high[:2] = source[:2] - 1 - box[3:5], source[:2] - 1 - box[0:2]
        return np.concatenate([(side + 0.5) * page / source - 0.5 for side in (low, high)])

    def point(self, point_index: Sequence[float]) -> NDArray[np.float64]:
        """A point in voxel indices as one in page voxels."""
        return self.box((*point_index, *point_index))[_LOW]

    def source_slice(self, z: int) -> int:
        """The voxel index, along its own axis, of the source's slice that lies nearest to the page's slice ``z``."""
        place = (z + 0.5) * self.view.shape[2] / self.shape[2] - 0.5
        return self.view.source_slice(int(np.clip(round(place), 0, self.view.shape[2] - 1)))

    def height_mm(self, z: int) -> float:
        """LPS z, in mm, of the centre of the page's slice ``z``."""
        middle = (np.array(self.shape) - 1) / 2
        return float(self._source_lps_mm(np.array([middle[0], middle[1], z]))[2])

    def coarser(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Values in the page's order on the page's grid: the mean over what each voxel covers."""
        x, y, z = (_shares(n, m) for n, m in zip(self.view.shape, self.shape, strict=True))
        # A few slices at a time: the whole volume in float32 would take several times its memory.
        blocks = [
            _along(_along(values[:, :, k : k + _CHUNK].astype(np.float32), 0, x), 1, y)
            for k in range(0, values.shape[2], _CHUNK)
        ]
        return _along(np.concatenate(blocks, axis=2), 2, z)

    def share(self, mask: NDArray[np.bool_], where: tuple[slice, ...]) -> tuple[NDArray[np.float32], tuple[slice, ...]]:
        """How much of each page voxel a mask covers, and the block of the page that it reaches.

        Args:
            mask: in the page's order, the part ``where`` of it alone.
            where: a block of voxels of the source in the page's order.
        """
        values, block = mask.astype(np.float32), []
        for axis, part in enumerate(where):
            n, m = self.view.shape[axis], self.shape[axis]
            first, last = part.start * m // n, -(-part.stop * m // n)
            values = _along(values, axis, _shares(n, m)[first:last, part.start : part.stop])
            block.append(slice(first, last))
        return values, tuple(block)

    def nifti(self, values: NDArray[np.uint8], slope: float = 1.0, intercept: float = 0.0) -> bytes:
        """Page voxels as a gzipped NIfTI-1, at their place in the patient."""
        return packed_nifti(values, self.affine_ras, slope, intercept)

    def _source_lps_mm(self, page: NDArray[np.float64]) -> NDArray[np.float64]:
        view = (page + 0.5) * np.array(self.view.shape) / np.array(self.shape) - 0.5
        last = np.array(self.view.shape) - 1
        view[:2] = last[:2] - view[:2]
        index = np.zeros(3)
        index[list(self.view.order)] = np.where(self.view.flips, last - view, view)
        return self.view.geometry.index_to_lps_mm(index)


def packed_nifti(
    values: NDArray[np.uint8], affine_ras: NDArray[np.float64], slope: float = 1.0, intercept: float = 0.0
) -> bytes:
    """A gzipped NIfTI-1; its header tells size, place and the values' scale, and nothing else."""
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_shape(values.shape)
    header.set_data_dtype(np.uint8)
    header.set_xyzt_units("mm")
    header.set_sform(affine_ras, code=1)
    header.set_zooms(np.linalg.norm(affine_ras[:3, :3], axis=0))
    header.set_slope_inter(slope, intercept)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return gzip.compress(header.binaryblock + bytes(4) + values.tobytes(order="F"), 6, mtime=0)


def _voxels(shape: tuple[int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2]


def _coarsened(view: AxialView, spacing_mm: float) -> tuple[int, int, int]:
    """The shape with no voxel side below ``spacing_mm``, as far as whole numbers of voxels allow."""
    x, y, z = (
        n if side >= spacing_mm else max(1, int(n * side / spacing_mm))
        for n, side in zip(view.shape, view.spacing_mm, strict=True)
    )
    return x, y, z


def _shares(n: int, m: int) -> Any:
    """``(m, n)`` sparse: what part of each of ``m`` coarse cells each of ``n`` fine ones is."""
    from scipy import sparse

    if n == m:
        return sparse.identity(n, dtype=np.float32, format="csr")
    edges = np.arange(m + 1) * n / m
    rows, columns, parts = [], [], []
    for row, (low, high) in enumerate(pairwise(edges.tolist())):
        for column in range(int(low), min(int(np.ceil(high)), n)):
            part = min(high, column + 1) - max(low, column)
            if part > 0:
                rows.append(row)
                columns.append(column)
                parts.append(part * m / n)
    return sparse.csr_matrix((np.array(parts, np.float32), (rows, columns)), shape=(m, n))


def _along(values: NDArray[np.float32], axis: int, shares: Any) -> NDArray[np.float32]:
    """Apply a sparse matrix along one axis."""
    moved = np.moveaxis(values, axis, 0)
    made = shares @ np.ascontiguousarray(moved).reshape(moved.shape[0], -1)
    return np.moveaxis(np.asarray(made, dtype=np.float32).reshape(-1, *moved.shape[1:]), 0, axis)
