"""What surrounds one point of a volume, at a fixed field of view."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import MetaKeys
from numpy.typing import NDArray
from torch.nn import functional as F

AT = "at_lps_mm"
"""Key of the point (x, y, z) that a patch is taken around; the middle of the volume where an item has none."""
LARGEST_CROP_MM = 120.0
"""Only of a volume that is no longer along any axis is the middle taken: LIDC's crops have up to 75 mm, a chest more
than 200."""

_RAS_OF_LPS = np.diag([-1.0, -1.0, 1.0])


class NodulePatchd(MapTransform):  # type: ignore[misc]  # MONAI is not typed
    """The field around a point on a grid along the patient's axes, whatever the volume's orientation and spacing.

    Values are interpolated linearly; beyond the volume its last voxels are repeated.

    Args:
        keys: of volumes ``(i, j, k)`` or ``(1, i, j, k)``, ``MetaTensor``.
        size: pixels along each edge.
        field_mm: edge of the field, from the first pixel's outer face to the last one's.
        planes: axial planes for a 2D network, ``(planes, rows, columns)``; without them the patch is the cube
            ``(1, x, y, z)``, axes left, posterior and up.
        plane_mm: from one plane to the next.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        ValueError: a size, field or distance that is not above 0; when called, a volume that is no crop, without point.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        size: int,
        field_mm: float,
        planes: int | None = None,
        plane_mm: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if min(size, field_mm, plane_mm, 1 if planes is None else planes) <= 0:
            raise ValueError(
                f"NodulePatchd has size {size}, field_mm {field_mm}, planes {planes} and plane_mm {plane_mm}; expected "
                "numbers above 0."
            )
        self.size = size
        self.step_mm = field_mm / size
        self.planes = planes
        self.plane_mm = plane_mm

    @property
    def field_mm(self) -> tuple[float, float, float]:
        """What a patch shows, along x, y and z, from face to face."""
        edge = self.size * self.step_mm
        return edge, edge, edge if self.planes is None else self.planes * self.plane_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with a patch under each key, around the point under ``at_lps_mm``."""
        taken = dict(data)
        for key in self.key_iterator(taken):
            taken[key] = self._patch(taken[key], data.get(AT))
        return taken

    def _patch(self, volume: MetaTensor, at_lps_mm: Sequence[float] | None) -> MetaTensor:
        values = volume.as_tensor().float()
        values = values[None] if values.ndim == 3 else values
        if values.ndim != 4 or values.shape[0] != 1:
            raise ValueError(f"The volume has shape {tuple(volume.shape)}; expected one value a voxel of (i, j, k).")
        affine_lps = np.asarray(volume.affine.cpu(), np.float64).copy()
        affine_lps[:3] = _RAS_OF_LPS @ affine_lps[:3]
        shape = np.array(values.shape[1:])
        if at_lps_mm is None:
            longest_mm = float((np.linalg.norm(affine_lps[:3, :3], axis=0) * shape).max())
            if longest_mm > LARGEST_CROP_MM:
                raise ValueError(
                    f"The volume is {longest_mm:.0f} mm long and the item has no {AT!r}; only of a crop of at most "
                    f"{LARGEST_CROP_MM:g} mm is the middle taken. Give the place (x, y, z in LPS mm)."
                )
            centre = (affine_lps @ [*((shape - 1) / 2), 1.0])[:3]
        else:
            centre = np.asarray(at_lps_mm, np.float64)
        first, step, counts = self._grid(centre)
        axes = [first[axis] + step[axis] * np.arange(counts[axis]) for axis in range(3)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        index = (points - affine_lps[:3, 3]) @ np.linalg.inv(affine_lps[:3, :3]).T
        # grid_sample counts from -1 to 1 over the voxels' centres, last axis first.
        place = torch.from_numpy(2 * index / np.maximum(shape - 1, 1) - 1).float().flip(-1)
        cube = F.grid_sample(values[None], place[None], mode="bilinear", padding_mode="border", align_corners=True)[0]
        ras = np.eye(4)
        ras[:3, :3], ras[:3, 3] = _RAS_OF_LPS @ np.diag(step), _RAS_OF_LPS @ first
        # What tells where the volume came from stays: answers go back onto its grid.
        own = (MetaKeys.AFFINE, MetaKeys.ORIGINAL_CHANNEL_DIM)
        kept = {key: value for key, value in volume.meta.items() if key not in own}
        if self.planes is None:
            return MetaTensor(cube, affine=torch.from_numpy(ras), meta=kept)
        # (1, x, y, z) to planes x rows x columns; the affine is that of the plane, axes y and x.
        flat = np.array([[0, ras[0, 0], ras[0, 3]], [ras[1, 1], 0, ras[1, 3]], [0, 0, 1]])
        return MetaTensor(cube[0].permute(2, 1, 0).contiguous(), affine=torch.from_numpy(flat), meta=kept)

    def _grid(self, centre: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], list[int]]:
        """First point, step and number of points along left, posterior and up, in mm."""
        edge = self.size
        counts = [edge, edge, edge if self.planes is None else self.planes]
        step = np.array([self.step_mm, self.step_mm, self.step_mm if self.planes is None else self.plane_mm])
        return centre - step * (np.array(counts) - 1) / 2, step, counts
