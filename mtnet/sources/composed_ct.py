"""Composed chest CT: real nodules of LIDC in the nodule-free lung of a real study, or of drawn chests."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.io.atomic import atomic_path
from mtnet.io.nifti_out import write_nifti
from mtnet.phantoms.canvas import FloatArray
from mtnet.sources import lidc_voi
from mtnet.sources.folds import FOLDS, fold_of, split_of
from mtnet.sources.layout import About, Draft, Found, Problems
from mtnet.sources.lung_grounds import Ground, drawn_ground, real_studies
from mtnet.sources.manifest import Numbers
from mtnet.sources.pasting import END_MM, Piece, paste, pasted_mask, piece_of, random_turn
from mtnet.structures import Geometry, Volume

ABOUT = About(
    title="Composed chest CT (synthetic): LIDC nodules pasted into the lung of real studies",
    licence="CC-BY-3.0 AND CC-BY-4.0",
    terms="free",
    cite="Armato SG III, et al. Data From LIDC-IDRI. TCIA, 2015. Setio AAA, et al. Med Image Anal 2017;42:1-13. Li P, "
    "et al. Lung-PET-CT-Dx. TCIA, 2020. Clark K, et al. J Digit Imaging 2013;26:1045-1057.",
    url="https://doi.org/10.7937/K9/TCIA.2015.LO9QL9SX",
)
ABOUT_DRAWN = About(
    title="Composed chest CT (synthetic): LIDC nodules pasted into drawn chests",
    licence="CC-BY-3.0 AND Apache-2.0",
    terms="free",
    cite=lidc_voi.ABOUT.cite,
    url=lidc_voi.ABOUT.url,
)
SYNTHETIC = "synthetic"
NODULES = (1, 6)
"""Fewest and most nodules of a case; it gets as many healthy patches."""
_FEWEST_VOXELS = 3
_DONORS = 12
_SPOTS = 20
_HEALTHY_BELOW_HU, _DENSE_HU, _DENSE_SHARE = -650.0, -400.0, 0.1
_FIRST_DRAWN = {"train": 0, "val": 200_000, "test": 300_000}
_COLUMNS = ("case", "kind", "number", "from", "x_lps_mm", "y_lps_mm", "z_lps_mm", "diameter_mm", "reader_rating")

Crops = Sequence[tuple[Path, Draft]]
Points = NDArray[np.float64]


@dataclass(slots=True, eq=False)
class _Case:
    """A case while it is being composed."""

    ground: Ground
    image: FloatArray
    numbers: NDArray[np.uint8]
    taken: list[tuple[Points, float]] = field(default_factory=list)
    boxes: list[Numbers] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    pasted: list[dict[str, Any]] = field(default_factory=list)

    @property
    def geometry(self) -> Geometry:
        return self.ground.volume.geometry

    def add(self, piece: Piece, rng: np.random.Generator) -> Points | None:
        """Paste a piece where there is room; None where there is none."""
        place = self.ground.place(piece.radius_mm, self.taken, rng)
        if place is None:
            return None
        turn, seed = random_turn(rng), int(rng.integers(2**31))
        window, inside = pasted_mask(self.geometry, piece, place, turn)
        if piece.mask.any():
            if inside.sum() < _FEWEST_VOXELS:
                return None
            self.numbers[window][inside] = len(self.boxes) + 1
            low = np.array([side.start for side in window])
            seen = np.argwhere(inside) + low
            self.boxes.append(tuple(float(v) for v in (*(seen.min(axis=0) - 0.5), *(seen.max(axis=0) + 0.5))))
        paste(self.image, self.geometry, piece, place, turn, seed)
        self.taken.append((place, piece.radius_mm))
        return place


def read(
    root: Path,
    problems: Problems,
    out: Path,
    *,
    background: Path | None,
    count: int,
    first: int = 0,
    spacing_mm: tuple[float, float, float],
    go_on: bool,
) -> Found:
    """Compose cases and write them as they are composed: ``<case>.nii.gz``, ``<case>_mask.nii.gz`` (numbers of the
    nodules) and ``pasted.csv``, which tells every nodule and healthy patch.

    Case ``n`` belongs to fold ``n`` modulo 5 and has nodules of that fold of ``lidc_voi`` alone, 1 to 6, each in turn,
    and as many patches of healthy lung pasted in the same way: from around LIDC's nodules where they fit there, so that
    the grain of a foreign scanner is no sign of a nodule, else from elsewhere in the ground. Fold 0 tests. A nodule for
    which no room is found is left out of its case.

    Values: ``nodules``, and of each by its number in the mask ``diameter_mm_1`` and ``reader_rating_1``. The group is
    the case: intervals over groups are over nodules and places, not over patients.

    Args:
        root: of ``lidc_voi``.
        problems: what is wrong goes here.
        out: folder for the files.
        background: a set in the layout of ``lung_pet_ct_dx``: left lungs train and validate, right lungs test
            (``Study.ground``). None draws chests: of family ``train`` to train, else ``held_out``.
        count: cases.
        first: number of the first; the others follow. A case depends on its number, on ``first`` and the sets alone.
        spacing_mm: of drawn chests.
        go_on: compose although files of the sets are broken.

    Raises:
        FileNotFoundError: a set is not there.
        ValueError: ``count`` makes no sense, or a fold has no nodules.
    """
    if count < 1:
        raise ValueError(f"{count} cases are asked for; expected 1 or more (--count).")
    _, crops = lidc_voi.read_crops(root, problems, out)
    folds: list[list[tuple[Path, Draft]]] = [[] for _ in range(FOLDS)]
    for crop in crops:
        folds[fold_of(f"lidc_voi:{crop[1].group}")].append(crop)
    ground_of = _grounds(background, problems, spacing_mm)
    about = ABOUT_DRAWN if background is None else ABOUT
    if problems and not go_on:
        return Found(root, about, ())
    missing = sorted({number % FOLDS for number in range(first, first + count) if not folds[number % FOLDS]})
    if missing:
        raise ValueError(
            f"{root} has no nodule of fold {missing[0]}, from which a case is asked for; expected more of it."
        )
    for fold, held in enumerate(folds):
        np.random.default_rng([fold, 11]).shuffle(held)
    out.mkdir(parents=True, exist_ok=True)
    drafts, rows, used = [], [], [0] * FOLDS
    for number in range(first, first + count):
        fold = number % FOLDS
        rng = np.random.default_rng([number, 23])
        wanted = int(rng.integers(NODULES[0], NODULES[1] + 1))
        problems.looked()
        chosen = [folds[fold][(used[fold] + n) % len(folds[fold])] for n in range(wanted)]
        used[fold] += wanted
        case = _composed(ground_of(number), chosen, folds[fold], rng)
        draft = _written(case, out, f"{case.ground.name}_{number:04d}", fold)
        drafts.append(draft)
        rows += [{"case": draft.name, **row} for row in case.pasted]
    table = out / "pasted.csv"
    with atomic_path(table) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, _COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return Found(
        root,
        about,
        tuple(drafts),
        boxes_from="annotation",
        grouped_by="composed",
        split_by="nodules",
        files={"pasted": table},
    )


def _grounds(
    background: Path | None, problems: Problems, spacing_mm: tuple[float, float, float]
) -> Callable[[int], Ground]:
    """The ground of a case by its number."""
    if background is None:

        def drawn(number: int) -> Ground:
            split = split_of(number % FOLDS)
            return drawn_ground(_FIRST_DRAWN[split] + number, split, spacing_mm)

        return drawn
    studies = real_studies(background, problems)
    if not studies:
        raise ValueError(f"{background} has no study with two lungs to paste nodules into.")

    @cache
    def of_study(place: int, test: bool) -> Ground:
        return studies[place].ground("test" if test else "train")

    return lambda number: of_study(number // FOLDS % len(studies), split_of(number % FOLDS) == "test")


def _composed(ground: Ground, chosen: Crops, donors: Crops, rng: np.random.Generator) -> _Case:
    volume = ground.volume
    case = _Case(ground, volume.array[0].astype(np.float32), np.zeros(volume.geometry.shape, dtype=np.uint8))
    sizes = []
    for path, draft in chosen:
        crop = lidc_voi.load_crop(path)
        piece = piece_of(crop.image, crop.mask.array[0] > 0, nodule=True)
        place = case.add(piece, rng)
        if place is None:
            continue
        number = len(case.boxes)
        told = {key: draft.values[key] for key in ("diameter_mm", "reader_rating") if key in draft.values}
        case.values |= {f"{key}_{number}": value for key, value in told.items()}
        case.pasted.append({"kind": "nodule", "number": number, "from": draft.name, **_where(place), **told})
        sizes.append(draft.values.get("diameter_mm", 2 * piece.radius_mm))
    for diameter_mm in sizes:
        patch, source = _healthy(case, diameter_mm, donors, rng)
        place = None if patch is None else case.add(patch, rng)
        if place is not None:
            case.pasted.append(
                {"kind": "healthy", "from": source, **_where(place), "diameter_mm": round(diameter_mm, 2)}
            )
    case.values["nodules"] = float(len(case.boxes))
    return case


def _healthy(case: _Case, diameter_mm: float, donors: Crops, rng: np.random.Generator) -> tuple[Piece | None, str]:
    """A ball of healthy lung and where it is from; None where no place of the ground has so much."""
    radius = diameter_mm / 2
    for number in rng.permutation(len(donors))[:_DONORS]:
        path, draft = donors[number]
        crop = lidc_voi.load_crop(path)
        ball = _healthy_ball(crop, radius, rng)
        if ball is not None:
            return piece_of(crop.image, ball, nodule=False), draft.name
    place = case.ground.place(radius + END_MM, case.taken, rng)
    if place is None:
        return None, ""
    volume = case.ground.volume
    reach = (radius + END_MM + 4) / np.asarray(volume.geometry.spacing_mm) + 1
    index = volume.geometry.lps_mm_to_index(place)
    low = np.maximum(np.floor(index - reach), 0).astype(int)
    high = np.minimum(np.ceil(index + reach) + 1, volume.geometry.shape).astype(int)
    affine = volume.geometry.affine_lps.copy()
    affine[:3, 3] = volume.geometry.index_to_lps_mm(low)
    block = volume.array[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    cut = Volume(block, Geometry(block.shape[1:], affine), "CT")
    return piece_of(cut, _ball(cut.geometry, place, radius), nodule=False), case.ground.name


def _healthy_ball(crop: lidc_voi.Crop, radius_mm: float, rng: np.random.Generator) -> NDArray[np.bool_] | None:
    """A ball in a crop, cut off where the crop ends along k, beside the nodule and in aerated lung; None where there is
    none."""
    from scipy import ndimage

    grid, hu, mask = crop.image.geometry, crop.image.array[0], crop.mask.array[0] > 0
    away = ndimage.distance_transform_edt(~mask, sampling=grid.spacing_mm)
    spots = np.argwhere(away > radius_mm + END_MM)
    margin = np.ceil((radius_mm + END_MM) / np.asarray(grid.spacing_mm[:2])).astype(int)
    inner = ((spots[:, :2] >= margin) & (spots[:, :2] < np.asarray(grid.shape[:2]) - margin)).all(axis=1)
    spots = spots[inner]
    for spot in spots[rng.integers(0, len(spots), _SPOTS)] if len(spots) else []:
        ball = _ball(grid, grid.index_to_lps_mm(spot), radius_mm)
        values = hu[ball]
        if values.mean() < _HEALTHY_BELOW_HU and (values > _DENSE_HU).mean() < _DENSE_SHARE:
            return ball
    return None


def _ball(grid: Geometry, centre_lps_mm: Points, radius_mm: float) -> NDArray[np.bool_]:
    places = grid.index_to_lps_mm(np.moveaxis(np.indices(grid.shape), 0, -1))
    away = np.linalg.norm(places - centre_lps_mm, axis=-1)
    return np.asarray(away <= max(radius_mm, float(away.min())))


def _where(place_lps_mm: Points) -> dict[str, float]:
    return {f"{axis}_lps_mm": round(float(v), 2) for axis, v in zip("xyz", place_lps_mm, strict=True)}


def _written(case: _Case, out: Path, name: str, fold: int) -> Draft:
    image, mask = out / f"{name}.nii.gz", out / f"{name}_mask.nii.gz"
    array = np.clip(np.rint(case.image), -32768, 32767).astype(np.int16)
    write_nifti(Volume(array[None], case.geometry, "CT"), image)
    write_nifti(Volume(case.numbers[None], case.geometry), mask)
    boxes = tuple(case.boxes)
    return Draft(
        name=name,
        image=image,
        masks=(mask,) if boxes else (),
        boxes=boxes,
        boxes_lps_mm=tuple(tuple(round(float(v), 4) for v in case.geometry.box_index_to_lps_mm(box)) for box in boxes),
        excluded_boxes=case.ground.excluded_boxes,
        values=case.values,
        flags=(SYNTHETIC,),
        group=name,
        official=split_of(fold),
        official_fold=fold,
    )
