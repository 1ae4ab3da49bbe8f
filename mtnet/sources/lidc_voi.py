"""Crops around LIDC-IDRI nodules (``.npz`` with image, mask and affine, and ``index.csv``), written as NIfTI."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtnet.io.nifti_out import write_nifti
from mtnet.sources.layout import About, Draft, Found, Problem, Problems, set_root
from mtnet.structures.geometry import Geometry
from mtnet.structures.volume import Volume

ABOUT = About(
    title="LIDC-IDRI nodules, volumes of interest",
    licence="CC-BY-3.0",
    terms="free",
    cite="Armato SG III, McLennan G, Bidaut L, et al. Data From LIDC-IDRI. The Cancer Imaging Archive, 2015. Setio "
    "AAA, et al. Med Image Anal 2017;42:1-13. Clark K, et al. J Digit Imaging 2013;26:1045-1057.",
    url="https://doi.org/10.7937/K9/TCIA.2015.LO9QL9SX",
)
LOW_SUSPICION, HIGH_SUSPICION = "low_reader_suspicion", "high_reader_suspicion"
PLACE_FROM_MASK = "place_from_mask"
"""Flag of a nodule whose place in the table lies outside of its own crop: its mask tells the place."""
_INDETERMINATE = 3
_NUMBERS = {
    "diameter_mm": "diameter_mm",
    "Malignancy_value": "reader_rating",
    "Calcification_value": "reader_calcification",
    "InternalStructure_value": "reader_internal_structure",
    "Lobulation_value": "reader_lobulation",
    "Margin_value": "reader_margin",
    "Sphericity_value": "reader_sphericity",
    "Spiculation_value": "reader_spiculation",
    "Subtlety_value": "reader_subtlety",
    "Texture_value": "reader_texture",
    "len_mal_details": "readings",
}
_COLUMNS = ("file", "patient_id", "coordX", "coordY", "coordZ", "diameter_mm", "Malignancy_value")


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """One nodule: CT in HU and mask on its grid."""

    image: Volume
    mask: Volume


def read(root: Path, problems: Problems, out: Path) -> Found:
    """Read ``index.csv`` and the crops that it names.

    The crops' ``affine`` is RAS+ (NIfTI's); their voxels keep order and value. Class: ``reader_rating`` above 3 is
    ``high_reader_suspicion``, below 3 ``low_reader_suspicion``, 3 has none. The group is the patient. Values named
    ``crop_...`` say how the crop was cut; its size tells the nodule's, so they are no input. A nodule whose place in
    the table lies outside of its crop is where its mask is, and flagged.

    Args:
        root: the set's folder.
        problems: what is wrong goes here.
        out: folder for the NIfTI files, ``<nodule>.nii.gz`` and ``<nodule>_mask.nii.gz``, written by ``Found.write``.

    Raises:
        FileNotFoundError: there is no ``index.csv``.
        ValueError: it lacks a column.
    """
    root, crops = read_crops(root, problems, out)
    return Found(
        root,
        ABOUT,
        tuple(draft for _, draft in crops),
        boxes_from="mask_components",
        grouped_by="patient",
        write=partial(_write, crops, out),
    )


def read_crops(root: Path, problems: Problems, out: Path) -> tuple[Path, list[tuple[Path, Draft]]]:
    """Where the set lies, and each crop's ``.npz`` with what the table says of it; arguments and errors as ``read``."""
    root = set_root(root, lambda folder: (folder / "index.csv").is_file(), "a file index.csv and a folder nodules.")
    crops: list[tuple[Path, Draft]] = []
    named: set[Path] = set()
    for row in _rows(root / "index.csv"):
        path = root / (row["file"] or "")
        if path in named:
            problems.append(Problem(path, "index.csv names it twice"))
            continue
        named.add(path)
        draft = _draft(path, row, out, problems)
        if draft is not None:
            crops.append((path, draft))
    for path in sorted((root / "nodules").rglob("*")) if (root / "nodules").is_dir() else []:
        if path.is_file() and path not in named and not path.name.startswith("."):
            problems.append(Problem(path, "foreign file: index.csv does not name it"))
    return root, crops


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path.name} has no column {', '.join(missing)}.")
        yield from reader


def _draft(path: Path, row: Mapping[str, str], out: Path, problems: Problems) -> Draft | None:
    problems.looked()
    try:
        crop = load_crop(path)
        values = {name: float(row[column]) for column, name in _NUMBERS.items() if row.get(column)}
        centre = float(row["coordX"]), float(row["coordY"]), float(row["coordZ"])
    except FileNotFoundError:
        problems.append(Problem(path, "missing: index.csv names it"))
        return None
    except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        problems.append(Problem(path, f"unreadable: {error}"))
        return None
    geometry = crop.image.geometry
    box = _extent(crop.mask.array[0])
    flags: tuple[str, ...] = ()
    if any(
        not -0.5 <= at < size - 0.5 for at, size in zip(geometry.lps_mm_to_index(centre), geometry.shape, strict=True)
    ):
        flags = (PLACE_FROM_MASK,)
        middle = [(low + high) / 2 for low, high in zip(box[:3], box[3:], strict=True)]
        x, y, z = (round(float(v), 4) for v in geometry.index_to_lps_mm(middle))
        centre = x, y, z
    rating = values.get("reader_rating")
    indeterminate = rating is None or rating == _INDETERMINATE
    spacing = geometry.spacing_mm
    for axis, name in enumerate("ijk"):
        values[f"crop_voxels_{name}"] = float(geometry.shape[axis])
        values[f"crop_spacing_{name}_mm"] = round(spacing[axis], 6)
    return Draft(
        name=path.stem,
        image=out / f"{path.stem}.nii.gz",
        masks=(out / f"{path.stem}_mask.nii.gz",),
        boxes=(box,),
        boxes_lps_mm=(tuple(round(float(v), 4) for v in geometry.box_index_to_lps_mm(box)),),
        image_class=None if indeterminate else HIGH_SUSPICION if (rating or 0) > _INDETERMINATE else LOW_SUSPICION,
        values=values,
        centre_lps_mm=centre,
        flags=flags,
        group=row["patient_id"],
    )


def load_crop(path: Path) -> Crop:
    """The crop and its mask on their grid.

    Raises:
        FileNotFoundError, OSError, zipfile.BadZipFile, EOFError: the file is not there or broken.
        ValueError, KeyError: an array is missing or of another kind than expected.
    """
    # numpy leaves a file open that it opened itself and could not read.
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as held:
        image, mask, affine = held["image"], held["mask"], held["affine"]
    if image.ndim != 3 or image.shape != mask.shape:
        raise ValueError(f"size mismatch: image {image.shape}, mask {mask.shape}")
    if image.dtype != np.int16 or not np.isin(mask, (0, 1)).all():
        raise ValueError("expected an image of int16 HU and a mask of 0 and 1")
    if not mask.any():
        raise ValueError("its mask is empty")
    geometry = Geometry.from_ras(image.shape, affine)
    return Crop(Volume(image[None], geometry, "CT"), Volume(mask.astype(np.uint8)[None], geometry))


def _extent(mask: NDArray[np.generic]) -> tuple[float, ...]:
    """The half-open box of everything that is set."""
    places = np.argwhere(mask)
    return (*(float(v) - 0.5 for v in places.min(axis=0)), *(float(v) + 0.5 for v in places.max(axis=0)))


def _write(crops: Sequence[tuple[Path, Draft]], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for path, draft in crops:
        crop = load_crop(path)
        write_nifti(crop.image, draft.image)
        write_nifti(crop.mask, out / f"{draft.name}_mask.nii.gz")
