"""Drawing nodules into the lung of a CT that is given, so that it is known where they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mtnet.phantoms.baseline import lung_field
from mtnet.phantoms.canvas import Canvas, FloatArray
from mtnet.phantoms.families import FAMILIES, Family
from mtnet.phantoms.nodules import DrawnNodule, Nodule, NoduleRequest, Points, random_diameter, random_nodule
from mtnet.phantoms.scanner import gaussian, profile_margin, slice_weights
from mtnet.structures import Geometry, Volume

SUB_SLICE_MM = 1.0
SOFT_TISSUE_HU = (0, 90)
ROOM_MM = 1.7


def implant_nodules(
    volume: Volume,
    seed: int,
    nodules: int | Sequence[NoduleRequest] = 3,
    *,
    family: Family = "train",
    psf_sigma_mm: float = 0.6,
    slice_thickness_mm: float | None = None,
) -> tuple[Volume, tuple[DrawnNodule, ...]]:
    """Draw nodules into the aerated lung of a CT, blurred and with noise like their surroundings.

    Every nodule is drawn on thin slices, blurred in the plane, averaged over the slice profile and mixed in by its
    fraction of each voxel, ``new = old (1 - F) + G``. Places lie in the lung field with air all around, far from each
    other; a request with a centre is drawn there.

    Args:
        volume: CT in HU, ``(1, i, j, k)``, index axes along the patient's in any order and sign.
        seed: of everything random.
        nodules: how many, or which ones (diameters of 8 to 22 mm unless asked for otherwise; place ``parenchyma``).
        family: whose shapes and textures.
        psf_sigma_mm: in-plane blur of the reconstruction.
        slice_thickness_mm: by default the spacing along the slice axis k.

    Returns:
        The new volume (same grid, type and modality) and the truth, in the order of the requests.

    Raises:
        ValueError: the grid is oblique, or there is no room for a nodule.
    """
    view, geometry = along_lps(volume)
    image = view.astype(np.float32)
    rng = np.random.default_rng([seed, 77])
    requests = [NoduleRequest()] * nodules if isinstance(nodules, int) else list(nodules)
    thickness = float(geometry.spacing_mm[2] if slice_thickness_mm is None else slice_thickness_mm)
    noise_hu = _noise_hu(image)
    room: tuple[FloatArray, Geometry] | None = None
    drawn: list[Nodule] = []
    for request in requests:
        diameter = request.diameter_mm
        while diameter is None or (request.diameter_mm is None and not 8 <= diameter <= 22):
            diameter = random_diameter(rng)
        if request.centre_lps_mm is None:
            room = lung_room(Volume(image[None], geometry, "CT")) if room is None else room
            centre = _free_place(room, diameter, drawn, rng)
        else:
            centre = np.asarray(request.centre_lps_mm, dtype=np.float64)
        style = FAMILIES[family].nodules
        nodule = random_nodule(
            rng,
            style,
            request,
            centre_mm=centre,
            diameter_mm=diameter,
            place=request.place or "parenchyma",
            limit=None,
        )
        _mix(
            image,
            geometry,
            nodule,
            seed=int(rng.integers(2**31)),
            psf_mm=psf_sigma_mm,
            thickness_mm=thickness,
            noise_hu=noise_hu,
        )
        drawn.append(nodule)
    array = np.array(volume.array)
    target, _ = along_lps(Volume(array, volume.geometry))
    if np.issubdtype(array.dtype, np.integer):
        limits = np.iinfo(array.dtype)
        image = np.clip(np.rint(image), limits.min, limits.max)
    target[:] = image.astype(array.dtype)
    lesions = tuple(nodule.truth(n, volume.geometry) for n, nodule in enumerate(drawn, start=1))
    return Volume(array, volume.geometry, volume.modality, volume.report), lesions


def along_lps(volume: Volume) -> tuple[NDArray[np.generic], Geometry]:
    """A view of the array with axes along +L, +P, +S, and that view's grid."""
    direction = volume.geometry.direction_lps
    order = [int(np.abs(direction[row]).argmax()) for row in range(3)]
    signs = [float(direction[row, axis]) for row, axis in enumerate(order)]
    if sorted(order) != [0, 1, 2] or min(abs(s) for s in signs) < 0.9999:
        raise ValueError(
            "implant_nodules: the volume's axes are not along the patient's (oblique grid); resample it to an "
            "LPS-aligned grid first."
        )
    view = np.transpose(volume.array[0], order)
    flips = tuple(slice(None, None, -1 if s < 0 else 1) for s in signs)
    corner = np.zeros(3)
    for axis, sign in zip(order, signs, strict=True):
        corner[axis] = volume.geometry.shape[axis] - 1 if sign < 0 else 0
    spacing = [volume.geometry.spacing_mm[axis] for axis in order]
    origin = volume.geometry.index_to_lps_mm(corner)
    return view[flips], Geometry.from_parts(view.shape, spacing, origin.tolist())


def _noise_hu(image: FloatArray) -> float:
    """Noise in soft tissue from the differences of neighbours (median absolute deviation)."""
    a, b = image[:-1, ::2, ::2], image[1:, ::2, ::2]
    low, high = SOFT_TISSUE_HU
    soft = (a > low) & (a < high) & (b > low) & (b < high)
    if soft.sum() < 100:
        return 0.0
    return float(np.median(np.abs(a[soft] - b[soft])) / 0.6745 / np.sqrt(2))


def lung_room(volume: Volume) -> tuple[FloatArray, Geometry]:
    """Distance in mm to the edge of the aerated lung, large vessels left out, and the coarser grid that it is on."""
    step = np.maximum(np.round(ROOM_MM / np.asarray(volume.geometry.spacing_mm)), 1).astype(int)
    every = tuple(slice(None, None, n) for n in step)
    field = lung_field(volume, close_mm=4.0)[every]
    dense = ndimage.binary_opening(volume.array[0][every] > -500, np.ones((3, 3, 1), dtype=bool))
    spacing = np.asarray(volume.geometry.spacing_mm) * step
    reach = ndimage.distance_transform_edt(field & ~dense, sampling=spacing)
    geometry = Geometry.from_parts(reach.shape, spacing.tolist(), volume.geometry.origin_lps_mm)
    return np.asarray(reach, dtype=np.float32), geometry


def _free_place(
    room: tuple[FloatArray, Geometry], diameter: float, placed: Sequence[Nodule], rng: np.random.Generator
) -> Points:
    """A random voxel's surroundings with room for the nodule, away from the others."""
    reach, geometry = room
    candidates = np.argwhere(reach > diameter / 2 + 2)
    if len(candidates) == 0:
        raise ValueError(
            f"implant_nodules: no place in the aerated lung has room for a nodule of {diameter:.0f} mm; ask for a "
            "smaller one or give its centre."
        )
    picks = candidates[rng.integers(0, len(candidates), 500)] + rng.uniform(-0.5, 0.5, (500, 3))
    points = geometry.index_to_lps_mm(picks)
    for other in placed:
        away = np.linalg.norm(points - other.shape.centre_mm, axis=1)
        points = points[away > diameter + float(other.shape.radii_mm.mean()) + 10]
    if len(points) == 0:
        raise ValueError("implant_nodules: no free place is left between the other nodules; ask for fewer.")
    return np.asarray(points[0])


def _mix(
    image: FloatArray,
    geometry: Geometry,
    nodule: Nodule,
    *,
    seed: int,
    psf_mm: float,
    thickness_mm: float,
    noise_hu: float,
) -> None:
    """Draw one nodule into the image, in place."""
    spacing = np.asarray(geometry.spacing_mm)
    reach = 2.6 * float(nodule.shape.radii_mm.max()) + 3 * psf_mm + thickness_mm
    index = geometry.lps_mm_to_index(nodule.shape.centre_mm)
    start = np.maximum(np.floor(index - reach / spacing), 0).astype(int)
    stop = np.minimum(np.ceil(index + reach / spacing) + 1, geometry.shape).astype(int)
    if (start >= stop).any():
        raise ValueError("implant_nodules: the centre that was asked for lies outside the volume.")
    sub = int(np.ceil(spacing[2] / SUB_SLICE_MM))
    weights = slice_weights(sub, int(stop[2] - start[2]), thickness_mm * sub / spacing[2])
    step = np.array([spacing[0], spacing[1], spacing[2] / sub])
    origin = geometry.index_to_lps_mm(start) - [0, 0, profile_margin(thickness_mm * sub / spacing[2]) * step[2]]
    canvas = Canvas.of(Geometry.from_parts((*(stop - start)[:2], weights.shape[1]), step.tolist(), origin.tolist()))
    on_dark, on_light = (np.full(canvas.shape, hu, dtype=np.float32) for hu in (-1000, -900))
    for ground in (on_dark, on_light):
        nodule.draw(canvas, ground, np.random.default_rng(seed))
    fraction = np.asarray(1 - (on_light - on_dark) / 100, dtype=np.float32)
    share = _seen(fraction, psf_mm, spacing, weights)
    value = _seen(np.asarray(on_dark + 1000 * (1 - fraction), dtype=np.float32), psf_mm, spacing, weights)
    view = image[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    white = np.random.default_rng([seed, 1]).standard_normal(view.shape, dtype=np.float32)
    grain = gaussian(gaussian(white, 0.6, 0), 0.6, 1)
    grain *= np.float32(noise_hu / max(float(grain.std()), 1e-6))
    mixed = view * (1 - share) + value + share * grain
    if nodule.texture in ("ground_glass", "part_solid"):
        mixed = np.where(share > 0, np.maximum(mixed, view), view)
    view[:] = mixed


def _seen(fine: FloatArray, psf_mm: float, spacing: Points, weights: FloatArray) -> FloatArray:
    """What the scanner makes of a field on thin slices."""
    blurred = gaussian(gaussian(fine, psf_mm / float(spacing[0]), 0), psf_mm / float(spacing[1]), 1)
    return np.asarray(blurred @ weights.T, dtype=np.float32)
