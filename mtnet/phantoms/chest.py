"""One drawn chest CT with nodules and the truth about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtnet.phantoms.anatomy import Anatomy
from mtnet.phantoms.canvas import Canvas, FloatArray, blend
from mtnet.phantoms.families import FAMILIES, Family, FamilyStyle
from mtnet.phantoms.nodules import (
    PLACES,
    DrawnNodule,
    Nodule,
    NoduleRequest,
    Place,
    Points,
    random_diameter,
    random_nodule,
)
from mtnet.phantoms.scanner import profile_margin, slice_weights
from mtnet.phantoms.skeleton import draw_front, draw_ribs, draw_spine
from mtnet.phantoms.tissue import (
    Mood,
    Trees,
    draw_clutter,
    draw_trees,
    draw_trunk,
    draw_vessels_of_mediastinum,
    grow_trees,
    parenchyma,
)
from mtnet.structures import Geometry, Volume

FINE_SLICE_MM = 1.7


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    """A drawn study and the truth about it.

    Args:
        volume: ``(1, i, j, k)`` int16 HU, index axes along LPS.
        lesion_map: ``(i, j, k)`` uint16, the number of the nodule whose drawn shape holds the voxel's centre, else 0.
        lung_mask: ``(i, j, k)`` bool, lungs with their vessels and nodules.
        lesions: in order of their numbers.
        image_classes: facts about the whole image: ``nodule`` (any of 4 mm and more) and ``emphysema``.
        family: the family that it is drawn from.
        seed: the seed that it is drawn from.
        slice_thickness_mm: over which the scanner averages along z.
    """

    volume: Volume
    lesion_map: NDArray[np.uint16]
    lung_mask: NDArray[np.bool_]
    lesions: tuple[DrawnNodule, ...]
    image_classes: Mapping[str, bool]
    family: Family
    seed: int
    slice_thickness_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class _Patient:
    anatomy: Anatomy
    mood: Mood
    style: FamilyStyle
    trees: Trees


def draw_chest(
    seed: int,
    *,
    family: Family = "train",
    spacing_mm: tuple[float, float, float] = (1.5, 1.5, 1.5),
    shape: tuple[int, int, int] | None = None,
    slice_thickness_mm: float | None = None,
    resample_k_mm: float | None = None,
    nodules: int | Sequence[NoduleRequest] | None = None,
    noise: bool = True,
) -> Phantom:
    """Draw one chest CT. The same arguments give the same bytes (on one machine and one set of libraries).

    Args:
        seed: everything random follows from it and from ``family``.
        family: ``train`` or ``held_out`` (other texture, noise and nodules; more thickened vessel junctions, rib ends
            and nodules at the pleura).
        spacing_mm: of the voxels along i, j, k; thick slices (``(0.8, 0.8, 5.0)``) are averaged from finer ones.
        shape: voxels; by default the whole chest fits. The grid is centred on the chest.
        slice_thickness_mm: slice profile's width; by default the spacing along k.
        resample_k_mm: interpolate the slices linearly to this spacing along k afterwards, as preprocessing does with a
            thick-slice study; the truth is then that on the finer grid.
        nodules: how many, or which ones; by default a random number from 0 to 12.
        noise: whether the scanner adds noise.

    Raises:
        ValueError: a spacing, thickness or family makes no sense.
    """
    if family not in FAMILIES:
        raise ValueError(f"draw_chest: family is {family!r}; expected one of {', '.join(FAMILIES)}.")
    thickness = spacing_mm[2] if slice_thickness_mm is None else slice_thickness_mm
    if min(*spacing_mm, thickness, resample_k_mm or 1) <= 0:
        raise ValueError(
            f"draw_chest: spacing_mm {spacing_mm}, slice_thickness_mm {thickness} and resample_k_mm {resample_k_mm} "
            "must be above 0."
        )
    style = FAMILIES[family]
    rngs = [np.random.default_rng([seed, sorted(FAMILIES).index(family), n]) for n in range(8)]
    anatomy, mood, scanner = Anatomy.random(rngs[0]), Mood.random(rngs[1]), style.scanner(rngs[2])
    target = _grid(anatomy, spacing_mm, shape, rngs[0])

    sub = max(1, int(np.ceil(min(thickness, spacing_mm[2]) / FINE_SLICE_MM - 1e-6)))
    sub = 1 if thickness <= FINE_SLICE_MM or min(spacing_mm[:2]) >= 3 else sub
    weights = slice_weights(sub, target.shape[2], thickness * sub / spacing_mm[2])
    margin = profile_margin(thickness * sub / spacing_mm[2])
    step = spacing_mm[2] / sub
    origin = np.asarray(target.origin_lps_mm) - [0, 0, margin * step]
    fine = Geometry.from_parts((*target.shape[:2], weights.shape[1]), (*spacing_mm[:2], step), origin.tolist())

    canvas = Canvas.of(fine)
    patient = _Patient(anatomy, mood, style, grow_trees(anatomy, style, canvas.edge_mm, rngs[3]))
    drawn = _place(patient, target, nodules, rngs[4])
    image, lung_fraction = _draw(canvas, patient, drawn, rngs[5])
    image = scanner.blur(image, fine.spacing_mm)
    if weights.shape[1] != target.shape[2]:
        image = image @ weights.T
        lung_fraction = lung_fraction @ weights.T
    if noise:
        image += scanner.noise(rngs[6], target.shape, target.spacing_mm)
    image = np.clip(np.rint(image), -1024, 3071)
    if resample_k_mm is not None:
        between, target = _between_slices(target, resample_k_mm)
        image, lung_fraction = image @ between.T, lung_fraction @ between.T
    array = np.rint(image).astype(np.int16)[None]

    flat = Canvas.of(target)
    lesion_map = np.zeros(target.shape, dtype=np.uint16)
    lesions = tuple(nodule.truth(number, target) for number, nodule in enumerate(drawn, start=1))
    for nodule, truth in zip(drawn, lesions, strict=True):
        nodule.mask(flat, lesion_map, truth)
    return Phantom(
        volume=Volume(array, target, "CT"),
        lesion_map=lesion_map,
        lung_mask=(lung_fraction >= 0.5) | (lesion_map > 0),
        lesions=lesions,
        image_classes={"nodule": any(n.diameter_mm >= 4 for n in lesions), "emphysema": mood.emphysema > 0},
        family=family,
        seed=seed,
        slice_thickness_mm=float(thickness),
    )


def _grid(
    anatomy: Anatomy,
    spacing_mm: tuple[float, float, float],
    shape: tuple[int, int, int] | None,
    rng: np.random.Generator,
) -> Geometry:
    """The voxel grid: given, or the chest with a random margin."""
    wall = anatomy.fat + anatomy.muscle + 18
    margin = rng.uniform((4, 4, 4), (22, 22, 22))
    size = np.array([2 * (anatomy.half_width + wall), 2 * (anatomy.half_depth + wall), anatomy.apex_z - anatomy.base_z])
    middle = np.array([0.0, 0.0, (anatomy.apex_z + anatomy.base_z) / 2])
    counts = np.ceil((size + margin) / spacing_mm).astype(int) if shape is None else np.asarray(shape)
    origin = middle - (counts - 1) / 2 * np.asarray(spacing_mm)
    return Geometry.from_parts(counts.tolist(), spacing_mm, np.round(origin, 3).tolist())


def _between_slices(source: Geometry, spacing_k_mm: float) -> tuple[FloatArray, Geometry]:
    """Weights ``(new slices, slices)`` of linear interpolation to another spacing along k, and the new grid."""
    old, new = source.spacing_mm[2], spacing_k_mm
    count = int(np.floor((source.shape[2] - 1) * old / new + 1e-6)) + 1
    at = np.arange(count) * new / old
    weights = np.maximum(1 - np.abs(at[:, None] - np.arange(source.shape[2])), 0).astype(np.float32)
    spacing = (*source.spacing_mm[:2], new)
    return weights, Geometry.from_parts((*source.shape[:2], count), spacing, source.origin_lps_mm)


def _draw(
    canvas: Canvas, patient: _Patient, nodules: Sequence[Nodule], rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """The ideal image and the fraction of each voxel that is lung."""
    anatomy, mood, style = patient.anatomy, patient.mood, patient.style
    x, y, z = canvas.x, canvas.y, canvas.z
    cavity = anatomy.cavity(x, y, z)
    image = draw_trunk(canvas, anatomy, mood, cavity, rng)
    draw_vessels_of_mediastinum(canvas, image, anatomy, mood, rng)
    draw_spine(canvas, image, anatomy, rng)
    rib_ends = draw_ribs(canvas, image, anatomy, cavity, rng)
    draw_front(canvas, image, anatomy, rng)
    del cavity
    lung = canvas.fraction(anatomy.lung(x, y, z))
    blend(image, lung, parenchyma(canvas, anatomy, mood, style, rng))
    draw_trees(canvas, image, patient.trees, mood)
    for box, fraction in draw_clutter(canvas, image, anatomy, style=style, rib_ends=rib_ends, rng=rng):
        lung[box] *= 1 - fraction
    for nodule in nodules:
        nodule.draw(canvas, image, rng)
    return image, lung


def _place(
    patient: _Patient, target: Geometry, wanted: int | Sequence[NoduleRequest] | None, rng: np.random.Generator
) -> list[Nodule]:
    """Find a place for every nodule, largest first; one that fits nowhere is left out."""
    if wanted is None:
        wanted = 0 if rng.random() < 0.06 else int(rng.integers(1, 13))
    requests = [NoduleRequest()] * wanted if isinstance(wanted, int) else list(wanted)
    sized = [(r, r.diameter_mm if r.diameter_mm is not None else random_diameter(rng)) for r in requests]
    placed: list[Nodule] = []
    for request, diameter in sorted(sized, key=lambda pair: -pair[1]):
        place = request.place or PLACES[rng.choice(3, p=patient.style.nodules.place_weights)]
        if request.centre_lps_mm is not None:
            centre: Points | None = np.asarray(request.centre_lps_mm, dtype=np.float64)
        else:
            centre = _find(patient, target, place, diameter, placed=placed, rng=rng)
        if centre is None:
            continue
        nodule = random_nodule(
            rng,
            patient.style.nodules,
            request,
            centre_mm=centre,
            diameter_mm=diameter,
            place=place,
            limit=patient.anatomy.lung_at,
        )
        placed.append(nodule)
    return placed


def _find(
    patient: _Patient,
    target: Geometry,
    place: Place,
    diameter: float,
    *,
    placed: Sequence[Nodule],
    rng: np.random.Generator,
) -> Points | None:
    """A free centre of the wanted kind, or None."""
    anatomy, trees = patient.anatomy, patient.trees
    r = diameter / 2
    if place == "vessel":
        low_mm, high_mm = patient.style.stem_radius_mm
        fitting = trees.blood[(trees.blood[:, 7] > low_mm) & (trees.blood[:, 7] < high_mm)]
        if len(fitting) == 0:
            return None
        start = fitting[rng.integers(0, len(fitting), 400)]
        side = rng.normal(size=(400, 3))
        side /= np.linalg.norm(side, axis=1, keepdims=True)
        points = (start[:, :3] + start[:, 3:6]) / 2 + side * (rng.uniform(0.5, 1.0, (400, 1)) * r)
    else:
        low = (-anatomy.half_width, -anatomy.half_depth, anatomy.base_z)
        high = (anatomy.half_width, anatomy.half_depth, anatomy.apex_z)
        points = rng.uniform(low, high, (3000, 3))
    depth = anatomy.lung_at(points)
    if place == "pleura":
        cavity = anatomy.cavity(*(points[:, a].astype(np.float32) for a in range(3)))
        costal = np.abs(cavity - depth) < 1.5
        fits = (depth < -0.25 * r) & (depth > -0.85 * r) & (costal | (rng.random(len(points)) < 0.1))
    else:
        fits = depth < -(1.3 * r + 2)
    for hilum in anatomy.hila:
        fits &= np.linalg.norm(points - hilum, axis=1) > r + 16
    index = target.lps_mm_to_index(points)
    reach = (1.35 * r + 1) / np.asarray(target.spacing_mm)
    fits &= ((index - reach > -0.5) & (index + reach < np.asarray(target.shape) - 0.5)).all(axis=1)
    for other in placed:
        gap = 1.35 * (r + float(other.shape.radii_mm.mean())) + 4
        fits &= np.linalg.norm(points - other.shape.centre_mm, axis=1) > gap
    found = np.flatnonzero(fits)
    return points[found[0]] if len(found) else None
