"""Where nodules can be pasted: nodule-free lung of real studies, one side each, and drawn chests without nodules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mtnet.io.read import read_volume
from mtnet.phantoms import draw_chest
from mtnet.phantoms.baseline import lung_field
from mtnet.phantoms.canvas import FloatArray
from mtnet.phantoms.implant import along_lps, lung_room
from mtnet.sources import lung_pet_ct_dx
from mtnet.sources.layout import Problem, Problems
from mtnet.sources.manifest import Numbers, Split
from mtnet.structures import Geometry, RefusedError, Volume

Side = Literal["left", "right"]
TUMOUR_MARGIN_MM = 10.0
CLEAR_MM = 2.0
APART_MM = 8.0
_TRIES = 400
_MIDDLE = (0.3, 0.7)

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """A CT in whose lung there is room.

    Args:
        name: of study or chest.
        volume: ``(1, i, j, k)`` int16 in HU, axes along LPS.
        reach_mm: on ``room``, how far the next wall, large vessel or forbidden region is; 0 outside of the lung.
        room: a grid coarser than the volume's.
        excluded_boxes: half-open boxes in index space of what is in the image and is not asked for.
    """

    name: str
    volume: Volume
    reach_mm: FloatArray
    room: Geometry
    excluded_boxes: tuple[Numbers, ...] = ()

    def place(
        self, radius_mm: float, taken: list[tuple[Points, float]], rng: np.random.Generator
    ) -> NDArray[np.float64] | None:
        """A random place in LPS mm with room for a ball, away from other balls; None where none is found."""
        candidates = np.argwhere(self.reach_mm > radius_mm + CLEAR_MM)
        if not len(candidates):
            return None
        picks = candidates[rng.integers(0, len(candidates), _TRIES)] + rng.uniform(-0.5, 0.5, (_TRIES, 3))
        places = self.room.index_to_lps_mm(picks)
        for other, other_mm in taken:
            places = places[np.linalg.norm(places - other, axis=1) > radius_mm + other_mm + APART_MM]
        return np.asarray(places[0]) if len(places) else None


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """A whole real study, axes along LPS, its lesions as boxes in LPS mm, and the plane between its lungs."""

    name: str
    volume: Volume
    boxes_lps_mm: tuple[Numbers, ...]
    middle_mm: float
    reach_mm: FloatArray
    room: Geometry

    def ground(self, split: Split) -> Ground:
        """What of it a split may see.

        The test split sees the whole study and has its nodules in the right lung; what the study shows itself is
        excluded by cubes, whose balls hold the boxes. The others have the left side alone, cut off between the lungs,
        and of that the longest part without a lesion, so that nothing they see is tested on.
        """
        side: Side = "right" if split == "test" else "left"
        centres = self.room.index_to_lps_mm(np.moveaxis(np.indices(self.room.shape), 0, -1))
        past = (centres[..., 0] - self.middle_mm) * (1 if side == "left" else -1)
        reach = np.minimum(self.reach_mm, past)
        for box in self.boxes_lps_mm:
            low, high = np.array(box[:3]), np.array(box[3:])
            outside = np.maximum(np.maximum(low - centres, centres - high), 0)
            reach = np.minimum(reach, np.linalg.norm(outside, axis=-1) - TUMOUR_MARGIN_MM)
        if side == "right":
            cubes = tuple(_cube(self.volume.geometry, box) for box in self.boxes_lps_mm)
            return Ground(self.name, self.volume, np.maximum(reach, 0).astype(np.float32), self.room, cubes)
        low_mm, high_mm = self._free_heights()
        reach = np.minimum(reach, np.minimum(centres[..., 2] - low_mm, high_mm - centres[..., 2]))
        volume = self._cut(low_mm, high_mm)
        return Ground(self.name, volume, np.maximum(reach, 0).astype(np.float32), self.room)

    def _free_heights(self) -> tuple[float, float]:
        """The longest range along the patient without a lesion on the left side."""
        grid = self.volume.geometry
        ends = grid.box_index_to_lps_mm([-0.5] * 3 + [n - 0.5 for n in grid.shape])
        left = sorted((box[2], box[5]) for box in self.boxes_lps_mm if box[3] > self.middle_mm)
        free, bottom = [], float(ends[2])
        for low, high in left:
            free.append((bottom, low))
            bottom = max(bottom, high)
        free.append((bottom, float(ends[5])))
        return max(free, key=lambda span: span[1] - span[0])

    def _cut(self, low_mm: float, high_mm: float) -> Volume:
        """The left side between two heights."""
        grid = self.volume.geometry
        corner = grid.lps_mm_to_index([self.middle_mm, grid.origin_lps_mm[1], low_mm])
        top = grid.lps_mm_to_index([self.middle_mm, grid.origin_lps_mm[1], high_mm])
        i, k = (max(int(np.ceil(corner[axis])), 0) for axis in (0, 2))
        end = min(int(np.floor(top[2])) + 1, grid.shape[2])
        array = np.ascontiguousarray(self.volume.array[:, i:, :, k:end])
        affine = grid.affine_lps.copy()
        affine[:3, 3] = grid.index_to_lps_mm([i, 0, k])
        return Volume(array, Geometry(array.shape[1:], affine), "CT")


def real_studies(root: Path, problems: Problems) -> list[Study]:
    """The annotated series of a set in the layout of ``lung_pet_ct_dx``.

    A series that cannot be read, is oblique or shows no two lungs goes to ``problems``.

    Raises:
        FileNotFoundError: there is no such set.
    """
    studies = []
    for number, draft in enumerate(lung_pet_ct_dx.read(root, problems).drafts):
        patient, _, series_uid = draft.name.rpartition("_")
        try:
            array, grid = along_lps(read_volume(draft.image, series_uid=series_uid).volume)
        except (RefusedError, ValueError) as error:
            problems.append(Problem(draft.image, f"no ground to paste on: {error}"))
            continue
        volume = Volume(np.ascontiguousarray(array, dtype=np.int16)[None], grid, "CT")
        middle_mm = _between_lungs(volume)
        if middle_mm is None:
            problems.append(Problem(draft.image, "no ground to paste on: it does not show two lungs"))
            continue
        reach, room = lung_room(volume)
        studies.append(Study(f"{patient}_{number}", volume, draft.boxes_lps_mm or (), middle_mm, reach, room))
    return studies


def drawn_ground(seed: int, split: Split, spacing_mm: tuple[float, float, float]) -> Ground:
    """A drawn chest without nodules; those to train on are of another family than those that validate and test."""
    chest = draw_chest(seed, family="train" if split == "train" else "held_out", spacing_mm=spacing_mm, nodules=0)
    reach, room = lung_room(chest.volume)
    return Ground(f"drawn_{seed}", chest.volume, reach, room)


def _between_lungs(volume: Volume) -> float | None:
    """The LPS x of the sagittal plane between two lungs that holds the least lung."""
    columns = np.asarray(lung_field(volume, close_mm=4.0).sum(axis=(1, 2)), dtype=np.float64)
    if not columns.any():
        return None
    share = np.cumsum(columns) / columns.sum()
    inner = np.flatnonzero((share > _MIDDLE[0]) & (share < _MIDDLE[1]))
    smooth = ndimage.uniform_filter1d(columns, 5)
    index = inner[smooth[inner].argmin()] if len(inner) else 0
    if not len(inner) or smooth[index] > 0.5 * smooth.max():
        return None
    return float(volume.geometry.index_to_lps_mm([index, 0, 0])[0])


def _cube(geometry: Geometry, box_lps_mm: Numbers) -> Numbers:
    low, high = np.array(box_lps_mm[:3]), np.array(box_lps_mm[3:])
    half = np.linalg.norm(high - low) / 2
    middle = geometry.lps_mm_to_index((low + high) / 2)
    reach = half / np.asarray(geometry.spacing_mm)
    return tuple(round(float(v), 4) for v in np.concatenate([middle - reach, middle + reach]))
