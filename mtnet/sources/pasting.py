"""Pasting a piece of one CT into another: resampled as a scanner would have seen it, feathered, its lung and its noise
made like those around it.

Sizes are our choices; what they look like is what they were chosen by.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mtnet.phantoms.canvas import FloatArray
from mtnet.structures import Geometry, Volume

FULL_MM, END_MM = 1.0, 3.0
"""The weight of what is pasted is 1 up to so far outside of its mask, and 0 from so far on."""
BRIGHT_HU, BRIGHT_END_MM = -500.0, 1.2
"""Around the mask, vessels and chest wall, which would end at the seam, are let go sooner than lung."""
SAMPLE_MM = 1.0
"""A voxel that is longer is the mean of several samples."""
AERATED_HU = (-1000.0, -650.0)
TISSUE_HU = 0.0
USUAL_LUNG_HU = -860.0
_FEWEST_VOXELS = 60
_BLURS_PX = (0.0, 0.35, 0.5, 0.65, 0.8, 1.0, 1.3)
_GRAIN_PX = 0.6
_LOUDER = 1.15

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """What is pasted, on the grid that it was cut from.

    Args:
        hu: ``(i, j, k)`` float32.
        weight: of the same shape, 0..1, 0 on the outermost voxels.
        mask: what is a nodule; nothing of a healthy piece.
        geometry: of them all.
        centre_lps_mm: what comes to the place where it is pasted.
        radius_mm: of a ball around the centre that holds all that has full weight.
    """

    hu: FloatArray
    weight: FloatArray
    mask: NDArray[np.bool_]
    geometry: Geometry
    centre_lps_mm: Points
    radius_mm: float


def piece_of(image: Volume, shape: NDArray[np.bool_], *, nodule: bool) -> Piece:
    """Cut a piece from a CT.

    Where the image ends at the shape, as LIDC's crops often do along k, the piece ends half a voxel farther: nobody
    knows what lies beyond.

    Args:
        image: ``(1, i, j, k)`` in HU.
        shape: ``(i, j, k)``, not empty; the piece is feathered around it.
        nodule: whether the shape is that of a nodule, or of healthy tissue.
    """
    hu = np.pad(image.array[0].astype(np.float32), 1, mode="edge")
    inside = np.pad(shape, 1)
    corner = image.geometry.index_to_lps_mm([-1, -1, -1])
    affine = image.geometry.affine_lps.copy()
    affine[:3, 3] = corner
    geometry = Geometry(hu.shape, affine)
    away = np.asarray(ndimage.distance_transform_edt(~inside, sampling=geometry.spacing_mm))
    soft, bright = (_falling(away, FULL_MM, END_MM), _falling(away, 0.0, BRIGHT_END_MM))
    weight = np.where(inside | (hu <= BRIGHT_HU), soft, bright).astype(np.float32)
    known = np.zeros(hu.shape, dtype=np.bool_)
    known[1:-1, 1:-1, 1:-1] = True
    weight[~known] = 0.0
    places = geometry.index_to_lps_mm(np.argwhere(inside))
    centre = places.mean(axis=0)
    radius = float(np.linalg.norm(places - centre, axis=1).max()) + min(geometry.spacing_mm) / 2
    return Piece(hu, weight, inside if nodule else np.zeros_like(inside), geometry, centre, radius)


def paste(image: FloatArray, geometry: Geometry, piece: Piece, place_lps_mm: Points, turn: Points, seed: int) -> None:
    """Paste a piece, in place: ``new = old (1 - W) + V``, W and V the means of weight and weighted piece over a voxel.

    The aerated lung of the piece is shifted to that around the place, in proportion to the air in each voxel, so that
    soft tissue keeps its HU. A piece with more noise than its new surroundings is blurred in the plane; what noise is
    missing, in the seam too, is added.

    Args:
        image: ``(i, j, k)`` float32 in HU, index axes along LPS.
        geometry: its grid.
        piece: to paste.
        place_lps_mm: where the piece's centre comes to.
        turn: 3 x 3 rotation or reflection of the piece about its centre.
        seed: of the noise.
    """
    window = _window(geometry, place_lps_mm, piece.radius_mm + END_MM + max(geometry.spacing_mm) + 4.0)
    old = image[window]
    weight = _seen(piece.weight, piece, geometry, window, place_lps_mm, turn)
    known = _seen(_known(piece), piece, geometry, window, place_lps_mm, turn) > 0.99
    plain = _seen(piece.hu, piece, geometry, window, place_lps_mm, turn)
    quiet = known & (weight == 0) if (known & (weight == 0)).sum() > _FEWEST_VOXELS else known
    lung_here, lung_there = _lung_hu(old, np.ones_like(known)), _lung_hu(plain, quiet)
    air = np.clip((TISSUE_HU - piece.hu) / (TISSUE_HU - lung_there), 0, 1)
    moved = piece.hu + (lung_here - lung_there) * air
    value = _seen(piece.weight * moved, piece, geometry, window, place_lps_mm, turn)

    wanted = grain_hu(old, np.ones_like(known))
    for blur_px in _BLURS_PX:
        had = grain_hu(_blurred(plain, blur_px), known)
        if had <= _LOUDER * wanted:
            break
    weight, value = _blurred(weight, blur_px), _blurred(value, blur_px)
    missing = wanted**2 - ((1 - weight) ** 2 * wanted**2 + weight**2 * had**2)
    noise = _blurred(np.random.default_rng(seed).standard_normal(old.shape, dtype=np.float32), _GRAIN_PX)
    grain = np.sqrt(np.maximum(missing, 0)) * noise / max(float(noise.std()), 1e-6)
    image[window] = old * (1 - weight) + value + np.where(weight > 0, grain, 0)


def pasted_mask(
    geometry: Geometry, piece: Piece, place_lps_mm: Points, turn: Points
) -> tuple[tuple[slice, slice, slice], NDArray[np.bool_]]:
    """Where a piece's nodule lies when pasted: a window of the grid, and in it the voxels whose centre is inside."""
    window = _window(geometry, place_lps_mm, piece.radius_mm + max(geometry.spacing_mm))
    inside = _sampled(piece.mask.astype(np.float32), piece, geometry, window, place_lps_mm, turn, (1, 1, 1))
    return window, inside >= 0.5


def grain_hu(hu: FloatArray, where: NDArray[np.bool_]) -> float:
    """Noise of aerated lung in HU, from the differences of neighbours in the plane (median absolute deviation); 0 where
    there is too little lung."""
    lung = where & (hu > AERATED_HU[0]) & (hu < AERATED_HU[1])
    steps = [
        np.abs(np.diff(hu, axis=axis))[lung.take(range(1, n), axis) & lung.take(range(n - 1), axis)]
        for axis, n in enumerate(hu.shape[:2])
    ]
    found = np.concatenate(steps)
    return float(np.median(found) / 0.6745 / np.sqrt(2)) if found.size >= _FEWEST_VOXELS else 0.0


def random_turn(rng: np.random.Generator) -> Points:
    """A random rotation about the patient's long axis, perhaps with left and right or head and foot exchanged."""
    angle = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(angle), np.sin(angle)
    mirror = np.diag([rng.choice([-1.0, 1.0]), 1.0, rng.choice([-1.0, 1.0])])
    return np.asarray(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ mirror)


def _falling(away_mm: Points, full_mm: float, end_mm: float) -> Points:
    """1 up to the first distance, 0 from the second on, smooth between."""
    share = np.clip((end_mm - away_mm) / (end_mm - full_mm), 0, 1)
    return np.asarray(share**2 * (3 - 2 * share))


def _known(piece: Piece) -> FloatArray:
    return np.ones(piece.hu.shape, dtype=np.float32)


def _lung_hu(hu: FloatArray, where: NDArray[np.bool_]) -> float:
    lung = hu[where & (hu > AERATED_HU[0]) & (hu < AERATED_HU[1])]
    return float(np.median(lung)) if lung.size >= _FEWEST_VOXELS else USUAL_LUNG_HU


def _window(geometry: Geometry, place_lps_mm: Points, reach_mm: float) -> tuple[slice, slice, slice]:
    index = geometry.lps_mm_to_index(place_lps_mm)
    reach = reach_mm / np.asarray(geometry.spacing_mm)
    low = np.clip(np.floor(index - reach), 0, np.asarray(geometry.shape) - 1).astype(int)
    high = np.clip(np.ceil(index + reach) + 1, 1, geometry.shape).astype(int)
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return i, j, k


def _seen(
    values: FloatArray,
    piece: Piece,
    geometry: Geometry,
    window: tuple[slice, slice, slice],
    place_lps_mm: Points,
    turn: Points,
) -> FloatArray:
    """The mean of values on the piece's grid over each voxel of the window; 0 beyond the piece."""
    i, j, k = (max(1, int(np.ceil(mm / SAMPLE_MM - 1e-6))) for mm in geometry.spacing_mm)
    fine = _sampled(values, piece, geometry, window, place_lps_mm, turn, (i, j, k))
    a, b, c = (side.stop - side.start for side in window)
    return np.asarray(fine.reshape(a, i, b, j, c, k).mean(axis=(1, 3, 5)), dtype=np.float32)


def _sampled(
    values: FloatArray,
    piece: Piece,
    geometry: Geometry,
    window: tuple[slice, slice, slice],
    place_lps_mm: Points,
    turn: Points,
    samples: tuple[int, int, int],
) -> FloatArray:
    """Linear interpolation at so many places of each voxel along each axis, evenly spread."""
    share = np.asarray(samples)
    first = np.array([side.start for side in window]) + (1 / share - 1) / 2
    size = [(side.stop - side.start) * n for side, n in zip(window, samples, strict=True)]
    to_index = np.linalg.inv(piece.geometry.affine_lps[:3, :3]) @ turn.T
    step = to_index @ geometry.affine_lps[:3, :3] / share
    start = piece.geometry.lps_mm_to_index(
        piece.centre_lps_mm + turn.T @ (geometry.index_to_lps_mm(first) - place_lps_mm)
    )
    return np.asarray(ndimage.affine_transform(values, step, start, tuple(size), order=1, cval=0.0))


def _blurred(values: FloatArray, sigma_px: float) -> FloatArray:
    return values if not sigma_px else np.asarray(ndimage.gaussian_filter(values, (sigma_px, sigma_px, 0)))
